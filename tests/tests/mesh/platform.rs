// SPDX-License-Identifier: Apache-2.0
//! What the mesh stands on is killed with SIGKILL while requests go on: a kubelet, a container runtime, the API server,
//! its store, a whole node. Nothing of them is needed to talk, and all of it comes back.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    checks, echo, eventually,
    kube::{mesh, node::Node, suite::Check},
    process::Process,
};
use serde_json::{Value, json};

use crate::{
    load::{SECRET, TO_THE_END, on},
    scene::{NOBODY, NODES, ROLL_OUT, Scene, addresses, url},
};

const CLIENT: (&str, &str) = ("shop", "client-a");
const API_READY: Duration = Duration::from_secs(120);
/// The agent and ztunnel, of which there is one on every node.
const ON_NODES: [&str; 2] = ["daemonset/node", "daemonset/ztunnel"];

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        traffic_goes_on_without_a_kubelet,
        traffic_goes_on_without_a_container_runtime,
        traffic_goes_on_without_the_api_server,
        traffic_goes_on_without_the_store_of_the_api_server,
        a_node_that_starts_again_with_its_pods_first_runs_none_outside_of_the_mesh,
    ]
}

async fn traffic_goes_on_without_a_kubelet(scene: &Scene) -> Result<()> {
    scene.goes_on_without_a_part_of_a_node(|node| &node.kubelet).await
}

async fn traffic_goes_on_without_a_container_runtime(scene: &Scene) -> Result<()> {
    scene.goes_on_without_a_part_of_a_node(|node| &node.containerd).await
}

async fn traffic_goes_on_without_the_api_server(scene: &Scene) -> Result<()> {
    scene.goes_on_without_a_part_of_the_control_plane(&scene.cluster.control().apiserver).await
}

async fn traffic_goes_on_without_the_store_of_the_api_server(scene: &Scene) -> Result<()> {
    scene.goes_on_without_a_part_of_the_control_plane(&scene.cluster.control().etcd).await
}

/// The agent is kept from the node until its pods have been tried without it.
async fn a_node_that_starts_again_with_its_pods_first_runs_none_outside_of_the_mesh(
    scene: &Scene,
) -> Result<()> {
    let node = scene.node(NODES[1])?;
    let web = scene.pods("shop", "app=web").await?;
    let near = web.iter().find(|pod| on(pod) == Some(NODES[0])).context("no replica on the first node")?;
    let near = url(*addresses(near).first().context("it has no address")?, echo::HTTP);
    scene
        .apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: beacon, namespace: shop}}\nspec:\n  nodeName: {}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: app, image: \"@SAMPLE@\", imagePullPolicy: Never, \
             args: [load, \"{near}{SECRET}\", --fresh, --rate, \"20\"]}}\n",
            NODES[1]
        ))
        .await?;
    scene.ready("shop", "beacon").await?;
    let shape = scene.cluster.shape();
    let restarted = scene.meanwhile(
        Box::pin(async {
            scene.under_way("beacon", "web").await?;
            scene.keep_agent_from(Some(NODES[1])).await?;
            node.power_off(shape)?;
            node.power_on(shape).await?;
            let waited = scene.waits_for_the_agent("beacon").await;
            scene.keep_agent_from(None).await?;
            waited?;
            for part in ON_NODES {
                scene.cluster.rolled_out(mesh::NAMESPACE, part, ROLL_OUT).await?;
            }
            scene.cluster.rolled_out("shop", "deployment/web", ROLL_OUT).await?;
            scene.ready("shop", "beacon").await?;
            scene.under_way("beacon", "web").await
        }),
        TO_THE_END,
    );
    // Requests to the replica of a node that is not there fail until the control plane has noticed.
    restarted.await?;
    for pod in ["beacon", "client-b"] {
        scene.becomes_captured("shop", pod, true).await?;
    }
    scene.answers(("shop", "client-b"), "http://web/").await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod", "beacon"]).await.map(drop)
}

impl Scene {
    async fn goes_on_without_a_part_of_a_node(&self, part: fn(&Node) -> &Process) -> Result<()> {
        let node = self.node(NODES[1])?;
        let trouble = async {
            part(node).kill()?;
            let outcome = self.under_way("load", "web").await;
            node.start_again(self.cluster.shape()).await?;
            outcome?;
            self.start_pod("late").await?;
            self.joins_and_leaves("late").await
        };
        self.without_a_failure(Box::pin(trouble)).await
    }

    async fn goes_on_without_a_part_of_the_control_plane(&self, part: &Process) -> Result<()> {
        let api = self.cluster.api();
        let trouble = async {
            let ztunnels = self.ztunnels().await?;
            part.kill()?;
            let outcome = self.goes_on(&ztunnels, ("load", "web")).await;
            part.start_again()?;
            outcome?;
            part.ready(API_READY, async || {
                ensure!(api.text("/readyz").await? == "ok", "the API server is not ready");
                Ok(())
            })
            .await?;
            self.start_pod("late").await?;
            self.joins_and_leaves("late").await
        };
        self.without_a_failure(Box::pin(trouble)).await?;
        eventually(ROLL_OUT, "the policy taken", async || self.apply(NOBODY).await).await?;
        let refused = self.is_refused(CLIENT, "http://web/").await;
        self.cluster.kubectl(&["-n", "shop", "delete", "authorizationpolicy", "nobody"]).await?;
        refused?;
        self.answers(CLIENT, "http://web/").await.map(drop)
    }

    /// Keeps the agent from starting on a node that it is wanted on, or lets it start again everywhere. Its pod there is
    /// made anew with an image that no node has; with a selector that excludes the node the mesh would leave it.
    async fn keep_agent_from(&self, node: Option<&str>) -> Result<()> {
        let missing =
            json!([{"name": "never", "image": "localhost/ambit/never:0", "imagePullPolicy": "Never"}]);
        let (strategy, first) = match node {
            Some(_) => (json!({"type": "OnDelete", "rollingUpdate": null}), missing),
            None => (json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}), Value::Null),
        };
        let template = json!({"spec": {"initContainers": first}});
        let change = json!({"spec": {"updateStrategy": strategy, "template": template}});
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/node", mesh::NAMESPACE);
        self.cluster.api().merge(&path, &change).await?;
        let Some(kept) = node else { return Ok(()) };
        // The controller goes by what it has seen of the DaemonSet; a pod that it makes before that is deleted again.
        eventually(ROLL_OUT, "an agent that does not start", async || {
            let agents = self.pods(mesh::NAMESPACE, "app.kubernetes.io/name=node").await?;
            let agent = agents.iter().find(|pod| on(pod) == Some(kept)).context("no pod of it")?;
            if agent.pointer("/spec/initContainers").is_some() {
                let phase = agent.pointer("/status/phase").and_then(Value::as_str);
                ensure!(phase == Some("Pending"), "its phase is {phase:?}");
                return Ok(());
            }
            let name = agent.pointer("/metadata/name").and_then(Value::as_str).context("it has no name")?;
            self.cluster.kubectl(&["-n", mesh::NAMESPACE, "delete", "pod", name]).await?;
            bail!("it was {name}")
        })
        .await
    }

    /// Waits until kubelet has said that a pod cannot start because the agent is not there.
    async fn waits_for_the_agent(&self, pod: &str) -> Result<()> {
        let uid = self.pod("shop", pod).await?;
        let uid = uid.pointer("/metadata/uid").and_then(Value::as_str).context("it has no uid")?;
        let path = format!("/api/v1/namespaces/shop/events?fieldSelector=involvedObject.uid%3D{uid}");
        eventually(ROLL_OUT, &format!("{pod} waiting for the agent"), async || {
            let events = self.object(&path).await?;
            let events = events.get("items").and_then(Value::as_array).cloned().unwrap_or_default();
            let messages: Vec<&str> =
                events.iter().filter_map(|event| event.get("message")?.as_str()).collect();
            let waits = |message: &&str| message.contains("sandbox") && message.contains("node agent");
            ensure!(messages.iter().any(waits), "events: {messages:?}");
            Ok(())
        })
        .await
    }
}
