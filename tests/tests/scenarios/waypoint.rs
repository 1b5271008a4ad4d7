// SPDX-License-Identifier: Apache-2.0
//! What a waypoint does for the connections and requests that are sent through it.

mod balance;
mod binding;
mod calls;
mod canary;
mod guard;
mod h2spec;
mod hostile;
mod routes;
mod strangers;
mod streams;
mod tls;
mod trust;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::{Request, Response, StatusCode, Version, header};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::{
    Pod,
    cluster::{Instance, Waypoint, WaypointBuilder},
    echo::{self, Echo},
    eventually, http,
    observe::Access,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![
        a_request_passes_the_waypoint_and_reaches_an_endpoint,
        http2_with_prior_knowledge_is_carried_to_servers_of_both_versions,
        a_client_of_http1_reaches_a_server_of_http2,
        what_is_undeclared_is_found_out,
        a_server_that_speaks_first_is_not_stalled,
        bytes_are_carried_with_both_ends_of_data,
        a_switch_of_protocols_becomes_a_pipe,
        a_large_body_passes_whole_both_ways,
        requests_go_to_endpoints_that_answer,
        without_an_endpoint_a_request_is_refused_with_the_reason,
        a_waypoint_that_is_drained_fails_no_request,
        what_names_no_waypoint_is_not_carried_by_one,
    ];
    let parts = [
        balance::all(),
        binding::all(),
        calls::all(),
        canary::all(),
        guard::all(),
        h2spec::all(),
        hostile::all(),
        routes::all(),
        strangers::all(),
        streams::all(),
        tls::all(),
        trust::all(),
    ];
    all.extend(parts.into_iter().flatten());
    let reason = "it is about our own ztunnel on both sides of a waypoint";
    all.into_iter().map(|scenario| scenario.without_peer(reason)).collect()
}

/// A server behind a waypoint, and a client.
pub(crate) struct Behind {
    pub(crate) client: Pod,
    pub(crate) server: Pod,
    pub(crate) waypoint: Waypoint,
    address: IpAddr,
}

impl Behind {
    /// The server's port 80 is `target` and declared as `protocol`.
    pub(crate) async fn begin(scene: &Scene, target: u16, protocol: &str) -> Result<Self> {
        Self::with(scene, scene.waypoint("b", "gate"), target, protocol).await
    }

    /// The same with a waypoint that is set up otherwise.
    pub(crate) async fn with(
        scene: &Scene,
        waypoint: WaypointBuilder,
        target: u16,
        protocol: &str,
    ) -> Result<Self> {
        let waypoint = scene.begin(waypoint).await?;
        let server = scene.server("b", "server").await?;
        let client = scene.captured("a", "client").await?;
        let service = scene.service("server").declared(80, target, protocol).behind("gate");
        let service = scene.create(service).await?;
        let address = IpAddr::V4(service.addresses.context("no virtual address")?.v4);
        Ok(Self { client, server, waypoint, address })
    }

    pub(crate) fn target(&self) -> SocketAddr {
        SocketAddr::new(self.address, 80)
    }

    pub(crate) fn instance(&self) -> Result<&Instance> {
        self.waypoint.instance()
    }

    async fn connect(&self) -> Result<TcpStream> {
        self.client.connect(self.target()).await
    }

    async fn get(&self, path: &'static str) -> Result<Echo> {
        let target = self.target();
        let body = self.client.run(async move || http::get(target, path).await).await?;
        serde_json::from_str(&body).context("no answer of the sample application")
    }

    /// The newest line of the waypoint's access log that fits, once it is there.
    pub(crate) async fn written(&self, fits: impl Fn(&Access) -> bool) -> Result<Access> {
        let instance = self.instance()?;
        eventually(SOON, "a line of the waypoint", async || {
            instance.access_log().into_iter().rfind(&fits).context("not written yet")
        })
        .await
    }
}

async fn a_request_passes_the_waypoint_and_reaches_an_endpoint(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let echo = behind.get("/headers").await?;
    ensure!(echo.name == "server", "{echo:?}");
    let gate = behind.instance()?.pod.v4();
    ensure!(echo.peer.ip() == gate, "the application sees {}", echo.peer);
    let field = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!(field("x-forwarded-for") == Some(behind.client.v4().to_string().as_str()), "{echo:?}");
    ensure!(field("host") == Some(behind.target().to_string().as_str()), "{echo:?}");
    let line = behind.written(|access| access.field("path") == "/headers").await?;
    for (name, expected) in [
        ("src.identity", behind.client.identity()),
        ("dst.identity", behind.server.identity()),
        ("src.workload", "client".to_owned()),
        ("dst.workload", "server".to_owned()),
        ("status", "200".to_owned()),
        ("flags", "-".to_owned()),
        ("method", "GET".to_owned()),
    ] {
        ensure!(line.field(name) == expected, "{name} is not {expected}: {}", line.line);
    }
    let metrics = behind.instance()?.metrics().await?;
    let labels = [("reporter", "waypoint"), ("response_code", "200"), ("destination_service_name", "server")];
    ensure!(metrics.sum("istio_requests_total", &labels) >= 1.0, "the request is not counted");
    Ok(())
}

/// One request by HTTP/2 with prior knowledge over a connection of its own.
async fn by_http2(stream: TcpStream, request: Request<Full<Bytes>>) -> Result<Response<Incoming>> {
    let begun = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = begun.context("beginning HTTP/2")?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let answered = timeout(SOON, sender.send_request(request)).await.context("no answer")?;
    driver.detach_all();
    answered.context("sending a request")
}

async fn http2_with_prior_knowledge_is_carried_to_servers_of_both_versions(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let calls = scene.service("calls").selector("app", "server").declared(80, echo::GRPC, "http2");
    let calls = scene.create(calls.behind("gate")).await?;
    let request = Request::get("http://server/headers").body(Full::default())?;
    let response = by_http2(behind.connect().await?, request).await?;
    ensure!(response.version() == Version::HTTP_2 && response.status() == StatusCode::OK, "{response:?}");
    let echo: Echo = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
    ensure!(echo.host == "server" && echo.name == "server", "{echo:?}");

    let target = SocketAddr::new(IpAddr::V4(calls.addresses.context("no address")?.v4), 80);
    let request = Request::post("http://calls/a.B/C").header("te", "trailers").body(Full::from("x"))?;
    let response = by_http2(behind.client.connect(target).await?, request).await?;
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().context("no trailers")?;
    ensure!(trailers.get("grpc-status").is_some_and(|status| status == "0"), "{trailers:?}");
    Ok(())
}

async fn a_client_of_http1_reaches_a_server_of_http2(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::GRPC, "http2").await?;
    let request = Request::get("/").header(header::HOST, "server").body(Full::default())?;
    let response = http::exchange(behind.connect().await?, request).await?;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    ensure!(response.headers().get("content-type").is_some_and(|kind| kind == "application/grpc"));
    Ok(())
}

async fn what_is_undeclared_is_found_out(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "").await?;
    ensure!(behind.get("/found").await?.name == "server");
    behind.written(|access| access.field("path") == "/found").await?;
    // A client that hesitates is understood all the same.
    let mut slow = behind.connect().await?;
    for piece in ["GE", "T /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"] {
        tokio::time::sleep(Duration::from_millis(300)).await;
        slow.write_all(piece.as_bytes()).await?;
    }
    let mut answer = String::new();
    timeout(SOON, slow.read_to_string(&mut answer)).await.context("no answer")??;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    behind.written(|access| access.field("path") == "/slow").await?;
    Ok(())
}

async fn a_server_that_speaks_first_is_not_stalled(scene: Scene) -> Result<()> {
    for protocol in ["", "tcp"] {
        let behind = Behind::begin(&scene, echo::BANNER, protocol).await?;
        let mut stream = behind.connect().await?;
        let mut banner = [0; 7];
        timeout(SOON, stream.read_exact(&mut banner)).await.context("no banner")??;
        ensure!(&banner == b"server\n", "{:?}", String::from_utf8_lossy(&banner));
        crate::policy::ask(&mut stream, "and now I").await?;
        drop(stream);
        let line = behind.written(|access| access.field("dst.workload") == "server").await?;
        ensure!(line.message == "connection complete", "{}", line.line);
        behind.waypoint.delete().await?;
        scene.forget(&behind.waypoint);
        for pod in [&behind.server, &behind.client] {
            pod.delete().await?;
        }
    }
    Ok(())
}

async fn bytes_are_carried_with_both_ends_of_data(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::TCP, "").await?;
    let request = vec![7; 300_000];
    let (mut reader, mut writer) = behind.connect().await?.into_split();
    let mut back = Vec::new();
    let send = async {
        writer.write_all(&request).await?;
        writer.shutdown().await
    };
    let (sent, received) = timeout(SOON, async { tokio::join!(send, reader.read_to_end(&mut back)) })
        .await
        .context("the end did not come")?;
    sent?;
    received?;
    ensure!(back == request, "{} of {} bytes came back", back.len(), request.len());
    let (instance, labels) = (behind.instance()?, [("reporter", "waypoint"), ("request_protocol", "tcp")]);
    eventually(SOON, "the bytes of a connection that has ended", async || {
        let counted = instance.metrics().await?.sum("istio_tcp_received_bytes_total", &labels);
        ensure!(counted >= 300_000.0, "{counted} are counted");
        Ok(())
    })
    .await
}

/// Switches to sending back what it gets.
async fn switching(listener: TcpListener) -> Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        let answer = service_fn(|mut request: Request<Incoming>| async move {
            let upgraded = hyper::upgrade::on(&mut request);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let Ok(upgraded) = upgraded.await else { return };
                let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
                tokio::io::copy(&mut reader, &mut writer).await.unwrap_or_default();
                writer.shutdown().await.unwrap_or_default();
            });
            tasks.detach_all();
            let wish = request.headers().get(header::UPGRADE).cloned();
            let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
            let response = response.header(header::CONNECTION, "upgrade");
            let response = wish.into_iter().fold(response, |made, wish| made.header(header::UPGRADE, wish));
            response.body(Empty::<Bytes>::new())
        });
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .with_upgrades();
            served.await.unwrap_or_default();
        });
        serving.detach_all();
    }
}

async fn a_switch_of_protocols_becomes_a_pipe(scene: Scene) -> Result<()> {
    const PORT: u16 = 7070;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let mut server = JoinSet::new();
    server.spawn(switching(behind.server.listen(PORT).await?));
    let mut stream = behind.connect().await?;
    let wish = "GET /chat HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(wish.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        timeout(SOON, stream.read_exact(&mut byte)).await.context("no answer")??;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    ensure!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket"), "{head}");
    crate::policy::ask(&mut stream, "words that are no HTTP").await?;
    stream.shutdown().await?;
    let mut rest = Vec::new();
    timeout(SOON, stream.read_to_end(&mut rest)).await.context("the end did not come")??;
    ensure!(rest.is_empty(), "{rest:?}");
    Ok(())
}

async fn a_large_body_passes_whole_both_ways(scene: Scene) -> Result<()> {
    const PORT: u16 = 7071;
    const LARGE: usize = 8 << 20;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let listener = behind.server.listen(PORT).await?;
    let mut server = JoinSet::new();
    server.spawn(async move {
        loop {
            let (stream, _peer) = listener.accept().await?;
            let back = service_fn(|request: Request<Incoming>| async move {
                Ok::<_, anyhow::Error>(Response::new(request.into_body()))
            });
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), back);
                served.await.unwrap_or_default();
            });
            serving.detach_all();
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        Ok::<_, anyhow::Error>(())
    });
    let body =
        Bytes::from((0..LARGE).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect::<Vec<_>>());
    let request = Request::post("/large").header(header::HOST, "x").body(Full::new(body.clone()))?;
    let response = http::exchange(behind.connect().await?, request).await?;
    ensure!(*response.body() == body, "{} of {LARGE} bytes came back", response.body().len());
    let request = Request::post("http://x/large").body(Full::new(body.clone()))?;
    let response = by_http2(behind.connect().await?, request).await?;
    let back = timeout(SOON * 4, response.into_body().collect()).await.context("no end")??.to_bytes();
    ensure!(back == body, "{} of {LARGE} bytes came back by HTTP/2", back.len());
    Ok(())
}

async fn requests_go_to_endpoints_that_answer(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let other = scene.start(scene.pod("a", "other").captured().labels(&[("app", "server")])).await?;
    other.serve().await?;
    // A third one is ready and does not listen: who meets it is sent elsewhere.
    scene.start(scene.pod("a", "mute").captured().labels(&[("app", "server")])).await?;
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..60 {
        answered.insert(behind.get("/").await?.name);
    }
    ensure!(answered.len() == 2, "only {answered:?} answered");
    Ok(())
}

async fn without_an_endpoint_a_request_is_refused_with_the_reason(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    behind.server.set_ready(false).await?;
    let request = Request::get("/").header(header::HOST, "x").body(Full::default())?;
    let response = http::exchange(behind.connect().await?, request).await?;
    ensure!(response.status() == StatusCode::SERVICE_UNAVAILABLE, "{response:?}");
    ensure!(response.body().starts_with(b"no healthy upstream"), "{:?}", response.body());
    let line = behind.written(|access| access.field("status") == "503").await?;
    ensure!(line.field("flags") == "UH", "{}", line.line);
    let call =
        Request::post("http://x/a.B/C").header("content-type", "application/grpc").body(Full::default())?;
    let response = by_http2(behind.connect().await?, call).await?;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    ensure!(response.headers().get("grpc-status").is_some_and(|status| status == "14"), "{response:?}");
    Ok(())
}

async fn a_waypoint_that_is_drained_fails_no_request(scene: Scene) -> Result<()> {
    let waypoint = scene.waypoint("b", "gate").and_on(&scene.node("a"));
    let waypoint = scene.begin(waypoint.variable("CONNECTION_TERMINATION_DEADLINE", "10s")).await?;
    scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let service = scene.create(service).await?;
    let target = SocketAddr::new(IpAddr::V4(service.addresses.context("no address")?.v4), 80);
    let [first, second] = waypoint.instances.as_slice() else { bail!("two instances were asked for") };
    second.pod.set_ready(false).await?;
    let (asked, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let mut loads = JoinSet::new();
    for way in [Way::Fresh, Way::Kept] {
        let (client, asked, enough) = (client.clone(), Arc::clone(&asked), Arc::clone(&enough));
        loads.spawn(async move { client.run(async move || way.ask(target, &asked, &enough).await).await });
    }
    eventually(SOON, "both loads on the first instance", async || {
        ensure!(asked.load(Ordering::Relaxed) == 2, "not begun");
        Ok(())
    })
    .await?;
    second.pod.set_ready(true).await?;
    // As a cluster does: no new connection is sent to an instance that is asked to end.
    first.pod.set_ready(false).await?;
    first.process.terminate(Duration::from_secs(15)).await?;
    enough.store(true, Ordering::Relaxed);
    while let Some(ended) = timeout(SOON, loads.join_next()).await.context("a load does not end")? {
        ended??;
    }
    Ok(())
}

/// Between requests, so that a connection that is kept rests most of the time.
const PACE: Duration = Duration::from_millis(20);

/// Whether each request has a connection of its own, or one is kept until an answer says that it is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Fresh,
    Kept,
}

impl Way {
    /// Asks until it is enough, and counts itself when it has begun. Fails when a request does, or when a connection that is
    /// kept was not told of its end.
    async fn ask(self, target: SocketAddr, asked: &AtomicUsize, enough: &AtomicBool) -> Result<()> {
        let mut kept: Option<SendRequest<Empty<Bytes>>> = None;
        let mut connections = JoinSet::new();
        let (mut begun, mut counted) = (0, false);
        let mut pace = tokio::time::interval(PACE);
        // Where a connection is kept, the load goes on until another one has taken its place, however early the waypoint has
        // ended: one that does not end with its waypoint keeps the load from ending.
        while !enough.load(Ordering::Relaxed) || (self == Self::Kept && begun < 2) {
            pace.tick().await;
            let mut sender = match kept.take() {
                Some(sender) => sender,
                None => {
                    let stream = TcpStream::connect(target).await.context("connecting")?;
                    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                    connections.spawn(connection);
                    begun += 1;
                    sender
                }
            };
            let request = Request::get("/").header("host", "server").body(Empty::new())?;
            let answer = sender.send_request(request).await;
            let answer = answer.with_context(|| format!("{self:?}, on connection {begun}"))?;
            ensure!(answer.status() == StatusCode::OK, "{answer:?}");
            let last = answer.headers().get(header::CONNECTION).is_some_and(|value| value == "close");
            answer.into_body().collect().await?;
            if !std::mem::replace(&mut counted, true) {
                asked.fetch_add(1, Ordering::Relaxed);
            }
            kept = Some(sender).filter(|_| self == Self::Kept && !last);
        }
        connections.detach_all();
        Ok(())
    }
}

async fn what_names_no_waypoint_is_not_carried_by_one(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let direct = SocketAddr::new(behind.server.v4(), echo::HTTP);
    let body = behind.client.run(async move || http::get(direct, "/direct").await).await?;
    let echo: Echo = serde_json::from_str(&body)?;
    ensure!(echo.peer.ip() == behind.client.v4(), "{} came past the waypoint", echo.peer);
    // Lines are written in order: when the later one is there, the earlier one would be.
    behind.get("/later").await?;
    behind.written(|access| access.field("path") == "/later").await?;
    let lines = behind.instance()?.access_log();
    ensure!(
        lines.iter().all(|line| line.field("path") != "/direct"),
        "a workload's own address went by the waypoint"
    );
    Ok(())
}
