// SPDX-License-Identifier: Apache-2.0
//! What a person sees in `kubectl describe pod` and `kubectl get events`: a pod that should be in the mesh and could not
//! be brought there, a bypass that has no effect.

use std::hash::{DefaultHasher, Hash, Hasher};

use kubernetes::{Api, Resource, Within};
use serde_json::{Value, json};

use crate::{chain::Chain, objects::PodObject};

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

    /// Says that a namespace stays in the mesh though it asks for a bypass. Every node sees it, one says it.
    pub(super) async fn bypass_ignored(self, namespace: String, fault: String) {
        let path = EVENTS.path(&Within::Namespace(namespace.clone()));
        let event = ignored(&namespace, &self.node, &fault, &now());
        match self.api.create::<Value>(&path, &event).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => {}
            Err(error) => tracing::warn!(namespace, error = %Chain(&error), "cannot write an event"),
        }
    }
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Its name is made of what it says, so that it is there once.
fn ignored(namespace: &str, node: &str, fault: &str, now: &str) -> Value {
    let mut hasher = DefaultHasher::new();
    fault.hash(&mut hasher);
    warning(
        "BypassIgnored",
        (
            json!({"name": format!("{namespace}.bypass-{:016x}", hasher.finish()), "namespace": namespace}),
            json!({"apiVersion": "v1", "kind": "Namespace", "namespace": namespace, "name": namespace}),
        ),
        &format!("the namespace stays in the mesh, its bypass is ignored: {fault}"),
        (node, now),
    )
}

fn event(pod: &PodObject, node: &str, why: &str, now: &str) -> Value {
    let message: String =
        format!("not in the mesh yet, though its labels say so: {why}").chars().take(LONGEST).collect();
    warning(
        "NotEnrolled",
        (
            json!({"generateName": format!("{}.", pod.name), "namespace": pod.namespace}),
            json!({
                "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid.as_str(),
            }),
        ),
        &message,
        (node, now),
    )
}

/// An event of this agent's: why, its own metadata and what it is about, the words, and where and when.
fn warning(
    reason: &str,
    (metadata, about): (Value, Value),
    message: &str,
    (node, now): (&str, &str),
) -> Value {
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
