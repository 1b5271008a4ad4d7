// SPDX-License-Identifier: Apache-2.0
//! Pods and namespaces of Kubernetes as far as enrolment looks at them, parsed once from the API's JSON. It refuses to
//! know how they came.

use std::{collections::BTreeMap, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, de::IgnoredAny};

use crate::{
    bypass::{Bypass, Fault},
    exclusions,
    pod::{PodError, Uid},
};

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Where a static pod's mirror keeps the uid under which kubelet runs it.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// On a pod that is captured, for whoever tells the mesh about it: it takes HBONE. Istio's name.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";
/// The value of [`REDIRECTION`].
pub const ENABLED: &str = "enabled";
/// As whom an agent writes; the API server keeps for each field who wrote it last (`metadata.managedFields`).
pub const MANAGER: &str = "ambit-node-agent";

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodObject {
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Labels,
    /// `spec.serviceAccountName`.
    pub service_account: String,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `status.phase`.
    pub phase: Phase,
    /// `status.podIPs`.
    pub ips: Vec<IpAddr>,
    /// Ids of its containers that have been started, without the runtime's name.
    pub containers: Vec<String>,
    /// Whether an agent of ours wrote [`REDIRECTION`], and not another mesh's: only such a mark may be taken away from a
    /// pod that is not captured. The API server remembers it, so that it outlives the agent and its node.
    pub mark_is_ours: bool,
}

/// `status.phase`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Phase {
    /// Not every container has started.
    #[default]
    Pending,
    /// At least one container runs.
    Running,
    /// All containers have ended well.
    Succeeded,
    /// All containers have ended.
    Failed,
    /// Its kubelet is silent, or a phase that came later than this program.
    #[serde(other)]
    Unknown,
}

impl PodObject {
    /// Whether a runtime that knows the pod as `uid` means this one.
    pub fn is_known_as(&self, uid: &str) -> bool {
        self.uid.as_str() == uid || self.annotations.get(STATIC_UID).is_some_and(|hash| hash == uid)
    }

    /// Whether the mesh has been told that it takes HBONE.
    pub fn is_marked(&self) -> bool {
        self.annotations.get(REDIRECTION).is_some_and(|value| value == ENABLED)
    }

    /// Notes what the mesh has been told.
    pub fn mark(&mut self, marked: bool) {
        if marked {
            self.annotations.insert(REDIRECTION.to_owned(), ENABLED.to_owned());
        } else {
            self.annotations.remove(REDIRECTION);
        }
        self.mark_is_ours = marked;
    }

    /// Every uid under which kubelet may run it.
    pub fn uids(&self) -> impl Iterator<Item = &str> {
        [Some(self.uid.as_str()), self.annotations.get(STATIC_UID).map(String::as_str)].into_iter().flatten()
    }
}

/// `v1.Pod`, the fields that are read.
#[derive(Clone, Debug, Deserialize)]
pub struct PodJson {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

/// `v1.Namespace`, the fields that are read.
#[derive(Clone, Debug, Deserialize)]
pub struct NamespaceJson {
    /// Its name, labels and annotations.
    metadata: Metadata,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceObject {
    /// `metadata.labels`.
    pub labels: Labels,
    /// Whether its annotations ask for leaving the mesh for a while.
    pub bypass: Option<Result<Bypass, Fault>>,
    /// Those of its annotations that name what is not captured of its pods, [`exclusions::ANNOTATIONS`].
    pub exclusions: Labels,
}

impl NamespaceObject {
    /// The bypass that holds.
    pub fn bypass(&self, now: Timestamp) -> Option<&Bypass> {
        let bypass = self.bypass.as_ref()?.as_ref().ok()?;
        (bypass.holds(now) == Ok(true)).then_some(bypass)
    }

    /// Why a bypass that it asks for is ignored.
    pub fn fault(&self, now: Timestamp) -> Option<Fault> {
        match self.bypass.as_ref()? {
            Ok(bypass) => bypass.holds(now).err(),
            Err(fault) => Some(fault.clone()),
        }
    }
}

impl NamespaceJson {
    /// Its name, and what matters of it.
    pub fn parse(self) -> (String, NamespaceObject) {
        let mut exclusions = self.metadata.annotations.unwrap_or_default();
        let bypass = Bypass::of(&exclusions);
        exclusions.retain(|name, _| exclusions::ANNOTATIONS.contains(&name.as_str()));
        let labels = self.metadata.labels.unwrap_or_default();
        (self.metadata.name, NamespaceObject { labels, bypass, exclusions })
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Metadata {
    uid: String,
    name: String,
    namespace: String,
    // Null and absent are alike in the API.
    labels: Option<Labels>,
    annotations: Option<Labels>,
    #[serde(rename = "managedFields")]
    managed: Option<Vec<Managed>>,
}

/// What one writer wrote.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Managed {
    manager: String,
    #[serde(rename = "fieldsV1")]
    fields: Option<ManagedFields>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ManagedFields {
    #[serde(rename = "f:metadata")]
    metadata: Option<ManagedMetadata>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ManagedMetadata {
    #[serde(rename = "f:annotations")]
    annotations: Option<BTreeMap<String, IgnoredAny>>,
}

impl Managed {
    /// Whether an agent of ours wrote [`REDIRECTION`].
    fn is_our_mark(&self) -> bool {
        let metadata = self.fields.as_ref().and_then(|fields| fields.metadata.as_ref());
        let mut written = metadata.and_then(|metadata| metadata.annotations.as_ref()).into_iter().flatten();
        self.manager == MANAGER && written.any(|(name, _)| name.strip_prefix("f:") == Some(REDIRECTION))
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    service_account_name: String,
    host_network: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Phase,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Ip>,
    init_container_statuses: Option<Vec<Container>>,
    container_statuses: Option<Vec<Container>>,
    ephemeral_container_statuses: Option<Vec<Container>>,
}

#[derive(Clone, Debug, Deserialize)]
struct Ip {
    #[serde(default)]
    ip: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Container {
    #[serde(default, rename = "containerID")]
    id: Option<String>,
}

impl TryFrom<PodJson> for PodObject {
    type Error = PodError;

    fn try_from(json: PodJson) -> Result<Self, PodError> {
        let PodJson { metadata, spec, status } = json;
        let lists =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let ids = lists.into_iter().flatten().flatten().filter_map(|container| container.id);
        // containerd://4f1c… and docker://4f1c….
        let containers = ids.filter_map(|id| Some(id.split_once("://")?.1.to_owned()));
        let mark_is_ours = metadata.managed.iter().flatten().any(Managed::is_our_mark);
        let ips = status.pod_ips.iter().filter_map(|ip| ip.ip.parse::<IpAddr>().ok());
        Ok(Self {
            uid: Uid::parse(&metadata.uid)?,
            namespace: metadata.namespace,
            name: metadata.name,
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            service_account: Some(spec.service_account_name)
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            host_network: spec.host_network,
            phase: status.phase,
            ips: ips.map(|ip| ip.to_canonical()).collect(),
            containers: containers.filter(|id| !id.is_empty()).collect(),
            mark_is_ours,
        })
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    use super::{Labels, Phase, PodObject};
    use crate::pod::Uid;

    /// A running pod without labels.
    pub(crate) fn running(uid: &str, namespace: &str, name: &str) -> PodObject {
        PodObject {
            uid: Uid::parse(uid).unwrap(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            labels: Labels::new(),
            annotations: Labels::new(),
            service_account: "web".to_owned(),
            host_network: false,
            phase: Phase::Running,
            ips: vec!["10.7.0.9".parse().unwrap()],
            containers: vec![],
            mark_is_ours: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_of_the_api_is_read_as_far_as_it_matters() {
        let json = json!({
            "metadata": {"uid": "u-1", "name": "web-0", "namespace": "shop", "labels": {"app": "web"},
                         "annotations": {"kubernetes.io/config.hash": "h-1"}, "generation": 1},
            "spec": {"serviceAccountName": "web", "nodeName": "node-a", "containers": []},
            "status": {
                "phase": "Running", "podIP": "10.7.0.9", "podIPs": [{"ip": "10.7.0.9"}, {"ip": "fd07::9"}],
                "initContainerStatuses": [{"containerID": "containerd://aa"}],
                "containerStatuses": [{"containerID": "containerd://bb"}, {"containerID": ""}, {}],
            },
        });
        let pod = PodObject::try_from(serde_json::from_value::<PodJson>(json).unwrap()).unwrap();
        assert_eq!(
            (pod.service_account.as_str(), pod.host_network, pod.phase),
            ("web", false, Phase::Running)
        );
        assert_eq!(
            (pod.ips.len(), pod.containers.as_slice()),
            (2, ["aa".to_owned(), "bb".to_owned()].as_slice())
        );
        assert!(pod.is_known_as("u-1") && pod.is_known_as("h-1") && !pod.is_known_as("u-2"));
    }

    #[test]
    fn a_pod_that_has_just_been_made_has_defaults() {
        let json =
            json!({"metadata": {"uid": "u", "name": "a", "namespace": "b", "labels": null}, "status": {}});
        let pod = PodObject::try_from(serde_json::from_value::<PodJson>(json).unwrap()).unwrap();
        assert_eq!((pod.service_account.as_str(), pod.phase, pod.ips.len()), ("default", Phase::Pending, 0));
        let json = json!({"metadata": {"name": "b"}, "status": {"phase": "Active"}});
        assert_eq!(
            serde_json::from_value::<NamespaceJson>(json).unwrap().parse(),
            ("b".to_owned(), NamespaceObject::default())
        );
        let json = json!({"metadata": {"name": "a"}, "status": {"phase": "Dreaming"}});
        let error = PodObject::try_from(serde_json::from_value::<PodJson>(json).unwrap()).unwrap_err();
        assert_eq!(error.field, "uid");
    }

    #[test]
    fn a_mark_is_ours_when_our_agent_wrote_it() {
        let ours = |managed: serde_json::Value| {
            let json = json!({"metadata": {"uid": "u", "managedFields": managed,
                                           "annotations": {"ambient.istio.io/redirection": "enabled"}}});
            PodObject::try_from(serde_json::from_value::<PodJson>(json).unwrap()).unwrap().mark_is_ours
        };
        let wrote = |manager: &str, annotation: &str| {
            json!({"manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
                   "fieldsV1": {"f:metadata": {"f:annotations": {".": {}, annotation: {}}}}})
        };
        let (mark, other) = ("f:ambient.istio.io/redirection", "f:prometheus.io/port");
        let kubelet = json!({"manager": "kubelet", "subresource": "status", "fieldsV1": {"f:status": {}}});
        assert!(ours(json!([kubelet, wrote(MANAGER, mark)])));
        for managed in [
            json!(null),
            json!([]),
            json!([{"manager": MANAGER, "fieldsV1": null}, {"manager": MANAGER}]),
            json!([wrote("istio-cni", mark), wrote(MANAGER, other), kubelet]),
        ] {
            assert!(!ours(managed.clone()), "{managed}");
        }
    }
}
