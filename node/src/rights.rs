// SPDX-License-Identifier: Apache-2.0
//! What the agent's roles (`charts/node/templates/role.yaml`) must allow, and what does not work without it.

use finding::Finding;
use kubernetes::{Api, Right};

use crate::{chain::Chain, config::ClusterConfig};

pub(crate) const CHECK: &str = "permissions";
const CLUSTER: &str = "clusterrole/ambit-node";
const OWN: &str = "role/node";
const READ: &[&str] = &["get", "list", "watch"];

/// Everything that is needed.
fn needed(cluster: &ClusterConfig) -> Vec<Right> {
    let right = |resource, verbs, breaks| Right {
        role: CLUSTER,
        group: "",
        resource,
        verbs,
        namespace: None,
        names: Vec::new(),
        breaks,
    };
    let mut needed = vec![
        right(
            "pods",
            READ,
            "pods of this node are not followed: new ones do not start, and labels of old ones do nothing",
        ),
        right(
            "namespaces",
            READ,
            "labels and bypasses of namespaces are not followed, and new pods do not start",
        ),
        right(
            "pods/status",
            &["patch"],
            "nobody is told which pods take HBONE, or do no more: traffic to them goes in the open, or fails",
        ),
        right("events", &["create"], "pods do not say why they are not in the mesh"),
        right(
            "nodes",
            &["get", "update"],
            "the taint cni.istio.io/not-ready stays on new nodes, and no pod is placed there",
        ),
    ];
    if let Some(name) = &cluster.daemon_set {
        needed.push(Right {
            role: OWN,
            group: "apps",
            namespace: Some(cluster.namespace.clone()),
            names: vec![name.clone()],
            ..right(
                "daemonsets",
                READ,
                "an uninstall is not noticed: pods stay captured when the mesh has gone",
            )
        });
    }
    needed
}

/// Whether the roles allow it.
pub(crate) async fn check(api: &Api, cluster: &ClusterConfig) -> Vec<Finding> {
    let fix = "the chart's roles were changed: `ambit install` or `helm upgrade` with the values in use makes them anew";
    match api.lacking(&needed(cluster)).await {
        Ok(lacks) if lacks.is_empty() => vec![Finding::ok(CHECK, "the agent's roles allow what it needs")],
        Ok(lacks) => lacks.iter().map(|lack| Finding::failure(CHECK, lack.to_string(), fix)).collect(),
        Err(error) => {
            let found = format!("what the agent's roles allow is not known: {}", Chain(&error));
            vec![Finding::warning(CHECK, found, "see whether this node reaches the API server")]
        }
    }
}
