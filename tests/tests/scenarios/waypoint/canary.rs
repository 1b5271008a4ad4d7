// SPDX-License-Identifier: Apache-2.0
//! A new version gets its share step by step, under load: no request fails, and the split is what the weights say. And a
//! waypoint of two instances of which one goes, in order and without.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::Full;
use lab::{
    Pod,
    echo::{self, Echo},
    eventually, http,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_canary_gets_its_share_by_weight_and_header_and_no_request_fails,
        of_two_instances_one_is_killed_and_few_requests_are_lost,
    ]
}

/// Clients at a time.
const CLIENTS: usize = 4;
/// Requests of a step that are counted.
const COUNTED: usize = 600;

fn canary(new: u32) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: canary, namespace: NAMESPACE}}
spec:
  parentRefs: [{{group: '', kind: Service, name: server}}]
  rules:
    - matches: [{{headers: [{{name: x-tester, value: 'yes'}}]}}]
      backendRefs: [{{name: new, port: 80}}]
    - backendRefs: [{{name: server, port: 80, weight: {}}}, {{name: new, port: 80, weight: {new}}}]
",
        100 - new
    )
}

/// What clients saw.
#[derive(Debug, Default)]
struct Seen {
    counted: parking_lot::Mutex<Counted>,
    /// Testers that did not get the new version.
    astray: AtomicUsize,
    failed: AtomicUsize,
    why: parking_lot::Mutex<Vec<String>>,
}

/// Answers to those requests that were begun in the present step.
#[derive(Debug, Default)]
struct Counted {
    step: usize,
    old: usize,
    new: usize,
}

impl Seen {
    /// Counts from now on: what is under way was sent before, and may have been routed then.
    fn reset(&self) {
        let mut counted = self.counted.lock();
        *counted = Counted { step: counted.step + 1, ..Counted::default() };
    }

    fn step(&self) -> usize {
        self.counted.lock().step
    }

    fn count(&self, step: usize, is_new: bool) {
        let mut counted = self.counted.lock();
        if counted.step == step {
            *(if is_new { &mut counted.new } else { &mut counted.old }) += 1;
        }
    }

    fn counts(&self) -> (usize, usize) {
        let counted = self.counted.lock();
        (counted.old, counted.new)
    }

    fn failures(&self) -> (usize, Vec<String>) {
        (self.failed.load(Ordering::Relaxed), self.why.lock().clone())
    }
}

/// Sends one request after the other until it is told to end; every tenth is a tester's.
async fn load(client: Pod, target: SocketAddr, seen: Arc<Seen>, end: watch::Receiver<bool>) -> Result<()> {
    for number in 0_usize.. {
        if *end.borrow() {
            break;
        }
        let (tester, step) = (number.is_multiple_of(10), seen.step());
        match one(&client, target, tester).await {
            Ok(name) if tester => drop(seen.astray.fetch_add(usize::from(name != "new"), Ordering::Relaxed)),
            Ok(name) => seen.count(step, name == "new"),
            Err(error) => {
                seen.failed.fetch_add(1, Ordering::Relaxed);
                seen.why.lock().push(format!("{error:#}"));
            }
        }
    }
    Ok(())
}

async fn one(client: &Pod, target: SocketAddr, tester: bool) -> Result<String> {
    let mut request = ::http::Request::get("/").header("host", "server");
    if tester {
        request = request.header("x-tester", "yes");
    }
    let stream = client.connect(target).await?;
    let request = request.body(Full::<Bytes>::default())?;
    let response = timeout(SOON, http::exchange(stream, request)).await.context("no answer")??;
    ensure!(response.status() == 200, "status {}", response.status());
    Ok(serde_json::from_slice::<Echo>(response.body())?.name)
}

struct Load {
    seen: Arc<Seen>,
    end: watch::Sender<bool>,
    clients: JoinSet<Result<()>>,
}

impl Load {
    fn begin(client: &Pod, target: SocketAddr) -> Self {
        let (end, ended) = watch::channel(false);
        let seen = Arc::<Seen>::default();
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(load(client.clone(), target, Arc::clone(&seen), ended.clone()));
        }
        Self { seen, end, clients }
    }

    /// Waits for so many answers to requests that begin from now on.
    async fn answers(&self, count: usize) -> Result<(usize, usize)> {
        self.seen.reset();
        eventually(Duration::from_secs(60), "enough answers", async || {
            let (old, new) = self.seen.counts();
            ensure!(old + new >= count, "{old} and {new}");
            Ok((old, new))
        })
        .await
    }

    async fn end(mut self) -> Result<Arc<Seen>> {
        self.end.send_replace(true);
        while let Some(ended) = self.clients.join_next().await {
            ended??;
        }
        Ok(self.seen)
    }
}

async fn a_canary_gets_its_share_by_weight_and_header_and_no_request_fails(scene: Scene) -> Result<()> {
    scene.begin(scene.waypoint("b", "gate").and_on(&scene.node("a"))).await?;
    scene.server("b", "server").await?;
    scene.server("a", "new").await?;
    let client = scene.captured("a", "client").await?;
    scene.create(scene.service("new").declared(80, echo::HTTP, "http")).await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let address = scene.create(service).await?.addresses.context("no virtual address")?.v4;
    scene.apply("canary", &canary(0)).await?;
    let load = Load::begin(&client, SocketAddr::new(address.into(), 80));
    for share in [0, 10, 50, 100] {
        scene.apply("canary", &canary(share)).await?;
        let (old, new) = load.answers(COUNTED).await?;
        let (all, expected) = ((old + new) as f64, f64::from(share) / 100.0);
        // Six standard deviations: one run in 500 million is outside by chance.
        let slack = 6.0 * (expected * (1.0 - expected) / all).sqrt();
        let got = new as f64 / all;
        ensure!((got - expected).abs() <= slack, "{new} of {all} at a weight of {share}");
    }
    let seen = load.end().await?;
    let (failed, why) = seen.failures();
    ensure!(failed == 0, "{failed} requests failed: {why:?}");
    let astray = seen.astray.load(Ordering::Relaxed);
    ensure!(astray == 0, "{astray} testers got the old version");
    Ok(())
}

async fn of_two_instances_one_is_killed_and_few_requests_are_lost(scene: Scene) -> Result<()> {
    let waypoint = scene.begin(scene.waypoint("b", "gate").and_on(&scene.node("a"))).await?;
    scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let address = scene.create(service).await?.addresses.context("no virtual address")?.v4;
    let load = Load::begin(&client, SocketAddr::new(address.into(), 80));
    load.answers(200).await?;
    let [killed, _other] = waypoint.instances.as_slice() else { bail!("not two instances") };
    killed.process.kill()?;
    load.answers(COUNTED).await?;
    let seen = load.end().await?;
    let (failed, why) = seen.failures();
    // Those that were inside it: one for each client; its ztunnel takes the other instance from then on.
    ensure!(failed <= CLIENTS, "{failed} requests were lost: {why:?}");
    killed.pod.set_ready(false).await?;
    Ok(())
}
