// SPDX-License-Identifier: Apache-2.0
//! A new version is rolled out, a namespace leaves, and the mesh is taken away, while requests go on.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use lab::{
    checks, eventually,
    kube::{
        mesh,
        suite::{Check, say},
    },
};
use serde_json::Value;

use crate::load::{Outcome, TO_THE_END, none_failed};
use crate::said;
use crate::scene::{LABEL, NODES, ROLL_OUT, SOON, Scene, name};

/// How long a connection outlives the ztunnel that has it: less than that waits for it (`GRACE`).
const KEPT: Duration = Duration::from_secs(20);
const ZTUNNEL: &str = "app.kubernetes.io/name=ztunnel";
const CLIENT: (&str, &str) = ("shop", "client-a");

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_roll_out_of_control_and_the_agent_fails_no_request,
        a_roll_out_of_ztunnel_fails_no_new_connection_and_resets_none,
        what_outlives_the_drain_of_a_ztunnel_is_closed_and_counted,
        an_upgrade_with_other_values_and_its_rollback_fail_no_request,
        a_namespace_that_loses_its_label_is_plain_again,
        an_uninstall_leaves_nothing_and_pods_keep_talking,
    ]
}

async fn a_roll_out_of_control_and_the_agent_fails_no_request(scene: &Scene) -> Result<()> {
    scene.without_a_failure(Box::pin(roll_out(scene, &["deployment/control", "daemonset/node"]))).await
}

/// The connection that is kept stays with the old one, which has minutes to go; the next node waits for its end.
async fn a_roll_out_of_ztunnel_fails_no_new_connection_and_resets_none(scene: &Scene) -> Result<()> {
    let (closed, outcomes) = scene.rolls_ztunnel_out(KEPT).await?;
    none_failed(&outcomes)?;
    say(&format!("ztunnel rolled out: connections closed at the end of the drain on each node: {closed:?}"));
    ensure!(closed.len() == NODES.len() && closed.iter().all(|count| *count == 0), "closed: {closed:?}");
    Ok(())
}

/// New connections do not notice; the one that is kept is opened again.
async fn what_outlives_the_drain_of_a_ztunnel_is_closed_and_counted(scene: &Scene) -> Result<()> {
    let (closed, [fresh, kept]) = scene.rolls_ztunnel_out(TO_THE_END).await?;
    say(&format!("the same with a connection that is kept: closed on each node: {closed:?}; {}", kept.said));
    ensure!(fresh.failed == 0, "{}", fresh.said);
    let sum: u64 = closed.iter().sum();
    ensure!(sum > 0 && kept.failed <= sum && kept.ok > 0, "closed: {closed:?}; {}", kept.said);
    Ok(())
}

/// Every part gets something else, and what it had before again.
async fn an_upgrade_with_other_values_and_its_rollback_fail_no_request(scene: &Scene) -> Result<()> {
    let parts = ["deployment/control", "daemonset/node", "daemonset/ztunnel"];
    let generations = async || {
        let mut generations = Vec::new();
        for part in parts {
            let get = ["-n", mesh::NAMESPACE, "get", part, "-o", "jsonpath={.metadata.generation}"];
            generations.push(scene.cluster.kubectl(&get).await?);
        }
        anyhow::Ok(generations)
    };
    let chart = mesh::repository().join("charts/ambit").display().to_string();
    let wait = ["-n", mesh::NAMESPACE, "--wait", "--timeout", "4m"];
    let changed = async {
        let before = generations().await?;
        let values = "global.logLevel=info\\,access=off,control.replicas=3,node.resources.limits.memory=300Mi,\
                      ztunnel.resources.limits.memory=1100Mi";
        let upgrade = ["upgrade", mesh::RELEASE, &chart, "--reuse-values", "--set", values];
        scene.cluster.helm(&[&upgrade, wait.as_slice()].concat()).await?;
        let upgraded = generations().await?;
        ensure!(before.iter().zip(&upgraded).all(|(old, new)| old != new), "{before:?} and {upgraded:?}");
        for part in parts {
            scene.cluster.rolled_out(mesh::NAMESPACE, part, ROLL_OUT).await?;
        }
        scene.start_pod("late").await?;
        scene.joins_and_leaves("late").await?;
        scene.cluster.helm(&[["rollback", mesh::RELEASE].as_slice(), wait.as_slice()].concat()).await?;
        for part in parts {
            scene.cluster.rolled_out(mesh::NAMESPACE, part, ROLL_OUT).await?;
        }
        scene.start_pod("later").await?;
        scene.joins_and_leaves("later").await
    };
    none_failed(&scene.meanwhile(Box::pin(changed), KEPT).await?)
}

/// What a ztunnel says at the end of its drain.
fn closed_at_the_deadline(log: &str) -> Result<u64> {
    let line = log.lines().rev().find(|line| line.contains("closed=")).context("no word on the drain")?;
    let (_, count) = line.rsplit_once("closed=").context("no count")?;
    let count: String = count.chars().take_while(char::is_ascii_digit).collect();
    count.parse().with_context(|| format!("the count in {line}"))
}

impl Scene {
    /// Rolls ztunnel out while requests go on; how many connections each node's closed at its deadline, and what became of
    /// the requests.
    async fn rolls_ztunnel_out(&self, kept: Duration) -> Result<(Vec<u64>, [Outcome; 2])> {
        let mut closed = Vec::new();
        let rolled_out = async {
            let mut old = self.pods(mesh::NAMESPACE, ZTUNNEL).await?;
            old.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
            let names = old.iter().map(name).collect::<Result<Vec<_>>>()?;
            // Their logs go with them.
            let logs = join_all(names.iter().map(|pod| self.log_to_its_end(pod)));
            let (rolled_out, logs) = tokio::join!(roll_out(self, &["daemonset/ztunnel"]), logs);
            for log in logs {
                closed.push(closed_at_the_deadline(&log?)?);
            }
            rolled_out
        };
        let outcomes = self.meanwhile(Box::pin(rolled_out), kept).await?;
        Ok((closed, outcomes))
    }

    /// What a pod of the mesh says until it has ended.
    async fn log_to_its_end(&self, pod: &str) -> Result<String> {
        self.cluster.kubectl(&["-n", mesh::NAMESPACE, "logs", "-f", "--tail=-1", pod]).await
    }
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
    scene.calls_in_plaintext(CLIENT).await?;
    scene.cluster.kubectl(&["label", "namespace", "shop", LABEL]).await?;
    for pod in scene.pods("shop", "app").await? {
        scene.becomes_captured("shop", name(&pod)?, true).await?;
    }
    scene.answers(CLIENT, "http://web/").await.map(drop)
}

async fn an_uninstall_leaves_nothing_and_pods_keep_talking(scene: &Scene) -> Result<()> {
    said::of_objects(scene).await?;
    scene.ambit(&["uninstall", "--wait", "--timeout", "3m"]).await?;
    said::is_taken_back(scene).await?;
    scene.answers(CLIENT, "http://web/").await?;
    for pod in scene.pods("shop", "app").await? {
        scene.becomes_captured("shop", name(&pod)?, false).await?;
    }
    let label = "app.kubernetes.io/part-of=ambit";
    let kinds = "clusterroles,clusterrolebindings,validatingwebhookconfigurations,validatingadmissionpolicies,\
                 validatingadmissionpolicybindings,gatewayclasses";
    eventually(SOON, "nothing in the cluster", async || {
        let left = scene.cluster.kubectl(&["get", kinds, "-l", label, "-o", "name"]).await?;
        ensure!(left.is_empty(), "left in the cluster: {left}");
        Ok(())
    })
    .await?;
    let kinds = "all,secrets,leases,roles,rolebindings,serviceaccounts,configmaps,networkpolicies,\
                 poddisruptionbudgets";
    let own = ["-n", mesh::NAMESPACE, "get", kinds, "-o", "name"];
    // What Kubernetes itself puts into every namespace.
    let everywhere = ["serviceaccount/default", "configmap/kube-root-ca.crt"];
    eventually(SOON, "an empty namespace", async || {
        let left = scene.cluster.kubectl(&own).await?;
        let left: Vec<&str> = left.lines().filter(|line| !everywhere.contains(line)).collect();
        ensure!(left.is_empty(), "left in the namespace: {left:?}");
        Ok(())
    })
    .await?;
    eventually(SOON, "no roots", async || {
        let path = "/api/v1/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert";
        let roots = scene.object(path).await?.get("items").and_then(Value::as_array).map_or(0, Vec::len);
        ensure!(roots == 0, "{roots} ConfigMaps with roots are left");
        Ok(())
    })
    .await?;
    eventually(SOON, "nothing on the nodes", async || {
        NODES.iter().try_for_each(|node| nothing_left(scene, node))
    })
    .await
}

/// Fails when a node has anything of the mesh.
fn nothing_left(scene: &Scene, node: &str) -> Result<()> {
    let folder = lab::kube::node::folder(scene.cluster.shape(), node);
    for (place, ours) in [("cni-conf", "00-ambit.conflist"), ("cni-bin", "ambit-cni")] {
        ensure!(!folder.join(place).join(ours).exists(), "{node} still has {ours}");
    }
    let left = left_below(&folder.join("run-ambit"))?;
    ensure!(left.is_empty(), "{node} still has {left:?}");
    Ok(())
}

/// Files and sockets below a folder, which need not be there.
fn left_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("reading {}", folder.display())),
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() { folders.push(entry.path()) } else { left.push(entry.path()) }
        }
    }
    Ok(left)
}
