// SPDX-License-Identifier: Apache-2.0
//! A new version is rolled out, a namespace leaves, and the mesh is taken away, while requests go on.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{
    checks, eventually,
    kube::{mesh, suite::Check},
};
use serde_json::Value;

use crate::load::none_failed;
use crate::scene::{LABEL, NODES, ROLL_OUT, SOON, Scene, name};

/// How long a connection outlives the ztunnel that has it.
const KEPT: Duration = Duration::from_secs(20);
const CLIENT: (&str, &str) = ("shop", "client-a");

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_roll_out_of_control_and_the_agent_fails_no_request,
        a_roll_out_of_ztunnel_fails_no_new_connection_and_resets_none,
        a_namespace_that_loses_its_label_is_plain_again,
        an_uninstall_leaves_nothing_and_pods_keep_talking,
    ]
}

async fn a_roll_out_of_control_and_the_agent_fails_no_request(scene: &Scene) -> Result<()> {
    scene.without_a_failure(Box::pin(roll_out(scene, &["deployment/control", "daemonset/node"]))).await
}

/// The connection that is kept stays with the old one, which has minutes to go; the next node waits for its end.
async fn a_roll_out_of_ztunnel_fails_no_new_connection_and_resets_none(scene: &Scene) -> Result<()> {
    none_failed(&scene.meanwhile(Box::pin(roll_out(scene, &["daemonset/ztunnel"])), KEPT).await?)
}

async fn roll_out(scene: &Scene, parts: &[&str]) -> Result<()> {
    for part in parts {
        scene.cluster.kubectl(&["-n", mesh::NAMESPACE, "rollout", "restart", part]).await?;
    }
    for part in parts {
        scene.cluster.rolled_out(mesh::NAMESPACE, part, ROLL_OUT).await?;
    }
    Ok(())
}

async fn a_namespace_that_loses_its_label_is_plain_again(scene: &Scene) -> Result<()> {
    scene.cluster.kubectl(&["label", "namespace", "shop", "istio.io/dataplane-mode-"]).await?;
    for pod in scene.pods("shop", "app").await? {
        scene.becomes_captured("shop", name(&pod)?, false).await?;
    }
    let before = scene.mutual("client-a", "web").await?;
    scene.answers(CLIENT, "http://web/").await?;
    ensure!(scene.mutual("client-a", "web").await? <= before, "it is still in the mesh");
    scene.cluster.kubectl(&["label", "namespace", "shop", LABEL]).await?;
    for pod in scene.pods("shop", "app").await? {
        scene.becomes_captured("shop", name(&pod)?, true).await?;
    }
    scene.answers(CLIENT, "http://web/").await.map(drop)
}

async fn an_uninstall_leaves_nothing_and_pods_keep_talking(scene: &Scene) -> Result<()> {
    mesh::uninstall(&scene.cluster).await?;
    scene.answers(CLIENT, "http://web/").await?;
    for pod in scene.pods("shop", "app").await? {
        ensure!(
            !scene.is_captured("shop", name(&pod)?).await?,
            "{} is still said to be captured",
            name(&pod)?
        );
    }
    let label = "app.kubernetes.io/part-of=ambit";
    let kinds = "clusterroles,clusterrolebindings,validatingwebhookconfigurations";
    let left = scene.cluster.kubectl(&["get", kinds, "-l", label, "-o", "name"]).await?;
    ensure!(left.is_empty(), "left in the cluster: {left}");
    let own =
        ["-n", mesh::NAMESPACE, "get", "all,secrets,leases,roles,rolebindings,serviceaccounts", "-o", "name"];
    eventually(SOON, "an empty namespace", async || {
        let left = scene.cluster.kubectl(&own).await?;
        let left: Vec<&str> = left.lines().filter(|line| *line != "serviceaccount/default").collect();
        ensure!(left.is_empty(), "left in the namespace: {left:?}");
        Ok(())
    })
    .await?;
    let roots = scene.object("/api/v1/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert").await?;
    let roots = roots.get("items").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(roots == 0, "{roots} ConfigMaps with roots are left");
    for node in NODES {
        let folder = lab::kube::node::folder(scene.cluster.shape(), node);
        for (place, ours) in [("cni-conf", "00-ambit.conflist"), ("cni-bin", "ambit-cni")] {
            ensure!(!folder.join(place).join(ours).exists(), "{node} still has {ours}");
        }
    }
    Ok(())
}
