// SPDX-License-Identifier: Apache-2.0
//! Bounded HTTP/1.1 load: so many connections, so many requests a second, kept alive or a new connection for each.
//!
//! It is an open loop: a request is due at a fixed time, and its latency counts from then, so that a slow server does
//! not slow the clock that measures it.

mod histogram;

use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use bytes::Bytes;
use clap::Args;
use http::Uri;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::json;
use tokio::{
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::call;
use histogram::Histogram;

/// How long a client waits after a failed connection before it tries again.
const PAUSE: Duration = Duration::from_millis(20);
/// Failures of each step that are logged with their cause; the others are only counted.
const LOGGED: u64 = 20;

/// Sends requests and prints what became of them, in JSON, at the end or on SIGTERM.
#[derive(Args, Clone)]
pub(crate) struct Load {
    /// `http://host[:port]/path`.
    url: Uri,
    /// Requests that may be under way at the same time.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Requests a second over all connections.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// A new connection for every request.
    #[arg(long)]
    fresh: bool,
    /// How long; 0: until SIGTERM.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// Longest time for one request.
    #[arg(long, default_value_t = 5_000)]
    timeout_ms: u64,
}

#[derive(Default)]
struct Tally {
    failures: BTreeMap<&'static str, u64>,
    latency: Histogram,
}

impl Tally {
    /// Counts a failure; how many there are of that step.
    fn count(&mut self, step: &'static str) -> u64 {
        let count = self.failures.entry(step).or_default();
        *count += 1;
        *count
    }
}

/// Why a request failed: the step, under which it is counted, and the cause, for the log.
struct Failure {
    step: &'static str,
    cause: String,
}

impl Failure {
    fn at<E: Into<anyhow::Error>>(step: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self { step, cause: format!("{:#}", error.into()) }
    }
}

/// An open connection: where requests go in, and the task that moves them.
struct Open {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

impl Load {
    pub(crate) async fn run(self) -> Result<()> {
        ensure!(self.rate > 0.0 && self.connections > 0, "a load needs a rate and a connection");
        let tally = Arc::new(Mutex::new(Tally::default()));
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..self.connections {
            clients.spawn(client(self.clone(), number, started, Arc::clone(&tally)));
        }
        let mut terminated = signal(SignalKind::terminate())?;
        let end = started + Duration::from_secs(self.seconds);
        tokio::select! {
            () = sleep_until(end), if self.seconds > 0 => {}
            _ = terminated.recv() => {}
        }
        // Requests that are under way are neither counted as done nor as failed.
        clients.shutdown().await;
        let tally = tally.lock();
        let failed: u64 = tally.failures.values().sum();
        let ms = |quantile: f64| tally.latency.at(quantile).as_secs_f64() * 1e3;
        let result = json!({
            "ok": tally.latency.count(),
            "failed": failed,
            "failures": tally.failures,
            "seconds": started.elapsed().as_secs_f64(),
            "latency_ms": {
                "p50": ms(0.5), "p90": ms(0.9), "p99": ms(0.99), "p999": ms(0.999), "max": ms(1.0),
            },
        });
        writeln!(std::io::stdout(), "{result}")?;
        Ok(())
    }
}

async fn client(load: Load, number: u32, started: Instant, tally: Arc<Mutex<Tally>>) {
    let period = Duration::from_secs_f64(f64::from(load.connections) / load.rate);
    let mut due = started + period.mul_f64(f64::from(number) / f64::from(load.connections));
    let limit = Duration::from_millis(load.timeout_ms);
    let mut open = None;
    loop {
        sleep_until(due).await;
        let outcome = timeout(limit, one(&load, &mut open)).await;
        match outcome.unwrap_or_else(|elapsed| Err(Failure::at("timeout")(elapsed))) {
            Ok(()) => tally.lock().latency.add(due.elapsed()),
            Err(Failure { step, cause }) => {
                let total = tally.lock().count(step);
                if total <= LOGGED {
                    let (began, ended) = (due - started, started.elapsed());
                    let line = format!("client {number}, from {began:?} to {ended:?}: {step}: {cause}");
                    // Without its log the load goes on.
                    let _written = writeln!(std::io::stderr(), "{line}");
                }
                open = None;
                sleep(PAUSE).await;
            }
        }
        due += period;
    }
}

async fn one(load: &Load, open: &mut Option<Open>) -> Result<(), Failure> {
    let mut kept = open.take();
    if let Some(connection) = &mut kept
        && connection.sender.ready().await.is_err()
    {
        // A server that is draining closes a kept connection between two requests; that is no failure.
        kept = None;
    }
    let mut connection = match kept {
        Some(connection) => connection,
        None => connect(load).await?,
    };
    let request = call::request(&load.url, None).map_err(Failure::at("url"))?;
    let answer = connection.sender.send_request(request).await.map_err(Failure::at("request"))?;
    let status = answer.status();
    answer.into_body().collect().await.map_err(Failure::at("body"))?;
    if !status.is_success() {
        return Err(Failure { step: "status", cause: status.to_string() });
    }
    if !load.fresh {
        *open = Some(connection);
    }
    Ok(())
}

async fn connect(load: &Load) -> Result<Open, Failure> {
    let address = call::locate(&load.url).await.map_err(Failure::at("name"))?;
    let stream = TcpStream::connect(address).await.map_err(Failure::at("connect"))?;
    stream.set_nodelay(true).map_err(Failure::at("connect"))?;
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(Failure::at("connect"))?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // The request that suffers from an error reports it.
        drop(connection.await);
    });
    Ok(Open { sender, _driver: driver })
}
