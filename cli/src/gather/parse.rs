// SPDX-License-Identifier: Apache-2.0
//! Objects of the API as facts.

use membership::objects::{NamespaceJson, PodJson, PodObject};
use serde_json::Value;

use crate::{
    facts::{Crd, Kind, Namespace, Node, Pod, Server, Workload},
    tree::{condition, list, map, number, text},
};

/// Of `/version`. Some servers say `30+`.
pub(super) fn server(version: &Value) -> Server {
    let part = |pointer: &str| {
        let text = text(version, pointer);
        let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_default()
    };
    Server { version: text(version, "/gitVersion"), major: part("/major"), minor: part("/minor") }
}

pub(super) fn node(node: &Value) -> Node {
    Node {
        name: text(node, "/metadata/name"),
        kernel: text(node, "/status/nodeInfo/kernelVersion"),
        architecture: text(node, "/status/nodeInfo/architecture"),
        system: text(node, "/status/nodeInfo/operatingSystem"),
        ready: condition(node, "Ready") == Some("True"),
        taints: list(node, "/spec/taints").iter().map(|taint| text(taint, "/key")).collect(),
    }
}

pub(super) fn namespace(namespace: Value) -> Option<(String, Namespace)> {
    let annotations = map(&namespace, "/metadata/annotations");
    let (name, object) = serde_json::from_value::<NamespaceJson>(namespace).ok()?.parse();
    Some((name, Namespace { object, annotations }))
}

pub(super) fn pod(pod: Value) -> Option<Pod> {
    let node = text(&pod, "/spec/nodeName");
    let ready = condition(&pod, "Ready") == Some("True");
    let images = images(&pod, "/spec");
    let object = PodObject::try_from(serde_json::from_value::<PodJson>(pod).ok()?).ok()?;
    Some(Pod { object, node, ready, images })
}

pub(super) fn daemon_set(set: &Value) -> Workload {
    Workload {
        wanted: number(set, "/status/desiredNumberScheduled"),
        ready: number(set, "/status/numberReady"),
        updated: number(set, "/status/updatedNumberScheduled"),
        ..workload(set, Kind::DaemonSet)
    }
}

pub(super) fn deployment(deployment: &Value) -> Workload {
    // Absent means one.
    let wanted = deployment.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    Workload {
        wanted,
        ready: number(deployment, "/status/readyReplicas"),
        updated: number(deployment, "/status/updatedReplicas"),
        ..workload(deployment, Kind::Deployment)
    }
}

fn workload(object: &Value, kind: Kind) -> Workload {
    let containers = list(object, "/spec/template/spec/containers").iter();
    let variables = containers.flat_map(|container| list(container, "/env"));
    Workload {
        kind,
        namespace: text(object, "/metadata/namespace"),
        name: text(object, "/metadata/name"),
        labels: map(object, "/metadata/labels"),
        selector: map(object, "/spec/selector/matchLabels"),
        wanted: 0,
        ready: 0,
        updated: 0,
        images: images(object, "/spec/template/spec"),
        environment: variables.map(|pair| (text(pair, "/name"), text(pair, "/value"))).collect(),
    }
}

fn images(object: &Value, spec: &str) -> Vec<String> {
    list(object, &format!("{spec}/containers")).iter().map(|container| text(container, "/image")).collect()
}

pub(super) fn crd(crd: &Value) -> (String, Crd) {
    let served = list(crd, "/spec/versions").iter().map(|version| text(version, "/name"));
    let found = Crd {
        versions: served.collect(),
        labels: map(crd, "/metadata/labels"),
        annotations: map(crd, "/metadata/annotations"),
    };
    (text(crd, "/metadata/name"), found)
}

/// Types of an object's conditions that are `False`, and what they say.
pub(crate) fn refused(object: &Value) -> Vec<(String, String)> {
    let conditions = list(object, "/status/conditions").iter();
    let wrong = conditions.filter(|condition| text(condition, "/status") == "False");
    wrong.map(|condition| (text(condition, "/type"), words(condition))).collect()
}

fn words(condition: &Value) -> String {
    let (reason, message) = (text(condition, "/reason"), text(condition, "/message"));
    if message.is_empty() { reason } else { message }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_read_as_far_as_they_matter() {
        assert_eq!(server(&json!({"major": "1", "minor": "30+", "gitVersion": "v1.30.2-x"})).minor, 30);
        let found = node(&json!({
            "metadata": {"name": "a"},
            "spec": {"taints": [{"key": "cni.istio.io/not-ready", "effect": "NoSchedule"}]},
            "status": {"nodeInfo": {"kernelVersion": "6.8.0-31-generic", "architecture": "arm64", "operatingSystem": "linux"},
                       "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]},
        }));
        assert!(found.ready);
        assert_eq!((found.kernel.as_str(), found.taints.len()), ("6.8.0-31-generic", 1));
        let deployment = deployment(&json!({
            "metadata": {"name": "control", "namespace": "ambit-system"},
            "spec": {"selector": {"matchLabels": {"app": "control"}}, "template": {"spec": {"containers":
                [{"image": "control:1", "env": [{"name": "A", "value": "b"}, {"name": "C", "valueFrom": {}}]}]}}},
            "status": {"readyReplicas": 1},
        }));
        assert_eq!((deployment.wanted, deployment.ready, deployment.version().as_str()), (1, 1, "1"));
        assert_eq!(deployment.environment["A"], "b");
    }

    #[test]
    fn a_condition_that_is_false_is_said_with_its_message_or_its_reason() {
        let object = json!({"status": {"conditions": [
            {"type": "A", "status": "True"}, {"type": "B", "status": "False", "reason": "Why"},
            {"type": "C", "status": "False", "reason": "Why", "message": "because"},
        ]}});
        let pair = |kind: &str, text: &str| (kind.to_owned(), text.to_owned());
        assert_eq!(refused(&object), [pair("B", "Why"), pair("C", "because")]);
    }
}
