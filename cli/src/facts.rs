// SPDX-License-Identifier: Apache-2.0
//! Everything that is known about a cluster, as values. Where it comes from is `gather`'s business.

use std::collections::BTreeMap;

use finding::Finding;
use membership::{
    objects::{Labels, NamespaceObject, PodObject},
    pod::{Capturing, Uid},
    rules::{Reason, Rules, Verdict},
};
use serde::Serialize;

use crate::{control::ControlStatus, dump::Dump};

/// `:15024` of the node agent: metrics, readiness, checks of its node.
const NODE: u16 = 15024;

/// A cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// The namespace that the mesh runs in, or is to run in.
    pub(crate) home: String,
    pub(crate) server: Server,
    pub(crate) nodes: Vec<Node>,
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) pods: Vec<Pod>,
    /// DaemonSets and Deployments of the whole cluster.
    pub(crate) workloads: Vec<Workload>,
    /// Names of `CustomResourceDefinition`s.
    pub(crate) crds: BTreeMap<String, Crd>,
    /// `cilium-config` of `kube-system`.
    pub(crate) cilium: Labels,
    /// `istio-cni-config` of the namespace of Istio's CNI agent.
    pub(crate) istio_cni: Labels,
    /// What each replica of control answers, by its pod.
    pub(crate) controls: BTreeMap<String, Answer<ControlStatus>>,
    /// What each ztunnel answers, by its pod.
    pub(crate) ztunnels: BTreeMap<String, Answer<Dump>>,
    /// What each node agent finds on its node, by its pod.
    pub(crate) reports: BTreeMap<String, Answer<Vec<Finding>>>,
    /// What could not be looked at, and why.
    pub(crate) hidden: Vec<String>,
}

/// What came back, or why nothing did.
pub(crate) type Answer<T> = Result<T, String>;

/// The API server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Server {
    /// `v1.36.3`.
    pub(crate) version: String,
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) kernel: String,
    pub(crate) architecture: String,
    pub(crate) system: String,
    pub(crate) ready: bool,
    /// Keys of its taints.
    pub(crate) taints: Vec<String>,
}

/// A namespace.
#[derive(Clone, Debug, Default)]
pub(crate) struct Namespace {
    pub(crate) object: NamespaceObject,
    pub(crate) annotations: Labels,
}

/// A pod.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) object: PodObject,
    pub(crate) node: String,
    pub(crate) ready: bool,
    pub(crate) images: Vec<String>,
}

/// A `CustomResourceDefinition`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Crd {
    pub(crate) versions: Vec<String>,
    pub(crate) labels: Labels,
    pub(crate) annotations: Labels,
}

/// What runs pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) enum Kind {
    DaemonSet,
    Deployment,
}

/// A `DaemonSet` or Deployment.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) kind: Kind,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) selector: Labels,
    pub(crate) wanted: u64,
    pub(crate) ready: u64,
    pub(crate) updated: u64,
    pub(crate) images: Vec<String>,
    /// Literal variables of its containers.
    pub(crate) environment: Labels,
}

/// A part of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Control,
    Node,
    Ztunnel,
}

impl Kind {
    /// As kubectl takes it.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::DaemonSet => "daemonset",
            Self::Deployment => "deployment",
        }
    }
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Control, Self::Node, Self::Ztunnel];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Node => "node",
            Self::Ztunnel => "ztunnel",
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Control => Kind::Deployment,
            Self::Node | Self::Ztunnel => Kind::DaemonSet,
        }
    }
}

impl Workload {
    /// The version that it runs: the tag of its first image.
    pub(crate) fn version(&self) -> String {
        self.images.first().map(|image| tag(image)).unwrap_or_default()
    }

    pub(crate) fn runs(&self, pod: &Pod) -> bool {
        pod.object.namespace == self.namespace
            && !self.selector.is_empty()
            && self.selector.iter().all(|(name, value)| pod.object.labels.get(name) == Some(value))
    }

    fn is_called(&self, word: &str) -> bool {
        let labels = ["app.kubernetes.io/component", "app.kubernetes.io/name", "app"];
        let named = labels.iter().filter_map(|label| self.labels.get(*label));
        named.chain([&self.name]).any(|name| name.contains(word))
    }
}

impl Pod {
    /// `namespace/name`.
    pub(crate) fn full_name(&self) -> String {
        format!("{}/{}", self.object.namespace, self.object.name)
    }

    pub(crate) fn version(&self) -> String {
        self.images.first().map(|image| tag(image)).unwrap_or_default()
    }
}

/// The tag of an image, or the beginning of its digest.
pub(crate) fn tag(image: &str) -> String {
    if let Some((_, digest)) = image.split_once('@') {
        return digest.chars().take(19).collect();
    }
    let name = image.rsplit('/').next().unwrap_or(image);
    name.split_once(':').map_or_else(|| "latest".to_owned(), |(_, tag)| tag.to_owned())
}

impl Facts {
    /// The workload that is a part of the mesh.
    pub(crate) fn part(&self, role: Role) -> Option<&Workload> {
        let here = self.workloads.iter().filter(|workload| workload.namespace == self.home);
        let mut found =
            here.filter(|workload| workload.kind == role.kind() && workload.is_called(role.text()));
        found.next()
    }

    /// Whether any part of the mesh is there.
    pub(crate) fn is_installed(&self) -> bool {
        Role::ALL.iter().any(|role| self.part(*role).is_some())
    }

    /// Pods of a part.
    pub(crate) fn pods_of(&self, role: Role) -> Vec<&Pod> {
        let Some(part) = self.part(role) else { return Vec::new() };
        self.pods.iter().filter(|pod| part.runs(pod)).collect()
    }

    /// Where the node agents answer about themselves.
    pub(crate) fn node_port(&self) -> u16 {
        let address = self.part(Role::Node).and_then(|part| part.environment.get("AMBIT_NODE_METRICS"));
        let port = address.and_then(|address| address.rsplit_once(':')?.1.parse().ok());
        port.unwrap_or(NODE)
    }

    /// The rules of the node agents; their defaults where there are none.
    pub(crate) fn rules(&self) -> Rules {
        let environment = self.part(Role::Node).map(|part| part.environment.clone()).unwrap_or_default();
        let list = |text: &String| {
            text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
        };
        Rules {
            revision: environment.get("AMBIT_REVISION").filter(|text| !text.is_empty()).cloned(),
            excluded: environment
                .get("AMBIT_EXCLUDED_NAMESPACES")
                .map_or_else(|| vec!["kube-system".to_owned()], list),
            own_namespace: Some(self.home.clone()),
            // Whether a pod is in does not depend on it.
            dns: Capturing::default(),
        }
    }

    /// Pods by what becomes of them.
    pub(crate) fn judged(&self, now: jiff::Timestamp) -> Vec<Judged<'_>> {
        let (rules, served) = (self.rules(), self.served());
        let pods = self.pods.iter().filter_map(|pod| {
            let namespace = self.namespaces.get(&pod.object.namespace)?;
            let out = match rules.decide(&pod.object, &namespace.object, now) {
                Verdict::Enrol(_) => None,
                Verdict::Skip(reason) => Some(reason),
            };
            let captured = match served.get(pod.node.as_str()) {
                Some(uids) if uids.contains(&&pod.object.uid) => Captured::Yes,
                Some(_) => Captured::No,
                None => Captured::Unknown,
            };
            Some(Judged { pod, out, captured })
        });
        pods.collect()
    }

    /// Uids of the pods that are served on each node whose ztunnel has answered.
    fn served(&self) -> BTreeMap<&str, Vec<&Uid>> {
        let mut served: BTreeMap<&str, Vec<&Uid>> = BTreeMap::new();
        for ztunnel in self.pods_of(Role::Ztunnel) {
            if let Some(Ok(dump)) = self.ztunnels.get(&ztunnel.object.name) {
                let uids = self.pods.iter().map(|pod| &pod.object.uid);
                let uids = uids.filter(|uid| dump.workload_state.contains_key(uid.as_str()));
                served.entry(ztunnel.node.as_str()).or_default().extend(uids);
            }
        }
        served
    }
}

/// A pod, and what the rules and its node's ztunnel say about it.
#[derive(Clone, Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) pod: &'a Pod,
    /// Why it is out; none: it belongs in.
    pub(crate) out: Option<Reason>,
    pub(crate) captured: Captured,
}

/// Whether a ztunnel serves a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Captured {
    Yes,
    No,
    /// The node's ztunnel has not answered.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_an_image_is_its_tag() {
        for (image, version) in [
            ("ghcr.io/ambit/control:0.1.0", "0.1.0"),
            ("registry:5000/control", "latest"),
            ("control:0.1.0@sha256:0123456789abcdef0123", "sha256:0123456789ab"),
        ] {
            assert_eq!(tag(image), version);
        }
    }
}

#[cfg(test)]
pub(crate) mod fixtures;
