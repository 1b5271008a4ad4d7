// SPDX-License-Identifier: Apache-2.0
//! One record per connection: the access log's line and the counters, from the same facts.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arcstr::ArcStr;
use mesh::{PolicyName, Service, authz::Verdict};
use plan::{Failure, ResponseFlag};
pub use proxy::chain;
use tracing::field::{DisplayValue, display};

use crate::metrics::{End, Labels, Metrics, Reporter, Series};

/// Target of the access log: `RUST_LOG=access=off` or `/logging?level=access=off` silences it.
pub const ACCESS: &str = "access";
/// Target of what policies under trial would have done.
pub const POLICY: &str = "policy";

/// Field names and their order are Istio's; an absent one is left out.
macro_rules! access {
    ($level:ident, $target:expr, $facts:expr, $message:literal $(, $($more:tt)*)?) => {{
        let facts: &Facts = $facts;
        tracing::$level!(
            target: $target,
            {
            src.addr = %facts.source_address,
            src.workload = facts.source.name(),
            src.namespace = facts.source.namespace(),
            src.identity = shown(facts.source.principal.as_ref()),
            src.cluster = facts.source.cluster(),
            dst.addr = %facts.destination_address,
            dst.hbone_addr = facts.authority.as_deref(),
            dst.service = facts.service.as_deref().map(|service| service.hostname.as_str()),
            dst.workload = facts.destination.name(),
            dst.namespace = facts.destination.namespace(),
            dst.identity = shown(facts.destination.principal.as_ref()),
            dst.cluster = facts.destination.cluster(),
            direction = facts.direction(),
            $($($more)*)?
            },
            $message
        );
    }};
}

/// What is known of a connection before its bytes flow.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which end this proxy serves.
    pub reporter: Reporter,
    /// The client.
    pub source: End,
    /// Its address.
    pub source_address: SocketAddr,
    /// The server.
    pub destination: End,
    /// The address that is dialled (with port 15008 for a tunnel), or that the peer came to.
    pub destination_address: SocketAddr,
    /// What the CONNECT asks for.
    pub authority: Option<ArcStr>,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// Whether the peer is certain.
    pub mutual_tls: bool,
}

impl Facts {
    fn labels(&self, flag: ResponseFlag) -> Labels {
        Labels {
            reporter: self.reporter,
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            flag,
            mutual_tls: self.mutual_tls,
        }
    }

    fn direction(&self) -> &'static str {
        match self.reporter {
            Reporter::Source => "outbound",
            Reporter::Destination => "inbound",
        }
    }
}

/// Payload of a connection, as its client counts: sent, received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From the client to the server.
    pub sent: u64,
    /// From the server to the client.
    pub received: u64,
}

/// A connection that is counted as open.
#[derive(Debug)]
pub struct Open {
    facts: Facts,
    series: Arc<Series>,
    started: Instant,
}

impl Open {
    /// Counts the connection as opened.
    pub fn new(metrics: &Metrics, facts: Facts, started: Instant) -> Self {
        let series = metrics.series(&facts.labels(ResponseFlag::None), started);
        series.opened.increment(1);
        series.open.increment(1.0);
        if tracing::enabled!(target: ACCESS, tracing::Level::DEBUG) {
            line(&facts, Line::Opened);
        }
        Self { facts, series, started }
    }

    /// What it was opened with.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Counts it as closed and writes its line.
    pub fn close(self, metrics: &Metrics, bytes: Bytes, end: Result<(), &Failure>, now: Instant) {
        self.series.open.decrement(1.0);
        let series = match end {
            Ok(()) => self.series,
            Err(failure) => metrics.series(&self.facts.labels(failure.flag()), now),
        };
        series.bytes(bytes.sent, bytes.received);
        series.closed.increment(1);
        line(
            &self.facts,
            Line::Complete { bytes, duration: now.saturating_duration_since(self.started), end },
        );
    }
}

/// Counts and logs a connection that was never open.
pub fn failed(metrics: &Metrics, facts: &Facts, failure: &Failure, started: Instant, now: Instant) {
    let series = metrics.series(&facts.labels(failure.flag()), now);
    series.opened.increment(1);
    series.failed.increment(1);
    series.closed.increment(1);
    let duration = now.saturating_duration_since(started);
    line(facts, Line::Complete { bytes: Bytes::default(), duration, end: Err(failure) });
}

/// Counts and logs what policies under trial (`istio.io/dry-run`) would have done to a connection that is let in. Only a
/// refusal is worth a line at the default level.
pub fn dry_run(facts: &Facts, verdict: &Verdict) {
    let (name, policy) = (verdict.as_str(), verdict.policy());
    let label = policy.map_or_else(|| "-".to_owned(), PolicyName::to_string);
    metrics::counter!("ambit_dry_run_total", "policy" => label, "verdict" => name).increment(1);
    let policy = shown(policy);
    match verdict {
        Verdict::Denied(_) => access!(info, POLICY, facts, "dry-run: deny policy match", policy),
        Verdict::NotAllowed(_) => access!(info, POLICY, facts, "dry-run: no allow policies match", policy),
        Verdict::Allowed(_) => access!(debug, POLICY, facts, "dry-run: allow policy match", policy),
        Verdict::Open => access!(debug, POLICY, facts, "dry-run: no deny policy match"),
    }
}

/// Logs a connection that was turned away before anything was known of it.
pub fn turned_away(
    reporter: Reporter,
    source: SocketAddr,
    destination: SocketAddr,
    error: &dyn std::fmt::Display,
) {
    let direction = match reporter {
        Reporter::Source => "outbound",
        Reporter::Destination => "inbound",
    };
    tracing::warn!(
        target: ACCESS, { src.addr = %source, dst.addr = %destination, direction, %error }, "connection failed"
    );
}

enum Line<'a> {
    Opened,
    Complete { bytes: Bytes, duration: Duration, end: Result<(), &'a Failure> },
}

fn shown<T: std::fmt::Display>(value: Option<&T>) -> Option<DisplayValue<&T>> {
    value.map(display)
}

fn line(facts: &Facts, line: Line<'_>) {
    match line {
        Line::Opened => access!(debug, ACCESS, facts, "connection opened"),
        Line::Complete { bytes: Bytes { sent, received }, duration, end } => {
            let duration = display(Millis(duration));
            match end {
                Ok(()) => access!(
                    info,
                    ACCESS,
                    facts,
                    "connection complete",
                    bytes_sent = sent,
                    bytes_recv = received,
                    duration
                ),
                Err(failure) => access!(
                    error, ACCESS, facts, "connection complete",
                    bytes_sent = sent, bytes_recv = received, duration, error = %failure
                ),
            }
        }
    }
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}
