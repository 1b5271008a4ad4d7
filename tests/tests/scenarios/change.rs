// SPDX-License-Identifier: Apache-2.0
//! A mesh that changes while it is used: replicas that are replaced under load, manifests that are edited or broken.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use ::http::Request;
use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use lab::{Pod, cluster::PodBuilder, echo, eventually, http, process::Process};
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::{
    policy::ask,
    scene::{SOON, Scenario, Scene, reaches, refused, scenarios},
};

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![
        an_edited_manifest_takes_effect_within_a_second,
        a_broken_manifest_is_reported_while_the_last_good_state_stays_in_force,
    ];
    let roll_out = scenarios![a_roll_out_of_ten_replicas_fails_no_more_requests_than_without_the_mesh];
    let reason = "half of the replicas end as the other lets them";
    all.extend(roll_out.into_iter().map(|scenario| scenario.without_peer(reason)));
    all
}

const REPLICAS: usize = 10;
/// Kept connections, and what they send in all.
const KEPT: u32 = 50;
const KEPT_RATE: f64 = 500.0;
/// New connections a second, with one request each, opened by so many clients.
const FRESH: u32 = 10;
const FRESH_RATE: f64 = 50.0;
/// Longest time for one request.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a replica may take to finish what is open.
const DRAIN: Duration = Duration::from_secs(10);

async fn a_roll_out_of_ten_replicas_fails_no_more_requests_than_without_the_mesh(scene: Scene) -> Result<()> {
    let service = scene.create(scene.service("meshed").port(80, echo::HTTP)).await?;
    let virtual_ip = service.addresses.context("a service with an address")?.v4;
    let mut meshed = Side::begin(&scene, "meshed", true).await?;
    let mut plain = Side::begin(&scene, "plain", false).await?;
    let one_address = Arc::new(Mutex::new(vec![SocketAddr::from((virtual_ip, 80))]));
    let with_mesh = meshed.load(one_address);
    let without = plain.load(Arc::clone(&plain.endpoints));
    for number in 0..REPLICAS {
        for side in [&mut meshed, &mut plain] {
            side.replace(&scene, number).await.with_context(|| format!("replacing replica {number}"))?;
        }
    }
    let (with_mesh, without) = (with_mesh.end().await?, without.end().await?);
    let both = format!("with the mesh {with_mesh:?}, without {without:?}");
    // The scenario means something only if the load was really offered, and to every replica.
    for tally in [&with_mesh, &without] {
        ensure!(tally.ok > 2_000 && tally.answered_by.len() > REPLICAS, "too little load: {both}");
    }
    ensure!(with_mesh.failed() <= without.failed(), "{both}");
    Ok(())
}

/// One of the two roll-outs.
struct Side {
    name: &'static str,
    captured: bool,
    client: Pod,
    replicas: Vec<(Pod, Arc<Process>)>,
    /// The replicas that may be used, as a cluster without a mesh tells its clients.
    endpoints: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Side {
    async fn begin(scene: &Scene, name: &'static str, captured: bool) -> Result<Self> {
        let client = scene.pod("a", &format!("{name}-client"));
        let client = scene.start(if captured { client.captured() } else { client }).await?;
        let mut side = Self { name, captured, client, replicas: Vec::new(), endpoints: Arc::default() };
        for number in 0..REPLICAS {
            side.add(scene, &format!("{name}-old-{number}"), number).await?;
        }
        Ok(side)
    }

    async fn add(&mut self, scene: &Scene, name: &str, number: usize) -> Result<()> {
        let node = if number.is_multiple_of(2) { "a" } else { "b" };
        let pod: PodBuilder = scene.pod(node, name).service_account(self.name).labels(&[("app", self.name)]);
        let pod = if self.captured { pod.captured() } else { pod };
        // As in a cluster: nobody uses it before its program listens.
        let pod = scene.start(pod.not_ready()).await?;
        let process = pod.serve().await?;
        pod.set_ready(true).await?;
        self.endpoints.lock().push(SocketAddr::new(pod.v4(), echo::HTTP));
        self.replicas.push((pod, process));
        Ok(())
    }

    /// Starts a new replica, then ends the oldest one: it leaves the endpoints while its program is asked to end.
    async fn replace(&mut self, scene: &Scene, number: usize) -> Result<()> {
        self.add(scene, &format!("{}-new-{number}", self.name), number).await?;
        let (pod, process) = self.replicas.remove(0);
        self.endpoints.lock().retain(|endpoint| endpoint.ip() != pod.v4());
        let (unready, ended) = tokio::join!(pod.set_ready(false), process.terminate(DRAIN));
        unready?;
        ended.context("the replica's program did not end")?;
        pod.delete().await
    }

    fn load(&self, targets: Arc<Mutex<Vec<SocketAddr>>>) -> Running {
        let (stop, stopped) = watch::channel(false);
        let client = self.client.clone();
        let mut offering = JoinSet::new();
        offering.spawn(async move { client.run(async move || offer(targets, stopped).await).await });
        Running { stop, offering }
    }
}

/// A load that is being offered.
struct Running {
    stop: watch::Sender<bool>,
    offering: JoinSet<Result<Tally>>,
}

impl Running {
    async fn end(mut self) -> Result<Tally> {
        self.stop.send_replace(true);
        self.offering.join_next().await.context("the load did not run")??
    }
}

/// What became of requests.
#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    /// Sent once more, because a kept connection ended before it brought any answer.
    repeated: u64,
    failures: BTreeMap<String, u64>,
    answered_by: BTreeMap<String, u64>,
}

impl Tally {
    fn failed(&self) -> u64 {
        self.failures.values().sum()
    }
}

/// An open connection: where requests go in, and the task that moves them.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

/// What one client of the load sends.
struct Client {
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    tally: Arc<Mutex<Tally>>,
    keep: bool,
    first: tokio::time::Instant,
    period: Duration,
}

/// Offers both kinds of load until it is stopped, from the namespace of the calling thread.
async fn offer(targets: Arc<Mutex<Vec<SocketAddr>>>, mut stopped: watch::Receiver<bool>) -> Result<Tally> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let started = tokio::time::Instant::now();
    let mut clients = JoinSet::new();
    for (keep, count, rate) in [(true, KEPT, KEPT_RATE), (false, FRESH, FRESH_RATE)] {
        let period = Duration::from_secs_f64(f64::from(count) / rate);
        for number in 0..count {
            let client = Client {
                targets: Arc::clone(&targets),
                tally: Arc::clone(&tally),
                keep,
                first: started + period.mul_f64(f64::from(number) / f64::from(count)),
                period,
            };
            clients.spawn(client.run());
        }
    }
    stopped.wait_for(|stopped| *stopped).await?;
    // Requests that are under way count neither as answered nor as failed.
    clients.shutdown().await;
    let tally = std::mem::take(&mut *tally.lock());
    Ok(tally)
}

impl Client {
    /// A request is due at a fixed time, whatever became of the one before.
    async fn run(self) {
        let mut kept = None;
        let mut due = self.first;
        loop {
            sleep_until(due).await;
            due += self.period;
            let outcome = timeout(LIMIT, self.request(&mut kept)).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| Err(anyhow!("no answer within {LIMIT:?}")));
            let mut tally = self.tally.lock();
            match outcome {
                Ok(name) => {
                    tally.ok += 1;
                    *tally.answered_by.entry(name).or_default() += 1;
                }
                Err(error) => *tally.failures.entry(format!("{error:#}")).or_default() += 1,
            }
        }
    }

    /// One request; the name of the replica that answered.
    async fn request(&self, kept: &mut Option<Open>) -> Result<String> {
        if let Some(mut open) = kept.take()
            && open.sender.ready().await.is_ok()
        {
            // RFC 9110 §9.2.2: every HTTP client sends an idempotent request again when a kept connection turns out to
            // be closed before any answer.
            match open.sender.send_request(get()?).await {
                Ok(answer) => return self.read(answer, open, kept).await,
                Err(_closed) => self.tally.lock().repeated += 1,
            }
        }
        let mut open = self.connect().await?;
        let answer = open.sender.send_request(get()?).await.context("no answer on a new connection")?;
        self.read(answer, open, kept).await
    }

    async fn read(
        &self,
        answer: ::http::Response<hyper::body::Incoming>,
        open: Open,
        kept: &mut Option<Open>,
    ) -> Result<String> {
        ensure!(answer.status().is_success(), "{}", answer.status());
        let body = answer.into_body().collect().await.context("half an answer")?.to_bytes();
        if self.keep {
            *kept = Some(open);
        }
        let echo: echo::Echo = serde_json::from_slice(&body).context("another answer")?;
        Ok(echo.name)
    }

    async fn connect(&self) -> Result<Open> {
        let target = {
            let targets = self.targets.lock();
            let chosen = rand::rng().random_range(0..targets.len().max(1));
            *targets.get(chosen).context("no replica")?
        };
        let stream = TcpStream::connect(target).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The request that suffers from an error reports it.
            drop(connection.await);
        });
        Ok(Open { sender, _driver: driver })
    }
}

fn get() -> Result<Request<Full<Bytes>>> {
    Ok(Request::get("/").header("host", "replicas").body(Full::default())?)
}

/// A policy of the scenario that denies `account`.
fn deny(scene: &Scene, account: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: edited, namespace: {}}}\nspec:\n  action: DENY\n  rules:\n\
         \x20 - from:\n    - source: {{principals: ['*/sa/{account}']}}\n",
        scene.namespace()
    )
}

/// Edits the file that `Scene::apply` has published, as an editor does, and waits for nothing.
fn edit(scene: &Scene, name: &str, text: &str) -> Result<()> {
    let file = file(scene, name);
    let staged = scene.cluster.state().join("staging").join(&file);
    fs::write(&staged, text)?;
    fs::rename(staged, scene.cluster.state().join("manifests").join(file)).context("putting a file in place")
}

fn file(scene: &Scene, name: &str) -> String {
    format!("{}.{name}.yaml", scene.namespace())
}

async fn an_edited_manifest_takes_effect_within_a_second(scene: Scene) -> Result<()> {
    const ROUNDS: usize = 5;
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    scene.apply("edited", &deny(&scene, "nobody")).await?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let mut open = client.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
        ask(&mut open, "before").await?;
        edit(&scene, "edited", &deny(&scene, "client"))?;
        let edited = Instant::now();
        let end = timeout(SOON, open.read(&mut [0; 1])).await;
        let end = end.with_context(|| format!("round {round}: a denied connection stays open"))?;
        times.push(edited.elapsed());
        ensure!(!matches!(end, Ok(1..)), "data instead of the end");
        let denied = Instant::now();
        refused(&client, server.v4()).await?;
        times.push(denied.elapsed());
        edit(&scene, "edited", &deny(&scene, "nobody"))?;
        let allowed = Instant::now();
        eventually(SOON, "being let in again", async || client.get(server.v4(), "/").await).await?;
        times.push(allowed.elapsed());
    }
    // One of fifteen may fall into a moment in which the machine does something else.
    let late = times.iter().filter(|time| **time > Duration::from_secs(1)).count();
    ensure!(late <= 1, "{times:?}");
    Ok(())
}

async fn a_broken_manifest_is_reported_while_the_last_good_state_stays_in_force(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    let enemy = scene.captured("a", "enemy").await?;
    let good = deny(&scene, "enemy");
    scene.apply("edited", &good).await?;
    let mut open = friend.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut open, "before").await?;
    for (broken, line, field) in [
        (good.replace("action: DENY", "action: REFUSE"), 5, "spec.action"),
        (good.replace("['*/sa/enemy']", "7"), 8, "spec.rules[0].from[0].source.principals"),
        (good.replace("  rules:", "  rulez: ]"), 6, ""),
    ] {
        edit(&scene, "edited", &broken)?;
        let problem = eventually(SOON, "control's report", async || problem(&scene, "edited").await);
        let problem = problem.await.with_context(|| broken.clone())?;
        let told = problem["field"].as_str().unwrap_or_default();
        ensure!(problem["line"] == line && told.starts_with(field), "{problem} for {broken}");
        // Other manifests come into force as ever, and this one stays what it was.
        scene.cluster.settle().await?;
        reaches(&friend, &server).await?;
        refused(&enemy, server.v4()).await?;
        ask(&mut open, "still there").await.with_context(|| broken.clone())?;
        edit(&scene, "edited", &good)?;
        eventually(SOON, "control's report of the repair", async || {
            ensure!(problem_of(&status(&scene).await?, &file(&scene, "edited")).is_none(), "still broken");
            Ok(())
        })
        .await?;
    }
    refused(&enemy, server.v4()).await.map(drop)
}

async fn problem(scene: &Scene, name: &str) -> Result<Value> {
    let status = status(scene).await?;
    problem_of(&status, &file(scene, name)).context("no problem yet")
}

/// The first problem of a file.
fn problem_of(status: &Value, file: &str) -> Option<Value> {
    let files = status["manifests"]["files"].as_array()?;
    let found = files.iter().find(|shown| shown["file"] == file && shown["state"] == "broken")?;
    found["problems"].get(0).cloned()
}

/// What control says of itself.
pub(crate) async fn status(scene: &Scene) -> Result<Value> {
    let host = scene.cluster.control().host();
    let address = SocketAddr::new(IpAddr::V4(host.addresses.v4), 15014);
    let text = host.namespace.run(async move || http::get(address, "/status").await).await?;
    serde_json::from_str(&text).context("control's status")
}
