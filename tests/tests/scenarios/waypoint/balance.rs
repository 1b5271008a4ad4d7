// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a request goes to: by the service's balancer, by its session, and past those that want or need rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ::http::{Request, Response, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use lab::{
    Pod,
    echo::{self, Echo},
    eventually, http,
};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};

use super::Behind;
use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        endpoints_take_turns_where_the_service_says_so,
        requests_of_one_key_go_to_one_endpoint_by_maglev,
        requests_of_one_key_go_to_one_endpoint_by_ring_hash,
        chance_spreads_requests_evenly,
        an_endpoint_that_is_slow_has_less_to_do_by_least_request,
        an_endpoint_that_is_slow_has_less_to_do_by_default,
        an_endpoint_that_has_just_come_warms_up,
        a_session_stays_with_its_endpoint_until_that_has_gone,
        a_session_in_a_header_outlives_the_weight_of_its_backend,
        a_service_that_is_full_refuses_what_is_too_much,
        an_endpoint_that_asks_for_rest_gets_it,
        endpoints_of_the_waypoints_zone_go_first_and_others_stand_in,
    ]
}

/// A service of three endpoints behind a waypoint.
struct Three {
    client: Pod,
    servers: Vec<Pod>,
    target: SocketAddr,
}

impl Three {
    async fn begin(scene: &Scene, annotations: serde_json::Value) -> Result<Self> {
        Self::with(scene, annotations, &[]).await
    }

    /// The same, the first of them told more.
    async fn with(scene: &Scene, annotations: serde_json::Value, first: &[&str]) -> Result<Self> {
        scene.begin(scene.waypoint("b", "gate")).await?;
        let mut servers = Vec::new();
        for (node, name) in [("a", "one"), ("b", "two"), ("b", "three")] {
            let pod = scene.pod(node, name).captured().labels(&[("app", "server")]);
            let pod = scene.start(pod).await?;
            pod.serve_with(if servers.is_empty() { first } else { &[] }).await?;
            servers.push(pod);
        }
        let client = scene.captured("a", "client").await?;
        let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
        let labels = json!({"istio.io/use-waypoint": "gate"});
        let service = service.metadata(&json!({"annotations": annotations, "labels": labels}));
        let service = scene.create(service).await?;
        let address = service.addresses.context("no virtual address")?.v4;
        Ok(Self { client, servers, target: SocketAddr::new(address.into(), 80) })
    }

    /// One request with these fields; who answered, and the head of the answer.
    async fn ask(&self, fields: &[(&'static str, String)]) -> Result<(String, Response<Bytes>)> {
        ask(&self.client, self.target, fields).await
    }
}

async fn ask(
    client: &Pod,
    target: SocketAddr,
    fields: &[(&'static str, String)],
) -> Result<(String, Response<Bytes>)> {
    let mut request = Request::get("/").header(header::HOST, "server");
    for (name, value) in fields {
        request = request.header(*name, value);
    }
    let stream = client.connect(target).await?;
    let response = timeout(SOON, http::exchange(stream, request.body(Full::default())?));
    let response = response.await.context("no answer")??;
    let name = serde_json::from_slice::<Echo>(response.body()).map(|echo| echo.name).unwrap_or_default();
    Ok((name, response))
}

async fn endpoints_take_turns_where_the_service_says_so(scene: Scene) -> Result<()> {
    let three = Three::begin(&scene, json!({"ambit.mesh/load-balancer": "round-robin"})).await?;
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..30 {
        *answers.entry(three.ask(&[]).await?.0).or_default() += 1;
    }
    ensure!(answers.values().all(|count| *count == 10) && answers.len() == 3, "{answers:?}");
    Ok(())
}

async fn requests_of_one_key_go_to_one_endpoint_by_maglev(scene: Scene) -> Result<()> {
    by_key(&scene, "maglev").await
}

async fn requests_of_one_key_go_to_one_endpoint_by_ring_hash(scene: Scene) -> Result<()> {
    by_key(&scene, "ring-hash").await
}

async fn by_key(scene: &Scene, balancer: &str) -> Result<()> {
    let annotations = json!({"ambit.mesh/load-balancer": balancer, "ambit.mesh/hash-on": "header:x-user"});
    let three = Three::begin(scene, annotations).await?;
    let mut homes = BTreeMap::new();
    // That one of three endpoints has none of so many users is no accident: one run in a billion would have it by chance.
    for round in 0..3 {
        for user in 0..60 {
            let (name, _) = three.ask(&[("x-user", format!("user-{user}"))]).await?;
            let home = homes.entry(user).or_insert_with(|| name.clone());
            ensure!(*home == name, "user {user} went to {home}, and in round {round} to {name}");
        }
    }
    let used: BTreeSet<_> = homes.values().collect();
    ensure!(used.len() == 3, "all users are with {used:?}");
    // Whoever is with an endpoint that goes is sent elsewhere, the others stay.
    let gone = three.servers.first().context("no server")?;
    gone.set_ready(false).await?;
    for (user, home) in &homes {
        let (name, _) = three.ask(&[("x-user", format!("user-{user}"))]).await?;
        ensure!(name != gone.name(), "user {user} still goes to {name}");
        ensure!(*home == gone.name() || *home == name, "user {user} moved from {home} to {name}");
    }
    Ok(())
}

/// Of 300 requests each of three gets 100, with a standard deviation of 8.2: six of them are enough.
async fn chance_spreads_requests_evenly(scene: Scene) -> Result<()> {
    let three = Three::begin(&scene, json!({"ambit.mesh/load-balancer": "random"})).await?;
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    let mut last = String::new();
    let mut again = 0;
    for _ in 0..300 {
        let (name, _) = three.ask(&[]).await?;
        again += u32::from(name == last);
        *answers.entry(name.clone()).or_default() += 1;
        last = name;
    }
    ensure!(answers.len() == 3 && answers.values().all(|count| (50..=150).contains(count)), "{answers:?}");
    ensure!((50..=150).contains(&again), "the same one again {again} times of 300: no chance");
    Ok(())
}

async fn an_endpoint_that_is_slow_has_less_to_do_by_least_request(scene: Scene) -> Result<()> {
    past_the_slow(&scene, json!({"ambit.mesh/load-balancer": "least-request"})).await
}

async fn an_endpoint_that_is_slow_has_less_to_do_by_default(scene: Scene) -> Result<()> {
    past_the_slow(&scene, json!({})).await
}

async fn past_the_slow(scene: &Scene, annotations: serde_json::Value) -> Result<()> {
    const CLIENTS: usize = 6;
    const EACH: usize = 20;
    let three = Three::with(scene, annotations, &["--delay-ms", "1000"]).await?;
    let slow = three.servers.first().context("no server")?.name();
    let mut asking = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, target) = (three.client.clone(), three.target);
        asking.spawn(async move {
            let mut names = Vec::new();
            for _ in 0..EACH {
                names.push(ask(&client, target, &[]).await?.0);
            }
            Ok::<_, anyhow::Error>(names)
        });
    }
    let names = asking.join_all().await.into_iter().collect::<Result<Vec<_>>>()?.concat();
    let by_slow = names.iter().filter(|name| **name == slow).count();
    ensure!(names.len() == CLIENTS * EACH && by_slow * 5 < names.len(), "{by_slow} of {}", names.len());
    Ok(())
}

/// One request at a time, so all are as busy: of two that are drawn the one that has just come loses, unless it is drawn twice.
/// Of 300 requests it gets 33 until it has warmed up, and 100 then; six standard deviations are 33 and 49.
async fn an_endpoint_that_has_just_come_warms_up(scene: Scene) -> Result<()> {
    const WARM: Duration = Duration::from_secs(10);
    let three = Three::begin(&scene, json!({"ambit.mesh/load-balancer": "least-request"})).await?;
    let new = three.servers.last().context("no server")?;
    new.set_ready(false).await?;
    let begun = Instant::now();
    eventually(WARM * 3, "the other two having warmed up", async || {
        let (name, _) = three.ask(&[]).await?;
        ensure!(name != new.name(), "it answers");
        ensure!(begun.elapsed() > WARM, "not yet");
        Ok(())
    })
    .await?;
    new.set_ready(true).await?;
    let share = async || {
        let mut count = 0;
        for _ in 0..300 {
            count += u32::from(three.ask(&[]).await?.0 == new.name());
        }
        anyhow::Ok(count)
    };
    let at_first = share().await?;
    ensure!(at_first <= 66, "{at_first} of 300 go to one that has just come");
    eventually(WARM * 6, "its share", async || {
        let count = share().await?;
        ensure!((51..=149).contains(&count), "{count} of 300");
        Ok(())
    })
    .await
}

const STICKY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: sticky, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: server}]
  rules:
    - backendRefs: [{name: server, port: 80}]
      sessionPersistence: {sessionName: sid, type: Cookie, absoluteTimeout: 1h, cookieConfig: {lifetimeType: Permanent}}
";

async fn a_session_stays_with_its_endpoint_until_that_has_gone(scene: Scene) -> Result<()> {
    let three = Three::begin(&scene, json!({})).await?;
    scene.apply("sticky", STICKY).await?;
    let cookie = |response: &Response<Bytes>| -> Option<String> {
        Some(response.headers().get(header::SET_COOKIE)?.to_str().ok()?.to_owned())
    };
    let pair = |line: &str| line.split(';').next().unwrap_or_default().to_owned();
    let (home, first) = three.ask(&[]).await?;
    let line = cookie(&first).context("no cookie")?;
    ensure!(line.starts_with("sid=") && line.contains("Max-Age=3600"), "{line}");
    let addresses = three.servers.iter().flat_map(|server| [server.v4().to_string(), server.name()]);
    for secret in addresses {
        ensure!(!line.contains(&secret), "{line} tells {secret}");
    }
    for _ in 0..12 {
        let (name, response) = three.ask(&[("cookie", format!("a=b; {}", pair(&line)))]).await?;
        ensure!(name == home, "{name} instead of {home}");
        ensure!(cookie(&response).is_none(), "told again: {response:?}");
    }
    let server = three.servers.iter().find(|server| server.name() == home).context("not one of ours")?;
    server.set_ready(false).await?;
    let (next, moved) = three.ask(&[("cookie", pair(&line))]).await?;
    ensure!(next != home, "{home} is gone and answers");
    let line = cookie(&moved).context("the session has no new endpoint")?;
    for _ in 0..6 {
        let (name, _) = three.ask(&[("cookie", pair(&line))]).await?;
        ensure!(name == next, "{name} instead of {next}");
    }
    Ok(())
}

/// Two versions by weight, with sessions.
fn split(old: u32, new: u32) -> String {
    format!(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: split, namespace: NAMESPACE}}
spec:
  parentRefs: [{{group: '', kind: Service, name: server}}]
  rules:
    - backendRefs: [{{name: server, port: 80, weight: {old}}}, {{name: other, port: 80, weight: {new}}}]
      sessionPersistence: {{sessionName: x-session, type: Header}}
"
    )
}

async fn a_session_in_a_header_outlives_the_weight_of_its_backend(scene: Scene) -> Result<()> {
    let three = Three::begin(&scene, json!({})).await?;
    scene.server("a", "other").await?;
    scene.create(scene.service("other").declared(80, echo::HTTP, "http")).await?;
    scene.apply("split", &split(0, 1)).await?;
    let (name, first) = three.ask(&[]).await?;
    ensure!(name == "other", "{name} answered");
    let session = first.headers().get("x-session").context("no session")?.to_str()?.to_owned();
    scene.apply("split", &split(1, 0)).await?;
    for _ in 0..6 {
        let (name, _) = three.ask(&[("x-session", session.clone())]).await?;
        ensure!(name == "other", "the session moved to {name}");
        let (name, _) = three.ask(&[]).await?;
        ensure!(name != "other", "a new session went to a backend without weight");
    }
    Ok(())
}

/// Answers every request as it is told.
async fn answering<F, Fut>(listener: TcpListener, answer: F) -> Result<()>
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    loop {
        let (stream, _peer) = listener.accept().await?;
        let answer = answer.clone();
        let service = service_fn(move |_request: Request<Incoming>| {
            let answered = answer();
            async move { Ok::<_, std::convert::Infallible>(answered.await) }
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            served.await.unwrap_or_default();
        });
        serving.detach_all();
    }
}

async fn a_service_that_is_full_refuses_what_is_too_much(scene: Scene) -> Result<()> {
    const PORT: u16 = 7080;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let service = scene.service("server").declared(80, PORT, "http").behind("gate");
    let limits = json!({"ambit.mesh/max-requests": "2", "ambit.mesh/max-pending-requests": "1"});
    let labels = json!({"istio.io/use-waypoint": "gate"});
    let service = service.metadata(&json!({"annotations": limits, "labels": labels}));
    let full = scene.create(service).await?.addresses.context("no virtual address")?.v4;
    let target = SocketAddr::new(full.into(), 80);
    let mut tasks = JoinSet::new();
    let listener = behind.server.listen(PORT).await?;
    let (release, released) = tokio::sync::watch::channel(false);
    let inside = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&inside);
    tasks.spawn(answering(listener, move || {
        let (mut released, inside) = (released.clone(), Arc::clone(&counted));
        async move {
            inside.fetch_add(1, Ordering::Relaxed);
            released.wait_for(|released| *released).await.ok();
            Response::new(Full::default())
        }
    }));
    let mut asked = JoinSet::new();
    for _ in 0..2 {
        let client = behind.client.clone();
        asked.spawn(async move { ask(&client, target, &[]).await });
    }
    eventually(SOON, "two requests under way", async || {
        ensure!(inside.load(Ordering::Relaxed) == 2, "{}", inside.load(Ordering::Relaxed));
        Ok(())
    })
    .await?;
    // One of these waits for its turn, the other is too much.
    for _ in 0..2 {
        let client = behind.client.clone();
        asked.spawn(async move { ask(&client, target, &[]).await });
    }
    let (_, refused) = asked.join_next().await.context("nobody asks")???;
    ensure!(refused.status() == StatusCode::SERVICE_UNAVAILABLE, "{refused:?}");
    behind.written(|access| access.field("flags") == "UO" && access.field("status") == "503").await?;
    release.send_replace(true);
    while let Some(answered) = asked.join_next().await {
        let (_, response) = answered??;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
    }
    let metrics = behind.instance()?.metrics().await?;
    ensure!(metrics.sum("ambit_overflows_total", &[]) == 1.0, "the refusal is not counted");
    Ok(())
}

async fn an_endpoint_that_asks_for_rest_gets_it(scene: Scene) -> Result<()> {
    const PORT: u16 = 7081;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let other = scene.start(scene.pod("a", "other").captured().labels(&[("app", "server")])).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(answering(other.listen(PORT).await?, || async { Response::new(Full::default()) }));
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    tasks.spawn(answering(behind.server.listen(PORT).await?, move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async {
            let response = Response::builder().status(StatusCode::SERVICE_UNAVAILABLE);
            response.header(header::RETRY_AFTER, "20").body(Full::default()).unwrap_or_default()
        }
    }));
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(ask(&behind.client, behind.target(), &[]).await?.1.status());
    }
    let asked = asked.load(Ordering::Relaxed);
    ensure!(asked == 1, "it was asked {asked} times: {statuses:?}");
    let metrics = behind.instance()?.metrics().await?;
    let labels = [("reason", "retry_after")];
    ensure!(metrics.sum("ambit_endpoints_set_aside_total", &labels) == 1.0, "it is not counted");
    Ok(())
}

async fn endpoints_of_the_waypoints_zone_go_first_and_others_stand_in(scene: Scene) -> Result<()> {
    let three =
        Three::begin(&scene, json!({"networking.istio.io/traffic-distribution": "PreferClose"})).await?;
    for _ in 0..20 {
        let (name, _) = three.ask(&[]).await?;
        ensure!(name == "two" || name == "three", "{name} is in another zone");
    }
    for server in three.servers.iter().filter(|server| server.name() != "one") {
        server.set_ready(false).await?;
    }
    for _ in 0..5 {
        let (name, _) = three.ask(&[]).await?;
        ensure!(name == "one", "{name} answered");
    }
    Ok(())
}
