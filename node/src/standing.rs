// SPDX-License-Identifier: Apache-2.0
//! How the agent itself stands in the cluster: the taint that goes when the node is ready for pods, and the DaemonSet
//! whose end means that the mesh is being uninstalled, or leaves this node.

use std::time::Duration;

use kubernetes::{Api, ApiError, Event, Resource, Watch, Within};
use runtime::Tasks;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::{chain::Chain, selection::Selectable};

/// Whoever makes the node may set it, so that no pod is scheduled before it can be captured. Istio's name.
const TAINT: &str = "cni.istio.io/not-ready";
const NODES: Resource = Resource::core("nodes");
const DAEMON_SETS: Resource = Resource::new("apps", "v1", "daemonsets");
/// How often the node is looked at: it may be made anew under the same name.
const LOOK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(2);
/// How long a stopping agent waits for an answer.
const LAST_WORD: Duration = Duration::from_secs(5);

/// Removes the taint whenever the node has it, from the moment on when all of `ready` are.
pub async fn untaint(api: Api, node: String, mut ready: Vec<watch::Receiver<bool>>, tasks: Tasks) {
    let shutdown = tasks.shutdown();
    loop {
        let all = async {
            for receiver in &mut ready {
                // Gone means that what it told of has ended; the agent ends with it.
                if receiver.wait_for(|ready| *ready).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            () = all => {}
        }
        let wait = match remove_taint(&api, &node).await {
            Ok(()) => LOOK,
            Err(error) if error.is_conflict() => Duration::ZERO,
            Err(error) => {
                tracing::warn!(node, error = %Chain(&error), "whether the node has the taint {TAINT} is not known");
                AGAIN
            }
        };
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn remove_taint(api: &Api, node: &str) -> Result<(), ApiError> {
    let path = NODES.object("", node);
    let object: Value = api.get(&path).await?;
    if let Some(untainted) = untainted(object) {
        // With its version in it: whoever changes the node at the same time is not overwritten.
        api.replace(&path, &untainted).await?;
        tracing::info!(node, taint = TAINT, "the node is ready for pods, the taint is removed");
    }
    Ok(())
}

/// The node without the taint; none when it has none.
fn untainted(mut node: Value) -> Option<Value> {
    let taints = node.pointer_mut("/spec/taints")?.as_array_mut()?;
    let before = taints.len();
    taints.retain(|taint| taint.get("key").and_then(Value::as_str) != Some(TAINT));
    (taints.len() < before).then_some(node)
}

/// Whether the DaemonSet of this agent is there: watched all the time, because a role that is uninstalled with it may be
/// gone when the agent is told to stop.
#[derive(Debug)]
pub struct Existence {
    api: Api,
    namespace: String,
    name: String,
    node: String,
    last: watch::Receiver<Option<Presence>>,
}

/// What is known about the DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is there and wants this node: this agent is replaced or restarted.
    There,
    /// It is gone, or going, or wants other nodes only: no agent comes after this one.
    Gone,
}

impl Existence {
    /// Begins to watch, on behalf of the agent of `node`.
    pub fn watch(api: Api, namespace: String, name: String, node: String, tasks: &Tasks) -> Self {
        let (tell, last) = watch::channel(None);
        let mut watching = Watch::new((), [DAEMON_SETS]);
        watching.within = Within::Namespace(namespace.clone());
        watching.fields = Some(format!("metadata.name={name}"));
        let (events, mut happened) = mpsc::channel(8);
        let parse = |text: &str| kubernetes::json::<Value>(text);
        let (client, shutdown) = (api.clone(), tasks.shutdown());
        // Dropped with this task's end, the receiver's end follows.
        drop(tasks.spawn("watch own DaemonSet", async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = watching.run(client, parse, events) => {}
            }
        }));
        drop(tasks.spawn("own DaemonSet", async move {
            while let Some(happened) = happened.recv().await {
                match happened.event {
                    Event::Applied(object) => drop(tell.send_replace(Some(presence(&object)))),
                    Event::Deleted(_) => drop(tell.send_replace(Some(Presence::Gone))),
                    Event::Broken { .. } | Event::Synced | Event::Absent => {}
                }
            }
        }));
        Self { api, namespace, name, node, last }
    }

    /// Whether it is there now. Whatever cannot be known counts as there: then everything stays in place.
    pub async fn now(&self) -> Presence {
        if *self.last.borrow() == Some(Presence::Gone) {
            return Presence::Gone;
        }
        match tokio::time::timeout(LAST_WORD, self.asked()).await {
            Ok(Ok(presence)) => presence,
            Ok(Err(error)) => {
                tracing::warn!(error = %Chain(&error), "whether the DaemonSet is there is not known, everything stays");
                Presence::There
            }
            Err(_elapsed) => {
                tracing::warn!("the API server does not answer, everything stays");
                Presence::There
            }
        }
    }

    async fn asked(&self) -> Result<Presence, ApiError> {
        let path = DAEMON_SETS.object(&self.namespace, &self.name);
        let Some(daemon_set) = self.api.find::<Value>(&path).await? else { return Ok(Presence::Gone) };
        if presence(&daemon_set) == Presence::Gone {
            return Ok(Presence::Gone);
        }
        // Its labels as they are now, and not as they were when a watch last told of them.
        let node: Value = self.api.get(&NODES.object("", &self.node)).await?;
        Ok(if Selectable::of(&node).is_wanted_by(&daemon_set) { Presence::There } else { Presence::Gone })
    }
}

fn presence(object: &Value) -> Presence {
    let going = object.pointer("/metadata/deletionTimestamp").is_some_and(|time| !time.is_null());
    if going { Presence::Gone } else { Presence::There }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_our_taint_goes() {
        let other = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
        let ours = json!({"key": "cni.istio.io/not-ready", "effect": "NoSchedule", "value": "x"});
        let node = |taints: &Value| json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": taints}});
        assert_eq!(untainted(node(&json!([ours, other]))), Some(node(&json!([other]))));
        for node in [node(&json!([other])), node(&json!(null)), json!({"spec": {}}), json!({})] {
            assert_eq!(untainted(node), None);
        }
    }

    #[test]
    fn a_daemon_set_that_is_being_deleted_is_gone() {
        assert_eq!(presence(&json!({"metadata": {"name": "node"}})), Presence::There);
        assert_eq!(
            presence(&json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})),
            Presence::Gone
        );
    }
}
