// SPDX-License-Identifier: Apache-2.0
//! What the CNI plugin asks for, put together: facts about the pod from whoever knows them, the rules' decision, and
//! enrolment. A pod about which nothing certain is known is not let in and not let past: the runtime asks again.

use std::{future::Future, path::Path};

use serde::Deserialize;

use crate::{
    enrol::{AddError, Enrolment, RemoveError, State, Status},
    netns::{Netns, NetnsId},
    objects::{NamespaceObject, PodObject},
    pod::{Exclusions, Pod, PodError, PodJson, Uid},
    rules::{Reason, Rules, Verdict},
};

/// Who knows the pods of this node.
pub trait Directory: Send + Sync + 'static {
    /// A pod, and its namespace as it is now; `uid` is what the runtime knows the pod by.
    fn pod(
        &self,
        namespace: &str,
        name: &str,
        uid: Option<&str>,
    ) -> impl Future<Output = Result<Entry, Unknown>> + Send;
}

/// What a directory knows about a pod.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The pod.
    pub pod: PodObject,
    /// Its namespace.
    pub namespace: NamespaceObject,
}

/// Why nothing certain is known about a pod.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    /// There is none of this name, or its namespace is gone.
    #[error("the API server has no {what} {name}")]
    Absent {
        /// `pod` or `namespace`.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// The directory does not answer.
    #[error("whether pod {name} is in the mesh cannot be known now")]
    Unanswered {
        /// Of the pod.
        name: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A container's end of a network, as the plugin tells of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    container_id: String,
    /// Empty for what has no namespace any more.
    netns: String,
    namespace: String,
    name: String,
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    ips: Vec<String>,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// It is captured and served.
    Enrolled,
    /// It is none of ours.
    Outside(Reason),
}

/// Why a pod must not start, or is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum AdmitError {
    /// Nobody knows.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The directory and the runtime mean different pods of one name.
    #[error("the runtime starts pod {name} with the uid {asked}, and the API server has {found}")]
    Another {
        /// Of the pod.
        name: String,
        /// The runtime's.
        asked: String,
        /// The API server's.
        found: Uid,
    },
    /// What the runtime said about it cannot be used.
    #[error(transparent)]
    Invalid(#[from] PodError),
    /// It should be in the mesh and could not be brought there.
    #[error(transparent)]
    Add(#[from] AddError),
    /// It should be in the mesh and is not.
    #[error("pod {name} is not in the mesh as it should be: {state}")]
    NotEnrolled {
        /// Of the pod.
        name: String,
        /// How it stands.
        state: String,
    },
}

/// What the plugin asks, answered. Cheap to clone where the directory is.
#[derive(Clone, Debug)]
pub struct Admission<D> {
    enrolment: Enrolment,
    rules: Rules,
    directory: D,
}

impl<D: Directory> Admission<D> {
    /// With everything it needs.
    pub fn new(enrolment: Enrolment, rules: Rules, directory: D) -> Self {
        Self { enrolment, rules, directory }
    }

    /// Brings a pod into the mesh where it belongs there, and returns when it is.
    ///
    /// # Errors
    /// When it must not start yet.
    pub async fn add(&self, attachment: Attachment) -> Result<Admitted, AdmitError> {
        let pod = match self.judge(&attachment).await? {
            Ok(pod) => pod,
            Err(reason) => return Ok(Admitted::Outside(reason)),
        };
        self.enrolment.add(pod).await?;
        Ok(Admitted::Enrolled)
    }

    /// Whether a pod is as it should be.
    ///
    /// # Errors
    /// When it is not, or nobody knows.
    pub async fn check(&self, attachment: Attachment) -> Result<Admitted, AdmitError> {
        let pod = match self.judge(&attachment).await? {
            Ok(pod) => pod,
            Err(reason) => return Ok(Admitted::Outside(reason)),
        };
        let status = self.enrolment.list().into_iter().find(|status| status.pod.uid == pod.uid);
        let here = id_of(&attachment.netns);
        let state = match status {
            None => "it is not captured".to_owned(),
            Some(status) if Some(status.netns) != here => "another network namespace is captured".to_owned(),
            Some(Status { state: State::Pending(why) | State::Failed(why), .. }) => why,
            Some(Status { state: State::Enrolled, .. }) => return Ok(Admitted::Enrolled),
        };
        Err(AdmitError::NotEnrolled { name: attachment.full_name(), state })
    }

    /// Forgets the pod whose sandbox is being taken down. A runtime takes an old sandbox of a pod down again when a new
    /// one stands already, so it is the sandbox that counts.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn delete(&self, attachment: Attachment) -> Result<(), RemoveError> {
        let netns = id_of(&attachment.netns);
        let is_meant = |status: &Status| {
            status.pod.sandbox.as_ref() == Some(&attachment.container_id) || Some(status.netns) == netns
        };
        for status in self.enrolment.list().iter().filter(|status| is_meant(status)) {
            self.enrolment.end(&status.pod.uid).await?;
        }
        Ok(())
    }

    /// Forgets every pod that came by a runtime and whose sandbox is not among those that are left.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn collect(&self, left: &[String]) -> Result<(), RemoveError> {
        for status in self.enrolment.list() {
            match &status.pod.sandbox {
                Some(sandbox) if !left.contains(sandbox) => self.enrolment.end(&status.pod.uid).await?,
                _ => self.enrolment.end_if_gone(&status.pod.uid).await?,
            }
        }
        Ok(())
    }

    /// The pod to enrol, or why it is out.
    async fn judge(&self, attachment: &Attachment) -> Result<Result<Pod, Reason>, AdmitError> {
        // Needs no answer of anybody: these pods may be what the API server needs to run.
        if self.rules.never_enrols(&attachment.namespace) {
            return Ok(Err(Reason::Excluded));
        }
        let Attachment { namespace, name, uid, .. } = attachment;
        let entry = self.directory.pod(namespace, name, uid.as_deref()).await?;
        if let Some(asked) = attachment.uid.as_ref().filter(|asked| !entry.pod.is_known_as(asked)) {
            let (name, found) = (attachment.full_name(), entry.pod.uid);
            return Err(AdmitError::Another { name, asked: asked.clone(), found });
        }
        match self.rules.decide(&entry.pod, &entry.namespace, jiff::Timestamp::now()) {
            Verdict::Skip(reason) => Ok(Err(reason)),
            Verdict::Enrol(treatment) => {
                let json = PodJson {
                    uid: entry.pod.uid.to_string(),
                    name: entry.pod.name,
                    namespace: entry.pod.namespace,
                    service_account: entry.pod.service_account,
                    netns: attachment.netns.clone(),
                    ips: attachment.ips.clone(),
                    capture_dns: true,
                    capture_inbound: true,
                    exclusions: Exclusions::default(),
                    sandbox: Some(attachment.container_id.clone()),
                };
                Ok(Ok(Pod { treatment, ..Pod::try_from(&json)? }))
            }
        }
    }
}

impl Attachment {
    /// `namespace/name` of the pod.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn id_of(netns: &str) -> Option<NetnsId> {
    Netns::open(Path::new(netns)).ok().map(|netns| netns.id())
}
