// SPDX-License-Identifier: Apache-2.0
//! Requests that go on while something happens to the mesh or to what it stands on, and a look at the wire meanwhile:
//! what is in the mesh is never seen in plaintext. They come from a pod of their own, for `kubectl exec` needs most of
//! what is killed here.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::future::BoxFuture;
use lab::{
    eventually,
    kube::{cgroup, mesh},
    net::sniffer::Sniffer,
};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::scene::{NODES, SOON, Scene, addresses, url};

/// Seen on the wire, it is plaintext of a pod in the mesh.
pub(crate) const SECRET: &str = "secret-of-the-shop";
/// What the pod outside of the mesh sends, which must be seen.
const OPEN: &str = "open-to-everybody";
const PASSER_BY: (&str, &str) = ("street", "passer-by");
/// The containers of a pod that sends requests: over a new connection each, and over one that is kept.
const WAYS: [&str; 2] = ["fresh", "kept"];

/// Longer than any check.
pub(crate) const TO_THE_END: Duration = Duration::from_secs(900);

/// What became of requests.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) ok: u64,
    pub(crate) failed: u64,
    /// Of a hundred that were answered, all but one took no longer.
    pub(crate) p99: Duration,
    /// All that is known of them, in JSON.
    pub(crate) said: String,
}

impl Scene {
    /// Does something while requests go on from the mesh to `http://web/`; none may fail.
    pub(crate) async fn without_a_failure(&self, trouble: BoxFuture<'_, Result<()>>) -> Result<()> {
        none_failed(&self.meanwhile(trouble, TO_THE_END).await?)
    }

    /// Does something while requests go on from the mesh to `http://web/`, of which nothing may be seen on the wire. The
    /// connection that is kept is given up after `kept`.
    pub(crate) async fn meanwhile(
        &self,
        trouble: BoxFuture<'_, Result<()>>,
        kept: Duration,
    ) -> Result<[Outcome; 2]> {
        let sniffer = Sniffer::looking_for(
            &self.cluster.shape().namespace(NODES[0]),
            "eth0",
            &[SECRET.as_bytes(), OPEN.as_bytes()],
        )?;
        let load = ("shop", "load");
        self.start_load(load, &format!("http://web/{SECRET}"), kept).await?;
        let trouble = async {
            self.under_way("load", "web").await?;
            trouble.await
        };
        let trouble = trouble.await;
        let outcomes = self.end_load(load).await;
        trouble?;
        let web = self.pods("shop", "app=web").await?;
        let far = web.iter().find(|pod| on(pod) == Some(NODES[1])).context("no replica on the other node")?;
        let far = url(*addresses(far).first().context("it has no address")?, lab::echo::HTTP);
        eventually(SOON, "a call from outside of the mesh", async || {
            self.call(PASSER_BY, &format!("{far}{OPEN}")).await
        })
        .await?;
        let seen = sniffer.stop()?;
        ensure!(seen.with(OPEN.as_bytes()) > 0, "the sniffer is blind: {} frames", seen.seen);
        let plain = seen.with(SECRET.as_bytes());
        ensure!(plain == 0, "{plain} frames in plaintext");
        outcomes
    }

    /// Starts a pod that sends requests from node a until [`Self::end_load`]; the connection that is kept is given up
    /// after `kept`.
    pub(crate) async fn start_load(
        &self,
        (namespace, pod): (&str, &str),
        url: &str,
        kept: Duration,
    ) -> Result<()> {
        let [fresh_name, kept_name] = WAYS;
        let container = |name: &str, time: Duration, more: &str| {
            format!(
                "  - {{name: {name}, image: \"@SAMPLE@\", imagePullPolicy: Never, args: [load, \"{url}\", --rate, \"20\", \
                 --seconds, \"{}\", --timeout-ms, \"3000\"{more}]}}\n",
                time.as_secs()
            )
        };
        let fresh = container(fresh_name, TO_THE_END, ", --fresh");
        let containers = fresh + &container(kept_name, kept, "");
        // One that a check before has left behind, by failing, is no reason for this one to fail.
        self.cluster.kubectl(&["-n", namespace, "delete", "pod", pod, "--ignore-not-found"]).await?;
        self.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {pod}, namespace: {namespace}}}\nspec:\n  nodeName: {}\n  \
             restartPolicy: Never\n  terminationGracePeriodSeconds: 0\n  containers:\n{containers}",
            NODES[0]
        ))
        .await?;
        self.ready(namespace, pod).await
    }

    /// Ends the requests of such a pod, and takes it away.
    pub(crate) async fn end_load(&self, (namespace, pod): (&str, &str)) -> Result<[Outcome; 2]> {
        let object = self.pod(namespace, pod).await?;
        signal_containers(&object, Signal::SIGTERM)?;
        let ended = ["-n", namespace, "wait", "pod", pod, "--for=jsonpath={.status.phase}=Succeeded"];
        self.cluster.kubectl(&[&ended, ["--timeout=60s"].as_slice()].concat()).await?;
        let [fresh, kept] = WAYS;
        let outcomes =
            [self.outcome((namespace, pod), fresh).await?, self.outcome((namespace, pod), kept).await?];
        self.cluster.kubectl(&["-n", namespace, "delete", "pod", pod]).await?;
        Ok(outcomes)
    }

    async fn outcome(&self, (namespace, pod): (&str, &str), container: &str) -> Result<Outcome> {
        let said = self.cluster.kubectl(&["-n", namespace, "logs", pod, "-c", container]).await?;
        // What it says of a single failure takes another way into the log, on which it may come late.
        let result = said.lines().rev().find(|line| line.starts_with('{')).context("it has said nothing")?;
        let result: Value = serde_json::from_str(result).with_context(|| format!("it says {said}"))?;
        let count = |field: &str| result.get(field).and_then(Value::as_u64).context("no count");
        let (ok, failed) = (count("ok")?, count("failed")?);
        let p99 = result.pointer("/latency_ms/p99").and_then(Value::as_f64).context("no latency")?;
        let p99 = Duration::from_secs_f64(p99 / 1000.0);
        Ok(Outcome { ok, failed, p99, said: format!("{container}: {said}") })
    }

    /// Waits until a connection of a pair has been opened.
    pub(crate) async fn under_way(&self, source: &str, destination: &str) -> Result<()> {
        let addresses = async || self.ztunnels().await;
        let ztunnels = eventually(SOON, "addresses of the ztunnels", addresses).await?;
        self.goes_on(&ztunnels, (source, destination)).await
    }

    /// The same, when nobody can be asked where the ztunnels are.
    pub(crate) async fn goes_on(
        &self,
        ztunnels: &[std::net::IpAddr],
        (source, destination): (&str, &str),
    ) -> Result<()> {
        let now = async || Self::mutual_at(ztunnels, source, destination).await;
        // One that starts again is called ready until its kubelet has noticed.
        let before = eventually(SOON, "metrics of the ztunnels", now).await?;
        eventually(SOON, "requests under way", async || {
            ensure!(now().await? > before, "no new connection");
            Ok(())
        })
        .await
    }

    /// Kills every container of a part of the mesh.
    pub(crate) async fn kill_all(&self, part: &str) -> Result<()> {
        let label = format!("app.kubernetes.io/name={part}");
        for pod in self.pods(mesh::NAMESPACE, &label).await? {
            signal_containers(&pod, Signal::SIGKILL).with_context(|| format!("killing {part}"))?;
        }
        Ok(())
    }

    /// Kills the process of a part that serves, and not the parent that starts it again.
    pub(crate) async fn kill_serving(&self, part: &str) -> Result<()> {
        let label = format!("app.kubernetes.io/name={part}");
        for pod in self.pods(mesh::NAMESPACE, &label).await? {
            let processes = processes(&pod)?;
            // The parent is the one whose parent is outside of the container.
            let served = processes
                .iter()
                .copied()
                .filter(|process| parent(*process).is_some_and(|parent| processes.contains(&parent)));
            let served: Vec<i32> = served.collect();
            ensure!(!served.is_empty(), "{part} has no process with a parent among {processes:?}");
            served.into_iter().try_for_each(|process| signal(process, Signal::SIGKILL))?;
        }
        Ok(())
    }
}

/// Fails when a request has.
pub(crate) fn none_failed(outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        ensure!(outcome.failed == 0 && outcome.ok > 0, "{}", outcome.said);
    }
    Ok(())
}

/// The node that a pod is on.
pub(crate) fn on(pod: &Value) -> Option<&str> {
    pod.pointer("/spec/nodeName").and_then(Value::as_str)
}

/// Sends a signal to every process of every container of a pod that has not ended.
pub(crate) fn signal_containers(pod: &Value, which: Signal) -> Result<()> {
    processes(pod)?.into_iter().try_for_each(|process| signal(process, which))
}

fn signal(process: i32, which: Signal) -> Result<()> {
    match kill(Pid::from_raw(process), which) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{which} to process {process}")),
    }
}

/// Every process of every container of a pod that has not ended.
fn processes(pod: &Value) -> Result<Vec<i32>> {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    let mut processes = Vec::new();
    for status in statuses.into_iter().flatten() {
        if status.pointer("/state/terminated").is_some() {
            continue;
        }
        let id = status.get("containerID").and_then(Value::as_str);
        let id = id.and_then(|id| id.strip_prefix("containerd://")).context("it has no container")?;
        let groups = cgroup::containers(&[id.to_owned()])?;
        processes.extend(groups.iter().flat_map(|group| cgroup::processes(group)));
    }
    // A process is in a group of every hierarchy.
    processes.sort_unstable();
    processes.dedup();
    Ok(processes)
}

/// The process that started a process.
fn parent(process: i32) -> Option<i32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(1)?.parse().ok()
}
