// SPDX-License-Identifier: Apache-2.0
//! Parts of the mesh are killed with SIGKILL while requests go on, and the wire is watched: what is in the mesh is never
//! seen in plaintext, what does not need the part goes on, and the part comes back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{
    checks, echo, eventually,
    kube::{
        cgroup, mesh,
        suite::{Check, say},
    },
    net::sniffer::Sniffer,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::scene::{NODES, SOON, Scene, addresses, name, url};

const CLIENT: (&str, &str) = ("shop", "client-a");
const PASSER_BY: (&str, &str) = ("street", "passer-by");
/// How long the requests of a check go on.
const LOAD_SECONDS: &str = "12";
/// New connections must work again within this, whatever is slow on the machine; the figure itself is said.
const BACK: Duration = Duration::from_secs(20);

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        traffic_goes_on_without_control_and_a_pod_that_starts_then_is_captured,
        traffic_goes_on_without_the_agent_and_a_pod_that_starts_then_waits_for_it,
        a_killed_ztunnel_comes_back_and_nothing_is_in_plaintext_meanwhile,
    ]
}

async fn traffic_goes_on_without_control_and_a_pod_that_starts_then_is_captured(scene: &Scene) -> Result<()> {
    let trouble = async {
        scene.under_way("client-a", "web").await?;
        scene.kill_all("control").await?;
        scene.start_pod("late-a").await?;
        scene.ready("shop", "late-a").await?;
        ensure!(scene.is_captured("shop", "late-a").await?, "it has started outside of the mesh");
        scene.answers(("shop", "late-a"), "http://web/").await.map(drop)
    };
    scene.without_a_failure("http://web/", trouble).await?;
    scene.cluster.rolled_out(mesh::NAMESPACE, "deployment/control", SOON).await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod/late-a"]).await.map(drop)
}

async fn traffic_goes_on_without_the_agent_and_a_pod_that_starts_then_waits_for_it(
    scene: &Scene,
) -> Result<()> {
    let trouble = async {
        scene.under_way("client-a", "web").await?;
        scene.kill_all("node").await?;
        scene.start_pod("late-b").await?;
        scene.ready("shop", "late-b").await?;
        ensure!(scene.is_captured("shop", "late-b").await?, "it has started outside of the mesh");
        scene.answers(("shop", "late-b"), "http://web/").await.map(drop)
    };
    scene.without_a_failure("http://web/", trouble).await?;
    scene.cluster.rolled_out(mesh::NAMESPACE, "daemonset/node", SOON).await?;
    scene.cluster.kubectl(&["-n", "shop", "delete", "pod/late-b"]).await.map(drop)
}

async fn a_killed_ztunnel_comes_back_and_nothing_is_in_plaintext_meanwhile(scene: &Scene) -> Result<()> {
    let node = scene.cluster.shape().namespace(NODES[0]);
    let (secret, open) = ("secret-of-the-shop", "open-to-everybody");
    let sniffer = Sniffer::looking_for(&node, "eth0", &[secret.as_bytes(), open.as_bytes()])?;
    let web = scene.pods("shop", "app=web").await?;
    let far = web
        .iter()
        .find(|pod| pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(NODES[1]))
        .context("no replica on the other node")?;
    let far = url(*addresses(far).first().context("it has no address")?, echo::HTTP);
    let target = format!("{far}{secret}");
    let load =
        ["load", &target, "--fresh", "--rate", "20", "--seconds", LOAD_SECONDS, "--timeout-ms", "1000"];
    let trouble = async {
        scene.under_way("client-a", "web").await?;
        let killed = Instant::now();
        scene.kill_all("ztunnel").await?;
        eventually(BACK, "a new connection after ztunnel was killed", async || {
            scene.call(CLIENT, &target).await
        })
        .await?;
        anyhow::Ok(killed.elapsed())
    };
    let (load, back) = tokio::join!(scene.run(CLIENT, &load), trouble);
    let (load, back) = (load?, back?);
    say(&format!("ztunnel killed on both nodes: a new connection after {back:?}; {load}"));
    scene.call(PASSER_BY, &format!("{far}{open}")).await.context("from outside of the mesh")?;
    let seen = sniffer.stop()?;
    ensure!(seen.with(open.as_bytes()) > 0, "the sniffer is blind: {} frames", seen.seen);
    ensure!(seen.with(secret.as_bytes()) == 0, "{} frames in plaintext", seen.with(secret.as_bytes()));
    scene.cluster.rolled_out(mesh::NAMESPACE, "daemonset/ztunnel", SOON).await
}

impl Scene {
    /// Connections of a pair that are not open any more.
    pub(crate) async fn closed(&self, source: &str, destination: &str) -> Result<f64> {
        let labels = [
            ("reporter", "destination"),
            ("connection_security_policy", "mutual_tls"),
            ("source_workload", source),
            ("destination_workload", destination),
        ];
        self.count("istio_tcp_connections_closed_total", &labels).await
    }

    /// Waits until a connection of a pair has been opened.
    pub(crate) async fn under_way(&self, source: &str, destination: &str) -> Result<()> {
        let before = self.mutual(source, destination).await?;
        eventually(SOON, "requests under way", async || {
            ensure!(self.mutual(source, destination).await? > before, "no new connection");
            Ok(())
        })
        .await
    }

    /// Does something while requests go on, over new connections and over one that is kept, of which none may fail.
    pub(crate) async fn without_a_failure(
        &self,
        url: &str,
        trouble: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let kept = ["load", url, "--rate", "20", "--seconds", LOAD_SECONDS];
        let fresh = ["load", url, "--fresh", "--rate", "20", "--seconds", LOAD_SECONDS];
        let (kept, fresh, trouble) = tokio::join!(self.run(CLIENT, &kept), self.run(CLIENT, &fresh), trouble);
        trouble?;
        for said in [kept?, fresh?] {
            let result: Value = serde_json::from_str(&said).context("what the load says")?;
            let count = |field: &str| result.get(field).and_then(Value::as_u64);
            ensure!(count("failed") == Some(0) && count("ok") > Some(100), "{said}");
        }
        Ok(())
    }

    pub(crate) async fn start_pod(&self, name: &str) -> Result<()> {
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: app, image: \"@SAMPLE@\", imagePullPolicy: Never, \
             args: [serve, --name, {name}]}}\n"
        ))
        .await
    }

    /// Kills every container of a part of the mesh.
    async fn kill_all(&self, part: &str) -> Result<()> {
        let label = format!("app.kubernetes.io/name={part}");
        for pod in self.pods(mesh::NAMESPACE, &label).await? {
            let id = pod.pointer("/status/containerStatuses/0/containerID").and_then(Value::as_str);
            let id = id.and_then(|id| id.strip_prefix("containerd://")).context("it has no container")?;
            let groups = cgroup::containers(&[id.to_owned()])?;
            let Some(process) = groups.iter().flat_map(|group| cgroup::processes(group)).next() else {
                bail!("{} has no process", name(&pod)?)
            };
            kill(Pid::from_raw(process), Signal::SIGKILL).context("killing it")?;
        }
        Ok(())
    }
}
