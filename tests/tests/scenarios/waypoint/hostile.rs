// SPDX-License-Identifier: Apache-2.0
//! What a client of a waypoint may try: requests that two parsers read differently, heads without end, drops of a head, floods
//! of frames, answers that nobody takes. Each is refused and counted, memory stays flat, and others are served meanwhile.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::http::{Request, Response};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use lab::{cluster::Instance, echo, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use super::Behind;
use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        what_two_parsers_could_read_differently_is_refused,
        heads_without_measure_are_refused_and_memory_stays_flat,
        a_head_that_comes_drop_by_drop_ends_and_others_are_served,
        floods_of_frames_end_the_connection_and_are_counted,
        requests_that_are_taken_back_again_and_again_are_an_attack,
        answers_that_nobody_takes_do_not_fill_memory,
    ]
}

/// Kilobytes of the waypoint's memory that are in use.
fn memory(instance: &Instance) -> Result<u64> {
    let pid = instance.process.pid().context("it does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading its status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// More than what allocators keep for themselves, less than any of these attacks sends.
const ROOM: u64 = 48 << 10;

fn is_flat(before: u64, after: u64) -> Result<()> {
    ensure!(after < before + ROOM, "{before} kB before, {after} kB after");
    Ok(())
}

/// Sends bytes and reads until the waypoint ends the connection.
async fn spoken(mut stream: TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut back = Vec::new();
    let speaking = async {
        // A waypoint that has seen enough does not take the rest.
        stream.write_all(bytes).await.unwrap_or_default();
        stream.read_to_end(&mut back).await.map(drop).unwrap_or_default();
    };
    timeout(SOON * 2, speaking).await.context("the connection stays open")?;
    Ok(back)
}

/// Counts requests, and those for `/smuggled`.
async fn counting(listener: TcpListener, all: Arc<AtomicUsize>, smuggled: Arc<AtomicUsize>) -> Result<()> {
    loop {
        let (stream, _peer) = listener.accept().await?;
        let (all, smuggled) = (Arc::clone(&all), Arc::clone(&smuggled));
        let service = service_fn(move |request: Request<Incoming>| {
            let hidden = request.uri().path() == "/smuggled";
            let (all, smuggled) = (Arc::clone(&all), Arc::clone(&smuggled));
            async move {
                if request.into_body().collect().await.is_ok() {
                    all.fetch_add(1, Ordering::Relaxed);
                    smuggled.fetch_add(usize::from(hidden), Ordering::Relaxed);
                }
                Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
            }
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

/// Fields, then what follows the head.
const CORPUS: [(&str, &str); 20] = [
    ("Content-Length: 30\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 30\r\n", "0\r\n\r\nGET /smuggled HTTP/1.1\r\n"),
    ("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"),
    ("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
    ("Content-Length: 5, 6\r\n", "hello!"),
    ("Content-Length: +5\r\n", "hello"),
    ("Content-Length: 5 \x0b\r\n", "hello"),
    ("Content-Length : 5\r\n", "hello"),
    ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    ("X: a\r\n Transfer-Encoding: chunked\r\n", ""),
    ("X: a\r\n\tb\r\n", ""),
    ("X: a\nContent-Length: 5\r\n", "hello"),
    ("X: a\rContent-Length: 5\r\n", "hello"),
    ("X: a\0b\r\n", ""),
    (" X: a\r\n", ""),
    ("X\r\n", ""),
];

/// What is wrong is found after the head has gone on: the request is cut short.
const BODIES: [&str; 6] = [
    "5\nhello\r\n0\r\n\r\n",
    "5;x\ny\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5\r\nhelloGET /smuggled HTTP/1.1\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
];

async fn what_two_parsers_could_read_differently_is_refused(scene: Scene) -> Result<()> {
    const PORT: u16 = 7090;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let (all, smuggled) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let mut server = JoinSet::new();
    let listener = behind.server.listen(PORT).await?;
    server.spawn(counting(listener, Arc::clone(&all), Arc::clone(&smuggled)));
    for (fields, body) in CORPUS {
        let request = format!("POST /front HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}");
        let answer = spoken(behind.connect().await?, request.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(answer.starts_with("HTTP/1.1 400"), "{fields:?}: {answer:?}");
    }
    let seen = all.load(Ordering::Relaxed);
    ensure!(seen == 0, "{seen} of them reached the server");
    for body in BODIES {
        let request = format!("POST /front HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        spoken(behind.connect().await?, request.as_bytes()).await.with_context(|| format!("{body:?}"))?;
    }
    let seen = (all.load(Ordering::Relaxed), smuggled.load(Ordering::Relaxed));
    ensure!(seen == (0, 0), "{seen:?} reached the server whole");
    let instance = behind.instance()?;
    eventually(SOON, "all of them counted", async || {
        let counted = instance.metrics().await?.sum("ambit_attacks_total", &[]);
        ensure!(counted >= 20.0, "only {counted} are counted");
        Ok(())
    })
    .await?;
    // What is in order still passes, also behind a request that was.
    let good = "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n\r\n\
                GET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let answer = spoken(behind.connect().await?, good.as_bytes()).await?;
    let answers = String::from_utf8_lossy(&answer).matches("HTTP/1.1 200").count();
    ensure!(answers == 2, "{answers} answers");
    Ok(())
}

/// How often something was counted as an attack of a kind.
async fn attacks(instance: &Instance, kind: &str) -> Result<f64> {
    Ok(instance.metrics().await?.sum("ambit_attacks_total", &[("kind", kind)]))
}

/// Waits until it is as many as expected, and no more.
async fn are_counted(instance: &Instance, kind: &str, expected: u32) -> Result<()> {
    eventually(SOON, "all of them counted", async || {
        let counted = attacks(instance, kind).await?;
        ensure!((counted - f64::from(expected)).abs() < 0.5, "{counted} of {kind}, not {expected}");
        Ok(())
    })
    .await
}

/// Waits until attacks of these kinds together are so many or more: a connection is counted after its end.
async fn at_least(instance: &Instance, kinds: [&str; 2], expected: f64) -> Result<()> {
    eventually(SOON, "all of them counted", async || {
        let metrics = instance.metrics().await?;
        let counted = kinds.map(|kind| metrics.sum("ambit_attacks_total", &[("kind", kind)]));
        ensure!(counted.iter().sum::<f64>() >= expected, "{counted:?} of {kinds:?}, not {expected}");
        Ok(())
    })
    .await
}

async fn heads_without_measure_are_refused_and_memory_stays_flat(scene: Scene) -> Result<()> {
    const TIMES: u32 = 25;
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let instance = behind.instance()?;
    let heads = [
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(2000)),
        format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "b".repeat(400 << 10)),
        format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(400 << 10)),
    ];
    let trailers = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{}\r\n",
        "A: b\r\n".repeat(200_000)
    );
    // Once for what is allocated anyway.
    for head in heads.iter().chain([&trailers]) {
        spoken(behind.connect().await?, head.as_bytes()).await?;
    }
    let before = memory(instance)?;
    for _ in 0..TIMES {
        for head in &heads {
            let answer = spoken(behind.connect().await?, head.as_bytes()).await?;
            let status = String::from_utf8_lossy(answer.get(9..12).unwrap_or_default()).into_owned();
            ensure!(status == "431", "status {status:?} for {:?}", head.get(..40));
        }
        // Their head has gone on: the request is cut short, whatever its server made of it.
        spoken(behind.connect().await?, trailers.as_bytes()).await?;
    }
    is_flat(before, memory(instance)?)?;
    are_counted(instance, "head_too_large", 3 * (TIMES + 1)).await?;
    ensure!(behind.get("/").await?.name == "server");
    Ok(())
}

async fn a_head_that_comes_drop_by_drop_ends_and_others_are_served(scene: Scene) -> Result<()> {
    let waypoint = scene.waypoint("b", "gate").variable("AMBIT_HEADER_TIMEOUT", "2s");
    let waypoint = scene.begin(waypoint).await?;
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let address = scene.create(service).await?.addresses.context("no virtual address")?.v4.into();
    let behind = Behind { client, server, waypoint, address };
    let mut slow = JoinSet::new();
    for _ in 0..100 {
        let mut stream = behind.connect().await?;
        slow.spawn(async move {
            stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").await?;
            let mut one = [0];
            // A drop every 200 ms, until the other side has had enough.
            loop {
                match timeout(Duration::from_millis(200), stream.read(&mut one)).await {
                    Ok(Ok(count)) if count > 0 => {}
                    Ok(_ended) => return anyhow::Ok(()),
                    Err(_elapsed) => stream.write_all(b"a").await?,
                }
            }
        });
    }
    ensure!(behind.get("/").await?.name == "server");
    let all_end = async {
        while let Some(ended) = slow.join_next().await {
            // A connection that breaks has ended too.
            ended?.unwrap_or_default();
        }
        anyhow::Ok(())
    };
    timeout(SOON, all_end).await.context("a slow head is still waited for")??;
    are_counted(behind.instance()?, "slow_head", 100).await?;
    ensure!(behind.get("/").await?.name == "server");
    Ok(())
}

fn frame(sort: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, one, two, three] = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut bytes = vec![one, two, three, sort, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET / ` of `x`, in HPACK.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'];
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

fn begin(settings: &[u8]) -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()
}

async fn floods_of_frames_end_the_connection_and_are_counted(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let instance = behind.instance()?;
    let continuation = [
        frame(HEADERS, 0, 1, GET),
        frame(CONTINUATION, 0, 1, &[0x40, 1, b'a', 1, b'b'].repeat(100)).repeat(2000),
    ];
    let floods = [
        ("ping_flood", frame(PING, 0, 0, &[7; 8]).repeat(100_000)),
        ("settings_flood", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(100_000)),
        ("priority_flood", frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]).repeat(100_000)),
        ("continuation_flood", continuation.concat()),
        ("unknown_frame_flood", frame(99, 0, 0, b"x").repeat(100_000)),
    ];
    let before = memory(instance)?;
    for (kind, flood) in &floods {
        for _ in 0..4 {
            let bytes = [begin(&[]), flood.clone()].concat();
            spoken(behind.connect().await?, &bytes).await.context(*kind)?;
        }
        // h2 has bounds of its own, and may be the first to see it.
        at_least(instance, [*kind, "too_much_at_once"], 4.0).await?;
    }
    is_flat(before, memory(instance)?)?;
    ensure!(behind.get("/").await?.name == "server");
    Ok(())
}

async fn requests_that_are_taken_back_again_and_again_are_an_attack(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let instance = behind.instance()?;
    let before = memory(instance)?;
    let mut bytes = begin(&[]);
    for number in 0..20_000 {
        let stream = number * 2 + 1;
        bytes.extend(frame(HEADERS, 5, stream, GET));
        bytes.extend(frame(RESET, 0, stream, &8_u32.to_be_bytes()));
    }
    for _ in 0..5 {
        spoken(behind.connect().await?, &bytes).await?;
    }
    at_least(instance, ["rapid_reset", "too_much_at_once"], 5.0).await?;
    is_flat(before, memory(instance)?)?;
    ensure!(behind.get("/").await?.name == "server");
    Ok(())
}

/// Connections with requests whose answers nobody reads: two of HTTP/2 with a window of 0 and 60 requests each, and 20 of
/// HTTP/1.
async fn unread(behind: &Behind) -> Result<Vec<TcpStream>> {
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = behind.connect().await?;
        let mut bytes = begin(&[0, 4, 0, 0, 0, 0]);
        for number in 0..60 {
            bytes.extend(frame(HEADERS, 5, number * 2 + 1, GET));
        }
        stream.write_all(&bytes).await?;
        idle.push(stream);
    }
    for _ in 0..20 {
        let mut stream = behind.connect().await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
        idle.push(stream);
    }
    Ok(idle)
}

async fn answers_that_nobody_takes_do_not_fill_memory(scene: Scene) -> Result<()> {
    const PORT: u16 = 7091;
    const LARGE: usize = 8 << 20;
    const WAITING: usize = 2 * 60 + 20;
    let behind = Behind::begin(&scene, PORT, "http").await?;
    let mut server = JoinSet::new();
    let listener = behind.server.listen(PORT).await?;
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    server.spawn(async move {
        let body = Bytes::from(vec![7; LARGE]);
        loop {
            let (stream, _peer) = listener.accept().await?;
            let (body, counted) = (body.clone(), Arc::clone(&counted));
            let service = service_fn(move |request: Request<Incoming>| {
                counted.fetch_add(1, Ordering::Relaxed);
                let body = if request.uri().path() == "/small" { Bytes::from("small") } else { body.clone() };
                async move { Ok::<_, std::convert::Infallible>(Response::new(Full::new(body))) }
            });
            let mut serving = JoinSet::new();
            serving.spawn(async move {
                let served = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service);
                served.await.unwrap_or_default();
            });
            serving.detach_all();
        }
        #[expect(unreachable_code, reason = "gives the block its type")]
        anyhow::Ok(())
    });
    let instance = behind.instance()?;
    let before = memory(instance)?;
    let idle = unread(&behind).await?;
    eventually(SOON, "all of them answered by the server", async || {
        let asked = asked.load(Ordering::Relaxed);
        ensure!(asked == WAITING, "{asked} of {WAITING}");
        Ok(())
    })
    .await?;
    // They share their way to the server with others, who do not wait for them.
    for number in 0..20 {
        let small = Request::get("/small").header("host", "x").body(Full::default())?;
        let answer = timeout(SOON, lab::http::exchange(behind.connect().await?, small)).await;
        let answer =
            answer.with_context(|| format!("request {number} waits for those that nobody reads"))??;
        ensure!(answer.body() == "small", "{answer:?}");
    }
    // 140 answers of 8 MiB would be more than a gigabyte.
    let after = memory(instance)?;
    ensure!(after < before + (160 << 10), "{before} kB before, {after} kB with 140 answers that wait");
    drop(idle);
    Ok(())
}
