// SPDX-License-Identifier: Apache-2.0
//! Debian's wrk and iperf3, run in the client's pod. It reads what they print and knows nothing of the mesh.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use lab::{Pod, eventually};
use serde::Deserialize;

use super::place::Configuration;

/// Makes wrk print numbers instead of a text for people; it counts in microseconds.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('\nRESULT {"requests":%d,"micros":%d,"failed":%d,"p50":%d,"p99":%d,"p999":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;

/// How long iperf3 may take beyond the time it was given.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the programs are, and how long one run takes.
pub(crate) struct Tools {
    /// Debian's nginx.
    pub(crate) nginx: PathBuf,
    /// Its module for connections of any protocol, where it is to carry some itself.
    pub(crate) stream: Option<PathBuf>,
    /// Envoy, where there is one.
    pub(crate) envoy: Option<PathBuf>,
    /// Seconds.
    pub(crate) seconds: u64,
}

/// Where load comes from, where it goes to, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The configuration's name.
    pub(crate) name: &'a str,
    /// The pod that makes the load.
    pub(crate) client: &'a Pod,
    /// The web server, as the client reaches it.
    pub(crate) target: SocketAddr,
    /// A folder for files.
    pub(crate) folder: &'a Path,
    /// Seconds.
    pub(crate) seconds: u64,
}

/// What wrk has seen.
#[derive(Debug, Deserialize)]
pub(crate) struct Requests {
    /// Requests that were answered.
    pub(crate) requests: f64,
    micros: f64,
    failed: f64,
    /// Median latency in microseconds.
    pub(crate) p50: f64,
    /// 99th percentile.
    pub(crate) p99: f64,
    /// 99.9th percentile.
    pub(crate) p999: f64,
}

impl Requests {
    /// Requests per second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests * 1e6 / self.micros
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client to the server.
    Forth,
    /// From the server to the client.
    Back,
}

/// What iperf3 is to do.
#[derive(Clone, Copy)]
pub(crate) struct Bulk {
    /// Connections.
    pub(crate) streams: u32,
    /// For how long.
    pub(crate) seconds: u64,
    /// Which way.
    pub(crate) direction: Direction,
}

/// What iperf3 has moved.
pub(crate) struct Moved {
    /// Bytes that were received.
    pub(crate) bytes: f64,
    /// Throughput in Gbit/s.
    pub(crate) gigabits: f64,
    /// When it was started.
    pub(crate) begun: Instant,
}

/// What iperf3's receiver has got.
#[derive(Debug, Deserialize)]
struct Received {
    bytes: f64,
    bits_per_second: f64,
}

#[derive(Deserialize)]
struct Iperf {
    end: End,
    /// It says so here and ends as if all were well.
    error: Option<String>,
}

#[derive(Deserialize)]
struct End {
    sum_received: Option<Received>,
}

/// Requests over `connections`, as fast as they are answered; each on a connection of its own when `fresh`.
pub(crate) async fn wrk(site: Site<'_>, connections: u32, fresh: bool) -> Result<Requests> {
    let script = site.folder.join("wrk.lua");
    fs::write(&script, SCRIPT).context("writing wrk's script")?;
    let (script, connections) = (script.display().to_string(), connections.to_string());
    let (duration, url) = (format!("{}s", site.seconds), format!("http://{}/", site.target));
    let mut arguments =
        vec!["-t", "1", "-c", &connections, "-d", &duration, "--timeout", "5s", "-s", &script];
    if fresh {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(&url);
    let text = run((site.name, site.client), crate::packages::WRK.program, &arguments).await?;
    let result = result_of(&text)?;
    ensure!(
        result.requests > 0.0 && result.failed * 100.0 <= result.requests,
        "{}: {} of {} requests failed",
        site.name,
        result.failed,
        result.requests + result.failed
    );
    Ok(result)
}

/// Bytes over some connections, as fast as they are taken.
pub(crate) async fn iperf(place: &Configuration, bulk: Bulk) -> Result<Moved> {
    let Bulk { streams, seconds, direction } = bulk;
    let (ip, port) = (place.iperf.ip().to_string(), place.iperf.port().to_string());
    let (duration, number) = (seconds.to_string(), streams.to_string());
    let mut arguments = vec!["-c", &ip, "-p", &port, "-t", &duration, "-P", &number, "-J"];
    if direction == Direction::Back {
        arguments.push("-R");
    }
    let what = format!("{}: iperf3 with {streams} streams", place.name);
    // For a moment after a test the server is busy with having ended it.
    let deadline = Duration::from_secs(seconds) + PATIENCE;
    let from = (place.name, &place.client);
    eventually(deadline, &what, async || {
        let begun = Instant::now();
        let Received { bytes, bits_per_second } =
            received(&run(from, super::IPERF.program, &arguments).await?)?;
        Ok(Moved { bytes, gigabits: bits_per_second / 1e9, begun })
    })
    .await
}

fn received(text: &str) -> Result<Received> {
    let iperf: Iperf = serde_json::from_str(text).context("reading its result")?;
    if let Some(error) = iperf.error {
        bail!(error);
    }
    let received = iperf.end.sum_received.filter(|received| received.bytes > 0.0);
    received.context("it has moved nothing")
}

async fn run((name, client): (&str, &Pod), program: &str, arguments: &[&str]) -> Result<String> {
    let output = client.exec(program, arguments).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{name}: {program} {}: {}: {text}{error}",
        arguments.join(" "),
        output.status
    );
    Ok(text)
}

fn result_of(text: &str) -> Result<Requests> {
    let line = text.lines().find_map(|line| line.strip_prefix("RESULT "));
    serde_json::from_str(line.context("wrk has printed no result")?).context("reading wrk's result")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_is_found_among_what_wrk_says_to_people() {
        let text = "Running 3s test\n\nRESULT {\"requests\":3000,\"micros\":1500000,\"failed\":0,\"p50\":1,\"p99\":2,\"p999\":3}\n";
        assert!((result_of(text).unwrap().rate() - 2000.0).abs() < 1e-9);
        assert!(result_of("unable to connect").is_err());
    }

    #[test]
    fn what_iperf_received_is_told_from_why_it_received_nothing() {
        let good = r#"{"end": {"sum_received": {"bytes": 10, "bits_per_second": 8e9}}}"#;
        assert!((received(good).unwrap().bits_per_second - 8e9).abs() < 1e-9);
        let busy = r#"{"start": {}, "end": {}, "error": "the server is busy"}"#;
        assert_eq!(received(busy).unwrap_err().to_string(), "the server is busy");
        assert!(received(r#"{"end": {}}"#).is_err());
    }
}
