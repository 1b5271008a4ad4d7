// SPDX-License-Identifier: Apache-2.0
//! What one client of a proxy feels of another: its latency alone, while the other reads big answers slowly over many
//! connections, and while it sends as many requests as are answered.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use tokio::sync::oneshot;

use super::{
    super::{
        CONNECTIONS, load,
        paced::{self, Latency, Pace},
        report::{Figure, Report},
        web::BIG,
    },
    place::Place,
};
use crate::step::say;

/// Requests per second of the one that measures, over one connection: so few that even a late answer is there before the
/// next request is due.
const RATE: f64 = 100.0;
/// Samples enough for a 99th percentile take so long at least.
const LEAST: u64 = 5;
/// So much earlier the other begins, and so much later it ends.
const MARGIN: Duration = Duration::from_secs(1);
/// How much of an answer is read at a time, and how often of each. They take turns, as clients do that know nothing of each
/// other: what is read together lets buffers run low together, and all of them are filled at one moment.
const SIP: usize = 4096;
const PAUSE: Duration = Duration::from_millis(50);
/// As long as a request of the one that measures is waited for.
const LIMIT: Duration = paced::LIMIT;

/// Measures all three.
pub(super) async fn measure(place: &Place, seconds: u64, report: &mut Report) -> Result<()> {
    let seconds = seconds.max(LEAST);
    let quiet = latency(place, seconds, Duration::ZERO).await?;
    let quiet = Felt { p50: quiet.at(0.5), p99: quiet.at(0.99) };
    let slow = felt(place, beside_slow_readers(place, seconds).await?);
    let flood = felt(place, beside_a_flood(place, seconds).await?);
    for (p50, p99, felt) in [
        (Figure::QuietP50, Figure::QuietP99, &quiet),
        (Figure::SlowP50, Figure::SlowP99, &slow),
        (Figure::FloodP50, Figure::FloodP99, &flood),
    ] {
        report.add_all(place.name, vec![(p50, felt.p50), (p99, felt.p99)]);
    }
    report.add(place.name, Figure::SlowToQuiet, slow.p99 / quiet.p99);
    report.add(place.name, Figure::FloodToQuiet, flood.p99 / quiet.p99);
    Ok(())
}

/// Latencies in microseconds.
struct Felt {
    p50: f64,
    p99: f64,
}

/// A client that is not answered at all beside another waits for as long as any would.
fn felt(place: &Place, latency: Result<Latency>) -> Felt {
    match latency {
        Ok(latency) => Felt { p50: latency.at(0.5), p99: latency.at(0.99) },
        Err(error) => {
            say(format!("   {}: one client stopped another: {error:#}", place.name));
            let longest = LIMIT.as_secs_f64() * 1e6;
            Felt { p50: longest, p99: longest }
        }
    }
}

async fn latency(place: &Place, seconds: u64, after: Duration) -> Result<Latency> {
    let pace = Pace { connections: 1, rate: RATE, duration: Duration::from_secs(seconds) };
    let target = place.target;
    place
        .client
        .run(async move || {
            thread::sleep(after);
            paced::measure(target, pace)
        })
        .await
}

async fn beside_a_flood(place: &Place, seconds: u64) -> Result<Result<Latency>> {
    let longer = seconds + 2 * MARGIN.as_secs();
    let flood = load::wrk(place.site(&place.other, longer), CONNECTIONS, false);
    let (flood, latency) = tokio::join!(flood, latency(place, seconds, MARGIN));
    flood?;
    Ok(latency)
}

async fn beside_slow_readers(place: &Place, seconds: u64) -> Result<Result<Latency>> {
    let (begun, begins) = oneshot::channel();
    let over = Arc::new(AtomicBool::new(false));
    let (target, until) = (place.target, Arc::clone(&over));
    let longest = Duration::from_secs(seconds) * 4;
    let reading = place.other.run(async move || {
        let mut streams = ask_all(target)?;
        // Whoever waits for it may have failed.
        begun.send(()).unwrap_or_default();
        let deadline = Instant::now() + longest;
        let turns = streams.len() as u32;
        while !until.load(Ordering::Relaxed) && Instant::now() < deadline {
            for stream in &mut streams {
                sip(stream)?;
                thread::sleep(PAUSE / turns);
            }
        }
        Ok(())
    });
    let measuring = async {
        let outcome = match begins.await {
            Ok(()) => latency(place, seconds, MARGIN).await,
            Err(gone) => Err(gone).context("the slow readers did not begin"),
        };
        over.store(true, Ordering::Relaxed);
        outcome
    };
    let (reading, latency) = tokio::join!(reading, measuring);
    reading.with_context(|| format!("slow readers of {}", place.name))?;
    Ok(latency)
}

/// A big answer on each of many connections.
fn ask_all(target: SocketAddr) -> Result<Vec<TcpStream>> {
    let (path, _) = BIG;
    let request = format!("GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n");
    let one = |_number| {
        let mut stream = TcpStream::connect_timeout(&target, LIMIT).context("connecting")?;
        stream.write_all(request.as_bytes()).context("asking for a big answer")?;
        // The first bytes are not waited for: those that read slowly may stop each other, too.
        stream.set_nonblocking(true)?;
        thread::sleep(MARGIN / CONNECTIONS);
        Ok(stream)
    };
    (0..CONNECTIONS).map(one).collect()
}

/// A little of one.
fn sip(stream: &mut TcpStream) -> Result<()> {
    let mut bytes = [0; SIP];
    match stream.read(&mut bytes) {
        Ok(count) => ensure!(count > 0, "a big answer ended early"),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => return Err(error).context("reading a big answer"),
    }
    Ok(())
}
