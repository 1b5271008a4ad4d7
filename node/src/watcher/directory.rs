// SPDX-License-Identifier: Apache-2.0
//! Facts about one pod for the CNI plugin. Its namespace is asked of the API server, not of the watch: it may have got its
//! label just before, and a pod must not start past the mesh because a watch was late. So is a pod that the watch has not
//! told of under this uid; of one that it has, everything that decides was there when it was made, and a label that
//! it gets later is what the watch is for. Only while the API server does not answer is the watch's last word taken.

mod reads;

use std::{sync::Arc, time::Duration};

use kubernetes::{Api, ApiError, Resource};
use parking_lot::Mutex;

use self::reads::Reads;

use crate::{
    admission::{Directory, Entry, Unknown},
    ledger::Ledger,
    objects::{NamespaceJson, PodJson, PodObject},
    pod::PodError,
};

/// How long a pod's start waits for the API server before the watch's word is taken.
const PATIENCE: Duration = Duration::from_secs(4);
const PODS: Resource = Resource::core("pods");
const NAMESPACES: Resource = Resource::core("namespaces");

/// The API server, and what its watches have told.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The API server.
    pub api: Api,
    /// Shared with the watcher.
    pub ledger: Arc<Mutex<Ledger>>,
    reads: Reads<Option<NamespaceJson>>,
}

/// A pod and its namespace, as far as there are any.
type Found = (Option<Result<PodObject, PodError>>, Option<NamespaceJson>);

impl Directory for Cluster {
    async fn pod(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Entry, Unknown> {
        let full = format!("{namespace}/{name}");
        let unanswered = |source: Box<dyn std::error::Error + Send + Sync>| Unknown::Unanswered {
            name: full.clone(),
            source,
        };
        let asked = tokio::time::timeout(PATIENCE, self.ask(namespace, name, uid));
        let (pod, json) = match asked.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if !error.is_outage() => return Err(unanswered(error.into())),
            outage => {
                let ledger = self.ledger.lock();
                if let Some((pod, namespace)) = ledger.find(namespace, name) {
                    tracing::warn!(
                        pod = full,
                        "the API server does not answer, what the watch told is taken"
                    );
                    return Ok(Entry { pod: pod.clone(), namespace: namespace.clone() });
                }
                return Err(match outage {
                    Ok(Err(error)) => unanswered(error.into()),
                    _ => unanswered(format!("the API server did not answer within {PATIENCE:?}").into()),
                });
            }
        };
        let pod = pod.ok_or_else(|| Unknown::Absent { what: "pod", name: full.clone() })?;
        let json = json.ok_or_else(|| Unknown::Absent { what: "namespace", name: namespace.to_owned() })?;
        let pod = pod.map_err(|error| unanswered(error.into()))?;
        Ok(Entry { pod, namespace: json.parse().1 })
    }
}

impl Cluster {
    /// Of this API server, with what its watches tell.
    pub fn new(api: Api, ledger: Arc<Mutex<Ledger>>) -> Self {
        Self { api, ledger, reads: Reads::default() }
    }

    async fn ask(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<Found, ApiError> {
        let told = self.ledger.lock().find(namespace, name).map(|(pod, _)| pod.clone());
        let told = told.filter(|pod| uid == Some(pod.uid.as_str()));
        let home = NAMESPACES.object("", namespace);
        let read = self.reads.read(namespace, || self.api.find(&home));
        if let Some(pod) = told {
            return Ok((Some(Ok(pod)), read.await?));
        }
        let pod = PODS.object(namespace, name);
        let (pod, namespace) = tokio::try_join!(self.api.find::<PodJson>(&pod), read)?;
        Ok((pod.map(PodObject::try_from), namespace))
    }
}
