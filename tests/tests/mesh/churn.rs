// SPDX-License-Identifier: Apache-2.0
//! Pods come and go by the dozen while requests go on, in the mesh, through a waypoint, and beside the mesh: namespaces in
//! the mesh are compared with one outside of it that goes through the same.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use lab::{
    checks, eventually,
    kube::suite::{Check, say},
};

use crate::load::TO_THE_END;
use crate::scene::{LABEL, NODES, ROLL_OUT, SOON, Scene, name};

/// In the mesh, in it behind a waypoint, and not in it.
const INSIDE: &str = "herd-inside";
const BEHIND: &str = "herd-behind";
const OUTSIDE: &str = "herd-outside";
const ALL: [&str; 3] = [INSIDE, BEHIND, OUTSIDE];
const LOAD: &str = "load";
const URL: &str = "http://herd/";
/// Roll-outs of ten replicas, one after the other.
const RESTARTS: usize = 20;
/// What chance decides, in every namespace alike: a request that is under way at the replica that ends, over a new
/// connection and over the one that is kept.
const UNDER_WAY: u64 = 2;
/// Pods that start at once on one node.
const CROWD: usize = 30;

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        a_pod_deleted_under_load_costs_no_more_requests_than_without_the_mesh,
        twenty_restarts_under_load_cost_no_more_requests_than_without_the_mesh,
        thirty_pods_that_start_at_once_are_all_captured,
    ]
}

async fn a_pod_deleted_under_load_costs_no_more_requests_than_without_the_mesh(scene: &Scene) -> Result<()> {
    scene.start_herds().await?;
    let deleted = async || {
        for namespace in ALL {
            let herd = scene.pods(namespace, "app=herd").await?;
            for pod in herd.iter().take(3) {
                scene.cluster.kubectl(&["-n", namespace, "delete", "pod", name(pod)?]).await?;
            }
            scene.cluster.rolled_out(namespace, "deployment/herd", ROLL_OUT).await?;
        }
        Ok(())
    };
    scene.compare("three pods of ten deleted", deleted).await
}

async fn twenty_restarts_under_load_cost_no_more_requests_than_without_the_mesh(scene: &Scene) -> Result<()> {
    scene.start_herds().await?;
    let restarted = async || {
        for _ in 0..RESTARTS {
            for namespace in ALL {
                scene.cluster.kubectl(&["-n", namespace, "rollout", "restart", "deployment/herd"]).await?;
            }
            for namespace in ALL {
                scene.cluster.rolled_out(namespace, "deployment/herd", ROLL_OUT).await?;
            }
        }
        Ok(())
    };
    scene.compare(&format!("{RESTARTS} restarts of ten replicas"), restarted).await
}

async fn thirty_pods_that_start_at_once_are_all_captured(scene: &Scene) -> Result<()> {
    scene.start_herds().await?;
    let mut taken = BTreeMap::new();
    scene.cluster.kubectl(&["delete", "namespace", BEHIND]).await?;
    for namespace in [OUTSIDE, INSIDE] {
        let replicas = |count: usize| format!("--replicas={count}");
        scene.cluster.kubectl(&["-n", namespace, "scale", "deployment/herd", &replicas(0)]).await?;
        eventually(SOON, "an empty namespace", async || {
            let left = scene.pods(namespace, "app=herd").await?.len();
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
        .await?;
        let on_one = format!(r#"{{"spec":{{"template":{{"spec":{{"nodeName":"{}"}}}}}}}}"#, NODES[0]);
        scene.cluster.kubectl(&["-n", namespace, "patch", "deployment/herd", "-p", &on_one]).await?;
        let since = Timestamp::now();
        scene.cluster.kubectl(&["-n", namespace, "scale", "deployment/herd", &replicas(CROWD)]).await?;
        scene.cluster.rolled_out(namespace, "deployment/herd", ROLL_OUT * 2).await?;
        taken.insert(namespace, scene.sandboxes(namespace, since)?);
    }
    for pod in scene.pods(INSIDE, "app=herd").await? {
        scene.becomes_captured(INSIDE, name(&pod)?, true).await?;
    }
    for (namespace, mut times) in taken {
        ensure!(times.len() >= CROWD, "{namespace}: {} sandboxes", times.len());
        times.sort_unstable();
        let (median, most) = (times.get(times.len() / 2), times.last());
        say(&format!("{CROWD} pods at once, {namespace}: sandbox after {median:?}, at most {most:?}"));
    }
    scene.cluster.kubectl(&["delete", "namespace", INSIDE, OUTSIDE, "--wait=false"]).await.map(drop)
}

impl Scene {
    /// Makes the namespaces and their replicas where they are not there yet.
    async fn start_herds(&self) -> Result<()> {
        for namespace in ALL {
            self.apply(&herd(namespace)).await?;
        }
        for namespace in [INSIDE, BEHIND] {
            self.cluster.kubectl(&["label", "--overwrite", "namespace", namespace, LABEL]).await?;
        }
        self.ambit(&["waypoint", "apply", "-n", BEHIND, "--enroll-namespace", "--wait"]).await?;
        for namespace in ALL {
            self.cluster.rolled_out(namespace, "deployment/herd", ROLL_OUT).await?;
        }
        // What is under way in a pod as it joins is cut, which is no fault of what follows.
        for namespace in [INSIDE, BEHIND] {
            let mut herd = self.pods(namespace, "app=herd").await?;
            herd.retain(|pod| pod.pointer("/metadata/deletionTimestamp").is_none());
            for pod in herd {
                self.becomes_captured(namespace, name(&pod)?, true).await?;
            }
        }
        Ok(())
    }

    /// Does something in all namespaces while requests go on in each, and compares what became of them.
    async fn compare(&self, what: &str, trouble: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        for namespace in ALL {
            self.start_load((namespace, LOAD), URL, TO_THE_END).await?;
        }
        let trouble = trouble().await;
        let mut failed = BTreeMap::new();
        for namespace in ALL {
            let outcomes = self.end_load((namespace, LOAD)).await?;
            for outcome in &outcomes {
                say(&format!("{what}, {namespace}, {}", outcome.said));
            }
            failed.insert(namespace, outcomes.iter().map(|outcome| outcome.failed).sum::<u64>());
        }
        trouble?;
        for namespace in [INSIDE, BEHIND] {
            let of = |namespace| failed.get(namespace).copied().unwrap_or_default();
            ensure!(of(namespace) <= of(OUTSIDE) + UNDER_WAY, "failed requests: {failed:?}");
        }
        Ok(())
    }

    /// How long the runtime of the first node took to make the sandbox of each pod of a namespace since a moment.
    fn sandboxes(&self, namespace: &str, since: Timestamp) -> Result<Vec<Duration>> {
        let node = self.node(NODES[0])?;
        let theirs = format!(r#" namespace:\"{namespace}\""#);
        let mut begun: BTreeMap<String, Timestamp> = BTreeMap::new();
        let mut taken = Vec::new();
        for line in fs::read_to_string(node.containerd.log_path())?.lines() {
            let Some((_, rest)) = line.split_once("RunPodSandbox for ") else { continue };
            let Some((pod, end)) = rest.split_once(&theirs) else { continue };
            let at = time(line).with_context(|| format!("no time in {line}"))?;
            if end.contains("returns sandbox id") {
                let from = begun.remove(pod).filter(|from| *from >= since);
                taken.extend(from.map(|from| Duration::try_from(at.duration_since(from))).transpose()?);
            } else if !end.contains("failed") {
                begun.insert(pod.to_owned(), at);
            }
        }
        Ok(taken)
    }
}

/// The time of a line of containerd's log.
fn time(line: &str) -> Option<Timestamp> {
    line.split_once("time=\"")?.1.split_once('"')?.0.parse().ok()
}

/// A namespace with replicas that end as soon as they are asked to.
fn herd(namespace: &str) -> String {
    // Fewer do behind the waypoint, of whose requests each has the more: as many are at stake in a roll-out, and two cores
    // are not kept busy with starting pods alone.
    let replicas = if namespace == BEHIND { 4 } else { 10 };
    format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}}}\n---\napiVersion: apps/v1\nkind: Deployment\n\
         metadata: {{name: herd, namespace: {namespace}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: herd}}}}\n  \
         template:\n    metadata: {{labels: {{app: herd}}}}\n    spec:\n      containers:\n      - name: app\n        image: \
         \"@SAMPLE@\"\n        imagePullPolicy: Never\n        args: [serve, --name, herd]\n        readinessProbe: \
         {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: herd, \
         namespace: {namespace}}}\nspec:\n  selector: {{app: herd}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]\n"
    )
}
