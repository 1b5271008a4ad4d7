// SPDX-License-Identifier: Apache-2.0
//! Load at a fixed rate. A request is due at a fixed time and its latency counts from then, so that a slow answer does
//! not slow the clock that measures it. A thread per connection: the kernel's timer (50 µs of slack) decides when it
//! wakes, where an event loop's timer would count in milliseconds.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::web::END_OF_ANSWER;

/// The longest wait for one answer.
pub(crate) const LIMIT: Duration = Duration::from_secs(5);

/// Latencies, in order.
pub(crate) struct Latency {
    sorted: Vec<Duration>,
}

impl Latency {
    /// The latency that a share of all requests did not exceed, in microseconds.
    pub(crate) fn at(&self, share: f64) -> f64 {
        let last = self.sorted.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        self.sorted.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }
}

/// How often something is asked.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    /// Connections that share the rate.
    pub(crate) connections: u32,
    /// Requests per second.
    pub(crate) rate: f64,
    /// For how long.
    pub(crate) duration: Duration,
}

/// Asks `target` at a pace, from the calling thread's namespace.
pub(crate) fn measure(target: SocketAddr, pace: Pace) -> Result<Latency> {
    let Pace { connections, rate, duration } = pace;
    ensure!(rate > 0.0, "nothing was served, so there is no rate to measure at");
    let mut streams = hold(target, connections as usize)?;
    let period = Duration::from_secs_f64(f64::from(connections) / rate);
    let begin = Instant::now();
    let clients: Vec<_> = (0..connections)
        .zip(streams.drain(..))
        .map(|(number, stream)| {
            let first = begin + period * number / connections;
            thread::Builder::new()
                .name(format!("client {number}"))
                .spawn(move || client(stream, first, period, begin + duration))
                .context("starting a thread")
        })
        .collect::<Result<_>>()?;
    let mut sorted = Vec::new();
    for client in clients {
        sorted.extend(client.join().map_err(|_panic| anyhow!("a client panicked"))??);
    }
    sorted.sort_unstable();
    ensure!(!sorted.is_empty(), "no request was answered within {duration:?}");
    Ok(Latency { sorted })
}

/// Connections that have been used once, and stay open as long as they are held.
pub(crate) fn hold(target: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let open = |number| {
        let mut stream = TcpStream::connect_timeout(&target, LIMIT)
            .with_context(|| format!("connection {number} to {target}"))?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_nodelay(true)?;
        ask(&mut stream)?;
        Ok(stream)
    };
    (0..count).map(open).collect()
}

fn client(mut stream: TcpStream, first: Instant, period: Duration, end: Instant) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    let mut due = first;
    // The bound is on the clock: requests that are still due at the end belong to a rate that was not reached.
    while due < end && Instant::now() < end {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        ask(&mut stream)?;
        latencies.push(due.elapsed());
        due += period;
    }
    Ok(latencies)
}

fn ask(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n").context("sending a request")?;
    let mut answer = [0; 1024];
    let mut filled = 0;
    while !answer.get(..filled).is_some_and(|text| text.ends_with(END_OF_ANSWER.as_bytes())) {
        let room = answer.get_mut(filled..).unwrap_or_default();
        ensure!(!room.is_empty(), "the answer is longer than the server was told to give");
        let count = stream.read(room).context("reading an answer")?;
        ensure!(count > 0, "the connection was closed");
        filled += count;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_latencies_is_found_by_rank() {
        let sorted = (0..=1000).map(Duration::from_micros).collect();
        let latency = Latency { sorted };
        assert_eq!(
            [0.5, 0.99, 0.999, 1.0].map(|share| latency.at(share).round()),
            [500.0, 990.0, 999.0, 1000.0]
        );
    }

    #[test]
    fn no_latency_at_all_is_zero() {
        assert!(Latency { sorted: Vec::new() }.at(0.5).abs() < f64::EPSILON);
    }
}
