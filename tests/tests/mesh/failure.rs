// SPDX-License-Identifier: Apache-2.0
//! Parts of the mesh are killed with SIGKILL while requests go on, and the wire is watched: what is in the mesh is never
//! seen in plaintext, what does not need the part goes on, and the part comes back.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{
    checks, eventually,
    kube::{
        mesh,
        suite::{Check, say},
    },
};

use serde_json::Value;

use crate::{
    load::TO_THE_END,
    scene::{NODES, SOON, Scene, mutual, name, restarts, url},
};

const CLIENT: (&str, &str) = ("shop", "client-a");
/// New connections must work again within this, whatever is slow on the machine; the figure itself is said.
const BACK: Duration = Duration::from_secs(40);

/// Times that ztunnel's process is killed, and how soon a new connection is answered then, by address and by name.
const KILLS: u32 = 20;
const AGAIN: Duration = Duration::from_secs(2);
/// Answers that may take longer: a machine that has much else to do may stop for longer than that by itself.
const LATE: usize = 2;
/// Connections that a ztunnel has taken before it is killed again: about a second's. What dies sooner after its start, again
/// and again, is left to the kubelet.
const LIVED: f64 = 20.0;

pub(crate) fn all() -> Vec<Check<Scene>> {
    checks![
        traffic_goes_on_without_control_and_a_pod_that_starts_then_is_captured,
        traffic_goes_on_without_the_agent_and_a_pod_that_starts_then_waits_for_it,
        a_killed_ztunnel_comes_back_and_nothing_is_in_plaintext_meanwhile,
        twenty_times_killed_ztunnel_is_back_for_new_connections_within_two_seconds,
    ]
}

async fn traffic_goes_on_without_control_and_a_pod_that_starts_then_is_captured(scene: &Scene) -> Result<()> {
    scene
        .without_a_failure(Box::pin(async {
            scene.kill_all("control").await?;
            scene.start_pod("late-a").await?;
            scene.joins_and_leaves("late-a").await
        }))
        .await?;
    scene.cluster.rolled_out(mesh::NAMESPACE, "deployment/control", SOON).await
}

async fn traffic_goes_on_without_the_agent_and_a_pod_that_starts_then_waits_for_it(
    scene: &Scene,
) -> Result<()> {
    scene
        .without_a_failure(Box::pin(async {
            scene.kill_all("node").await?;
            scene.start_pod("late-b").await?;
            scene.joins_and_leaves("late-b").await
        }))
        .await?;
    scene.cluster.rolled_out(mesh::NAMESPACE, "daemonset/node", SOON).await
}

async fn a_killed_ztunnel_comes_back_and_nothing_is_in_plaintext_meanwhile(scene: &Scene) -> Result<()> {
    let by_address = url(scene.address_of("shop", "web").await?, 80);
    let before = scene.container_restarts("ztunnel").await?;
    let mut back = None;
    let outcomes = scene
        .meanwhile(
            Box::pin(async {
                let killed = Instant::now();
                scene.kill_all("ztunnel").await?;
                let again = async |url: &str| {
                    let ask = async || scene.run(CLIENT, &["call", url, "--timeout-ms", "1000"]).await;
                    eventually(BACK, &format!("{url} after ztunnel was killed"), ask).await?;
                    anyhow::Ok(killed.elapsed())
                };
                back = Some(tokio::try_join!(again(&by_address), again("http://web/"))?);
                Ok(())
            }),
            TO_THE_END,
        )
        .await?;
    let (address, name) = back.context("it was not killed")?;
    say(&format!("ztunnel killed on both nodes: a new connection after {address:?}, by name after {name:?}"));
    for outcome in outcomes {
        say(&outcome.said);
    }
    // What a kubelet has not said yet would be taken for a restart during the next check.
    eventually(SOON, "both containers started again", async || {
        let now = scene.container_restarts("ztunnel").await?;
        let all = now.len() == before.len() && before.iter().zip(&now).all(|(old, new)| new.1 > old.1);
        ensure!(all, "{before:?}, then {now:?}");
        Ok(())
    })
    .await?;
    scene.cluster.rolled_out(mesh::NAMESPACE, "daemonset/ztunnel", SOON).await
}

/// The process that serves, on both nodes at once; its parent starts it again, and the kubelet has nothing to do. What counts
/// is the time from the kill to a new connection that was answered, without what the same question takes while all is
/// well.
async fn twenty_times_killed_ztunnel_is_back_for_new_connections_within_two_seconds(
    scene: &Scene,
) -> Result<()> {
    let by_address = url(scene.address_of("shop", "web").await?, 80);
    let before = scene.container_restarts("ztunnel").await?;
    scene.start_load(("shop", "load"), &by_address, TO_THE_END).await?;
    let killed = scene.kill_again_and_again(&by_address).await;
    let [fresh, _kept] = scene.end_load(("shop", "load")).await?;
    let mut taken = killed?;
    taken.sort_unstable();
    let (median, _) = taken.get(taken.len() / 2).copied().context("it was not killed")?;
    let late = taken.iter().filter(|(taken, usual)| taken.saturating_sub(*usual) > AGAIN).count();
    let ((most, _), p99) = (taken.last().copied().unwrap_or_default(), fresh.p99);
    say(&format!("ztunnel's process killed {KILLS} times: answered after {median:?}, at most {most:?}"));
    say(&format!(
        "connections opened meanwhile: {} answered, p99 {p99:?}, {} failed",
        fresh.ok, fresh.failed
    ));
    ensure!(late <= LATE, "answered after, and usually after: {taken:?}");
    // A connection that stood when its ztunnel was killed has ended with it: of twenty a second not more than one or two.
    ensure!(fresh.ok > 0 && fresh.failed <= u64::from(2 * KILLS), "{}", fresh.said);
    eventually(SOON, "every restart counted", async || {
        let restarts = scene.count("ambit_restarts", &[]).await?;
        ensure!(restarts >= f64::from(KILLS) * 2.0, "counted are {restarts} restarts");
        Ok(())
    })
    .await?;
    let after = scene.container_restarts("ztunnel").await?;
    ensure!(after == before, "the kubelet has started containers again: {before:?}, then {after:?}");
    scene.cluster.rolled_out(mesh::NAMESPACE, "daemonset/ztunnel", SOON).await
}

impl Scene {
    /// Kills ztunnel's process on both nodes, waits for an answer, and for a life that is worth the name; how long the
    /// answers took, by address and by name, and how long they take while all is well.
    async fn kill_again_and_again(&self, by_address: &str) -> Result<Vec<(Duration, Duration)>> {
        let mut taken = Vec::new();
        for _ in 0..KILLS {
            eventually(SOON, "a ztunnel that serves", async || {
                let lived = self.mutual("load", "web").await?;
                ensure!(lived >= LIVED, "{lived} connections");
                Ok(())
            })
            .await?;
            // What kubectl, the API server, kubelet and runtime take to ask is none of ztunnel's time.
            let usual = self.answered(by_address, Instant::now()).await?;
            let killed = Instant::now();
            self.kill_serving("ztunnel").await?;
            let again = self.answered(by_address, killed).await?;
            taken.extend(again.into_iter().zip(usual));
        }
        Ok(taken)
    }

    /// How long after a moment a new connection is answered by address, and by name.
    async fn answered(&self, by_address: &str, since: Instant) -> Result<[Duration; 2]> {
        let again = async |url: &str| {
            let ask = async || self.run(CLIENT, &["call", url, "--timeout-ms", "2000"]).await;
            eventually(BACK, &format!("{url} answering"), ask).await?;
            anyhow::Ok(since.elapsed())
        };
        let (address, name) = tokio::try_join!(again(by_address), again("http://web/"))?;
        Ok([address, name])
    }

    /// How often the kubelets have started the container of each pod of a part again.
    async fn container_restarts(&self, part: &str) -> Result<Vec<(String, u64)>> {
        let pods = self.pods(mesh::NAMESPACE, &format!("app.kubernetes.io/name={part}")).await?;
        let count = |pod: &Value| Ok((name(pod)?.to_owned(), restarts(pod).context("no container")?));
        pods.iter().map(count).collect()
    }

    /// Connections of a pair that are not open any more.
    pub(crate) async fn closed(&self, source: &str, destination: &str) -> Result<f64> {
        self.count("istio_tcp_connections_closed_total", &mutual(source, destination)).await
    }

    /// Starts a pod in the shop, on the other node than that of the requests.
    pub(crate) async fn start_pod(&self, name: &str) -> Result<()> {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  nodeName: {}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: app, image: \"@SAMPLE@\", imagePullPolicy: Never, \
             args: [serve, --name, {name}]}}\n",
            NODES[1]
        );
        // The API server, or its store, may just have come back.
        eventually(SOON, &format!("{name} taken"), async || self.apply(&pod).await).await
    }

    /// A pod that has been started becomes ready, is in the mesh, answers nobody less than others, and goes.
    pub(crate) async fn joins_and_leaves(&self, pod: &str) -> Result<()> {
        self.ready("shop", pod).await?;
        // The mark is written when the pod runs already: the agent may just have found the API server again.
        self.becomes_captured("shop", pod, true).await?;
        self.answers(("shop", pod), "http://web/").await?;
        self.cluster.kubectl(&["-n", "shop", "delete", "pod", pod]).await.map(drop)
    }
}
