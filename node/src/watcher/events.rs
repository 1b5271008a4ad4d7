// SPDX-License-Identifier: Apache-2.0
//! What a person sees in `kubectl describe pod` and `kubectl get events`: a pod that should be in the mesh and could not
//! be brought there, a bypass or an exclusion that has no effect.

use std::{
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
};

use kubernetes::{Api, Resource, Within};
use serde_json::{Value, json};

use crate::{chain::Chain, objects::PodObject, pod::Uid};

const EVENTS: Resource = Resource::core("events");
/// The API server takes no more.
const LONGEST: usize = 1024;
const COMPONENT: &str = "ambit-node-agent";

/// Where events go.
#[derive(Clone, Debug)]
pub(super) struct Events {
    pub(super) api: Api,
    pub(super) node: String,
}

impl Events {
    /// Says that a pod is not in the mesh. An event that cannot be written is lost; the log has it too.
    pub(super) async fn not_enrolled(self, pod: PodObject, why: String) {
        let path = EVENTS.path(&Within::Namespace(pod.namespace.clone()));
        let event = event(&pod, &self.node, &why, &now());
        if let Err(error) = self.api.create::<Value>(&path, &event).await {
            tracing::warn!(pod = pod.name, error = %Chain(&error), "cannot write an event");
        }
    }

    /// Says that something which an object asks for has no effect. Whoever sees it says it; it is there once.
    pub(super) async fn ignored(self, ignored: Ignored) {
        let path = EVENTS.path(&Within::Namespace(ignored.about.within().to_owned()));
        let event = ignored.event(&self.node, &now());
        match self.api.create::<Value>(&path, &event).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(about = %ignored.about, error = %Chain(&error), "cannot write an event");
            }
        }
    }
}

/// Something of an object that has no effect.
#[derive(Clone, Debug)]
pub(super) struct Ignored {
    pub(super) about: About,
    /// One word, such as `BypassIgnored`.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// What an event is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum About {
    Namespace(String),
    Pod { uid: Uid, namespace: String, name: String },
}

impl About {
    pub(super) fn pod(pod: &PodObject) -> Self {
        Self::Pod { uid: pod.uid.clone(), namespace: pod.namespace.clone(), name: pod.name.clone() }
    }

    pub(super) fn is_pod(&self, namespace: &str, name: &str) -> bool {
        matches!(self, Self::Pod { namespace: within, name: own, .. } if within == namespace && own == name)
    }

    /// The namespace that its events are in.
    fn within(&self) -> &str {
        match self {
            Self::Namespace(name) => name,
            Self::Pod { namespace, .. } => namespace,
        }
    }

    fn name(&self) -> &str {
        match self {
            Self::Namespace(name) | Self::Pod { name, .. } => name,
        }
    }

    fn reference(&self) -> Value {
        let (name, namespace) = (self.name(), self.within());
        match self {
            Self::Namespace(_) => {
                json!({"apiVersion": "v1", "kind": "Namespace", "namespace": namespace, "name": name})
            }
            Self::Pod { uid, .. } => json!({
                "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid.as_str(),
            }),
        }
    }
}

impl fmt::Display for About {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Pod { namespace, name, .. } => write!(f, "pod {namespace}/{name}"),
        }
    }
}

impl Ignored {
    /// Its name is made of what it says, so that it is there once.
    fn event(&self, node: &str, now: &str) -> Value {
        let mut hasher = DefaultHasher::new();
        (self.reason, &self.message, &self.about.reference().to_string()).hash(&mut hasher);
        let name = format!("{}.{:016x}", self.about.name(), hasher.finish());
        warning(
            self.reason,
            (json!({"name": name, "namespace": self.about.within()}), self.about.reference()),
            &self.message,
            (node, now),
        )
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn event(pod: &PodObject, node: &str, why: &str, now: &str) -> Value {
    let metadata = json!({"generateName": format!("{}.", pod.name), "namespace": pod.namespace});
    let message = format!("not in the mesh yet, though its labels say so: {why}");
    warning("NotEnrolled", (metadata, About::pod(pod).reference()), &message, (node, now))
}

/// An event of this agent's: why, its own metadata and what it is about, the words, and where and when.
fn warning(
    reason: &str,
    (metadata, about): (Value, Value),
    message: &str,
    (node, now): (&str, &str),
) -> Value {
    let message: String = message.chars().take(LONGEST).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": metadata,
        "involvedObject": about,
        "type": "Warning",
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
