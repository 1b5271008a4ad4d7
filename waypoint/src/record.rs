// SPDX-License-Identifier: Apache-2.0
//! One record per request and per connection: the access log's line and the counters, from the same facts.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ::proxy::ends::End;
use arcstr::ArcStr;
use hbone::Counters;
use http::HeaderMap;
use mesh::{Service, SpiffeId, telemetry::View};
use plan::{
    Failure, Fault,
    outbound::{Hop, Transport},
};

use crate::{
    attributes,
    exchange::{Exchange, Spoken},
    labels::{OF_CONNECTIONS, OF_REQUESTS},
    link::Link,
    metrics::{Connections, Labels},
    trail,
    waypoint::Waypoint,
};

/// Target of the access log: `RUST_LOG=access=off` or `/logging?level=access=off` silences it.
pub const ACCESS: &str = "access";
/// The longest path that a line shows.
const LONGEST_PATH: usize = 512;

/// Writes the record of a request when it ends, or when it is dropped before.
#[derive(Debug)]
pub struct Ending {
    waypoint: Arc<Waypoint>,
    /// What is known.
    pub exchange: Exchange,
    written: bool,
}

impl Ending {
    /// Of a request that begins.
    pub fn new(waypoint: &Arc<Waypoint>, exchange: Exchange) -> Self {
        Self { waypoint: Arc::clone(waypoint), exchange, written: false }
    }

    /// The answer has ended, with trailers or with a failure.
    pub fn finish(mut self, how: Result<Option<&HeaderMap>, &str>) {
        match how {
            Ok(trailers) => {
                if let Some(trailers) = trailers {
                    self.exchange.note_grpc_status(trailers);
                }
            }
            Err(cause) => {
                self.exchange.fault.get_or_insert_with(|| Fault::Reset(cause.to_owned()));
            }
        }
        self.write();
    }

    fn write(&mut self) {
        if !std::mem::replace(&mut self.written, true) {
            write(&self.waypoint, &mut self.exchange);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.written {
            self.exchange.fault.get_or_insert(Fault::Cancelled);
            self.write();
        }
    }
}

impl Exchange {
    /// Notes the status of gRPC, which is in the head or in the trailers.
    pub fn note_grpc_status(&mut self, fields: &HeaderMap) {
        if self.spoken == Spoken::Grpc
            && let Some(status) = fields.get("grpc-status").and_then(|status| status.to_str().ok())
            && status.parse::<u8>().is_ok_and(|code| code <= 16)
        {
            self.grpc_status = Some(status.into());
        }
    }

    /// What tells its series from others, as long as no Telemetry changes that.
    pub fn labels(&self) -> Labels {
        let status = match (&self.fault, self.status) {
            (Some(fault), 0) => fault.meaning().status,
            (_, status) => status,
        };
        Labels {
            source: self.link.source.clone(),
            destination: self.destination.clone(),
            service: self.service().cloned(),
            protocol: self.spoken.as_str(),
            status: Some(status),
            grpc: self.grpc_status.clone(),
            flag: self.fault.as_ref().map_or("-", |fault| fault.meaning().flag),
            made: None,
        }
    }
}

fn write(waypoint: &Waypoint, exchange: &mut Exchange) {
    let took = exchange.started.elapsed();
    let mut labels = exchange.labels();
    let facts = attributes::Request::new(exchange, &labels, took);
    let view = exchange.trail.view.as_deref();
    labels.made =
        view.and_then(|view| waypoint.metrics.bounds.make(view, &OF_REQUESTS, &facts, Instant::now()));
    let series = waypoint.metrics.requests(&labels);
    series.total.increment(1);
    series.duration.record(took.as_secs_f64() * 1000.0);
    let (sent, received) = (exchange.request.bytes(), exchange.response.bytes());
    #[expect(clippy::cast_precision_loss, reason = "a histogram's bucket does not need the last byte")]
    {
        series.sent.record(sent as f64);
        series.received.record(received as f64);
    }
    if let Some((asked, answered)) = &series.messages {
        asked.increment(exchange.request.messages());
        answered.increment(exchange.response.messages());
    }
    let is_logged = || view.is_none_or(|view| view.logging.is_written(&facts));
    if tracing::enabled!(target: ACCESS, tracing::Level::INFO) && is_logged() {
        line(exchange, &labels, took);
    }
    waypoint.taps.show(exchange, &labels, took);
    trail::finish(waypoint, exchange, &labels);
}

fn line(exchange: &Exchange, labels: &Labels, took: Duration) {
    let link = &exchange.link;
    let path = exchange.path.get(..exchange.path.len().min(LONGEST_PATH)).unwrap_or(&exchange.path);
    tracing::info!(
        target: ACCESS,
        {
        src.addr = %link.peer,
        src.workload = link.source.name(),
        src.namespace = link.source.namespace(),
        src.identity = %link.identity,
        dst.addr = exchange.address.map(display),
        dst.service = exchange.service().map(|service| service.hostname.as_str()),
        dst.workload = exchange.destination.name(),
        dst.namespace = exchange.destination.namespace(),
        dst.identity = exchange.destination.principal.as_ref().map(display),
        direction = "waypoint",
        method = exchange.method.as_str(),
        host = exchange.host.as_str(),
        path,
        protocol = ?exchange.version,
        status = labels.status,
        flags = labels.flag,
        grpc_status = labels.grpc.as_deref(),
        route = exchange.route.as_deref(),
        policy = exchange.policy.as_deref(),
        attempts = exchange.attempts,
        bytes_sent = exchange.request.bytes(),
        bytes_recv = exchange.response.bytes(),
        duration = %Millis(took),
        request_id = exchange.trail.number.as_ref().and_then(|number| number.to_str().ok()),
        trace = exchange.trail.trace.map(Hex).map(display),
        error = exchange.fault.as_ref().map(display),
        },
        "request complete"
    );
}

/// What is known of a connection that is carried as bytes.
#[derive(Clone, Debug)]
pub struct Facts {
    source: End,
    peer: SocketAddr,
    authority: ArcStr,
    service: Option<Arc<Service>>,
    destination: End,
    address: Option<SocketAddr>,
    asked: SocketAddr,
    identity: SpiffeId,
    own: SpiffeId,
}

impl Facts {
    /// Of a client's connection, and of the way that was found for it.
    pub fn new(link: &Link, hop: Option<&Hop>) -> Self {
        let tunnelled = |hop: &Hop| match &hop.transport {
            Transport::Passthrough(_) | Transport::Plain(_) => false,
            Transport::Tunnel(_) | Transport::Nested { .. } => true,
        };
        let workload = hop.and_then(|hop| hop.destination.clone());
        let principal = workload.as_deref().map(mesh::Workload::identity);
        Self {
            source: link.source.clone(),
            peer: link.peer,
            authority: link.authority.clone(),
            service: link.addressed.target.service().cloned(),
            destination: End {
                workload,
                hearsay: None,
                principal: principal.filter(|_| hop.is_some_and(tunnelled)),
            },
            address: hop.map(Hop::address),
            asked: link.addressed.asked,
            identity: link.identity.clone(),
            own: link.own.clone(),
        }
    }

    /// As expressions see it.
    fn ended(&self, flag: &'static str) -> attributes::Connection<'_> {
        let (identity, own) = (&self.identity, &self.own);
        attributes::Connection {
            peer: self.peer,
            asked: self.asked,
            server: self.address,
            identity,
            own,
            flag,
        }
    }

    fn labels(&self, waypoint: &Waypoint, view: &View, flag: &'static str) -> Labels {
        let facts = self.ended(flag);
        Labels {
            made: waypoint.metrics.bounds.make(view, &OF_CONNECTIONS, &facts, Instant::now()),
            source: self.source.clone(),
            destination: self.destination.clone(),
            service: self.service.clone(),
            protocol: "tcp",
            status: None,
            grpc: None,
            flag,
        }
    }
}

/// A connection that is counted as open.
pub struct Open {
    facts: Facts,
    view: Arc<View>,
    series: Connections,
    started: Instant,
}

impl Open {
    /// Counts it as opened.
    pub fn new(waypoint: &Waypoint, facts: Facts, started: Instant) -> Self {
        let view = waypoint.observed.of(waypoint, facts.service.as_ref());
        let series = waypoint.metrics.connections(&facts.labels(waypoint, &view, "-"));
        series.opened.increment(1);
        Self { facts, view, series, started }
    }

    /// Counts it as closed and writes its line.
    pub fn close(self, waypoint: &Waypoint, counters: &Counters, failure: Option<&Failure>) {
        let flag = flag(failure);
        let series = match failure {
            None => self.series,
            Some(_) => waypoint.metrics.connections(&self.facts.labels(waypoint, &self.view, flag)),
        };
        series.received.increment(counters.sent());
        series.sent.increment(counters.received());
        series.closed.increment(1);
        if self.view.logging.is_written(&self.facts.ended(flag)) {
            connection_line(&self.facts, (counters.sent(), counters.received()), self.started, failure);
        }
    }
}

fn flag(failure: Option<&Failure>) -> &'static str {
    failure.map_or("-", |failure| failure.flag().as_str())
}

/// Counts and logs a connection for which no server could be reached.
pub fn failed(waypoint: &Waypoint, facts: &Facts, failure: &Failure, started: Instant) {
    let (view, flag) = (waypoint.observed.of(waypoint, facts.service.as_ref()), flag(Some(failure)));
    let series = waypoint.metrics.connections(&facts.labels(waypoint, &view, flag));
    series.opened.increment(1);
    series.closed.increment(1);
    if view.logging.is_written(&facts.ended(flag)) {
        connection_line(facts, (0, 0), started, Some(failure));
    }
}

fn connection_line(facts: &Facts, (sent, received): (u64, u64), started: Instant, failure: Option<&Failure>) {
    tracing::info!(
        target: ACCESS,
        {
        src.addr = %facts.peer,
        src.workload = facts.source.name(),
        src.namespace = facts.source.namespace(),
        src.identity = facts.source.principal.as_ref().map(display),
        dst.addr = facts.address.map(display),
        dst.hbone_addr = facts.authority.as_str(),
        dst.service = facts.service.as_deref().map(|service| service.hostname.as_str()),
        dst.workload = facts.destination.name(),
        dst.namespace = facts.destination.namespace(),
        dst.identity = facts.destination.principal.as_ref().map(display),
        direction = "waypoint",
        bytes_sent = sent,
        bytes_recv = received,
        duration = %Millis(started.elapsed()),
        error = failure.map(display),
        },
        "connection complete"
    );
}

/// Logs a client that was turned away before its connection began.
pub fn turned_away(source: SocketAddr, authority: &str, failure: &Failure) {
    tracing::warn!(
        target: ACCESS,
        { src.addr = %source, dst.hbone_addr = authority, direction = "waypoint", error = %failure },
        "connection failed"
    );
}

struct Hex(u128);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

struct Millis(Duration);

impl std::fmt::Display for Millis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}ms", self.0.as_millis())
    }
}
