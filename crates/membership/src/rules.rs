// SPDX-License-Identifier: Apache-2.0
//! Who is in the mesh: one decision over a pod, the labels of its namespace and the node's settings. Pure, and the same
//! for the CNI plugin, the watch and the start of the agent. The labels are Istio's, so that a namespace can move from
//! one mesh to the other; `docs/node-agent.md` has the table for people.

use std::fmt;

use jiff::Timestamp;

use crate::{
    bypass::Bypass,
    exclusions::Exclusions,
    objects::{Labels, NamespaceObject, Phase, PodObject},
    pod::{Capturing, Treatment},
};

/// On a namespace or pod: [`AMBIENT`] or [`NONE`].
pub const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
/// Wants to be in the mesh.
pub const AMBIENT: &str = "ambient";
/// Of a pod: stays outside although its namespace is in.
pub const NONE: &str = "none";
/// On a namespace or pod: which of two meshes in one cluster.
pub const REVISION: &str = "istio.io/rev";
/// A pod that has this annotation has a proxy of its own.
const SIDECAR: &str = "sidecar.istio.io/status";
/// Of a pod: what it sends is captured, what it receives is not.
const BYPASS_INBOUND: &str = "ambient.istio.io/bypass-inbound-capture";
/// Of a pod: whether its DNS is captured.
const DNS_CAPTURE: &str = "ambient.istio.io/dns-capture";

/// What an operator has set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Only objects with this revision are ours; none: there is no other mesh that reads the label.
    pub revision: Option<String>,
    /// Namespaces whose pods are never enrolled.
    pub excluded: Vec<String>,
    /// The mesh's own namespace: what carries the mesh does not run on it.
    pub own_namespace: Option<String>,
    /// Whether DNS is captured of a pod that says nothing about it. Off where its ztunnel serves none: what is captured
    /// and not served is dropped.
    pub dns: Capturing,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is in, and treated so.
    Enrol(Treatment),
    /// It is out.
    Skip(Reason),
}

/// Why a pod is out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// All its containers have ended, as those of a finished Job.
    Terminated,
    /// It has no network of its own.
    HostNetwork,
    /// It belongs to the mesh itself.
    Own,
    /// The operator says so.
    Excluded,
    /// It has a proxy of its own.
    Sidecar,
    /// Its own label says so.
    OptedOut,
    /// Neither it nor its namespace has the label.
    NotLabelled,
    /// It is another mesh's.
    OtherRevision {
        /// What it says; none: nothing.
        found: Option<String>,
    },
    /// Its namespace has left the mesh for a while.
    Bypassed(Bypass),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Terminated => f.write_str("it has ended"),
            Self::HostNetwork => f.write_str("it uses the node's network"),
            Self::Own => f.write_str("it belongs to the mesh itself"),
            Self::Excluded => f.write_str("its namespace is excluded by the agent's settings"),
            Self::Sidecar => write!(f, "it has a sidecar (annotation {SIDECAR})"),
            Self::OptedOut => write!(f, "its label {DATAPLANE_MODE} says so"),
            Self::NotLabelled => {
                write!(f, "neither it nor its namespace has the label {DATAPLANE_MODE}={AMBIENT}")
            }
            Self::OtherRevision { found: Some(found) } => write!(f, "its {REVISION} is {found}"),
            Self::OtherRevision { found: None } => {
                write!(f, "neither it nor its namespace has the label {REVISION}")
            }
            Self::Bypassed(bypass) => write!(f, "its namespace is {bypass}"),
        }
    }
}

impl Rules {
    /// Decides about a pod of a namespace.
    pub fn decide(&self, pod: &PodObject, namespace: &NamespaceObject, now: Timestamp) -> Verdict {
        let bypassed = || namespace.bypass(now).cloned().map(Reason::Bypassed);
        match self.objection(pod, &namespace.labels).or_else(bypassed) {
            Some(reason) => Verdict::Skip(reason),
            None => Verdict::Enrol(self.treatment(&pod.annotations, &namespace.exclusions)),
        }
    }

    /// Whether a pod of a namespace is out whatever it looks like.
    pub fn never_enrols(&self, namespace: &str) -> bool {
        self.excluded.iter().any(|excluded| excluded == namespace)
    }

    fn objection(&self, pod: &PodObject, namespace: &Labels) -> Option<Reason> {
        if matches!(pod.phase, Phase::Succeeded | Phase::Failed) {
            return Some(Reason::Terminated);
        }
        if pod.host_network {
            return Some(Reason::HostNetwork);
        }
        if self.own_namespace.as_ref() == Some(&pod.namespace) {
            return Some(Reason::Own);
        }
        if self.never_enrols(&pod.namespace) {
            return Some(Reason::Excluded);
        }
        if pod.annotations.contains_key(SIDECAR) {
            return Some(Reason::Sidecar);
        }
        match (mode(&pod.labels), mode(namespace)) {
            (Some(AMBIENT), _) => {}
            (Some(NONE), _) => return Some(Reason::OptedOut),
            // Any other word of the pod's says nothing about ambient, as in Istio.
            (_, Some(AMBIENT)) => {}
            (_, _) => return Some(Reason::NotLabelled),
        }
        let wanted = self.revision.as_ref()?;
        // What a pod says about itself goes before what its namespace says.
        let found = pod.labels.get(REVISION).or_else(|| namespace.get(REVISION));
        (found != Some(wanted)).then(|| Reason::OtherRevision { found: found.cloned() })
    }

    fn treatment(&self, annotations: &Labels, of_namespace: &Labels) -> Treatment {
        let says = |name: &str| annotations.get(name).map(String::as_str);
        let (exclusions, _faults) = Exclusions::of(annotations, of_namespace);
        Treatment {
            dns: match says(DNS_CAPTURE) {
                Some("true") => Capturing::On,
                Some("false") => Capturing::Off,
                _ => self.dns,
            },
            inbound: (says(BYPASS_INBOUND) != Some("true")).into(),
            exclusions,
        }
    }
}

fn mode(labels: &Labels) -> Option<&str> {
    labels.get(DATAPLANE_MODE).map(String::as_str)
}

#[cfg(test)]
mod tests;
