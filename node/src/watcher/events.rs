// SPDX-License-Identifier: Apache-2.0
//! What a person sees in `kubectl describe pod`: a pod that should be in the mesh and could not be brought there.

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
        let event =
            event(&pod, &self.node, &why, &jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        if let Err(error) = self.api.create::<Value>(&path, &event).await {
            tracing::warn!(pod = pod.name, error = %Chain(&error), "cannot write an event");
        }
    }
}

fn event(pod: &PodObject, node: &str, why: &str, now: &str) -> Value {
    let message: String =
        format!("not in the mesh yet, though its labels say so: {why}").chars().take(LONGEST).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{}.", pod.name), "namespace": pod.namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name, "uid": pod.uid.as_str(),
        },
        "type": "Warning",
        "reason": "NotEnrolled",
        "message": message,
        "source": {"component": COMPONENT, "host": node},
        "reportingComponent": COMPONENT,
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    })
}
