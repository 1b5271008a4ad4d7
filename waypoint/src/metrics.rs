// SPDX-License-Identifier: Apache-2.0
//! Every metric of this process, under the names that Istio's dashboards use.
//!
//! Labels come from workloads, services and enums. A series that nobody counts for [`IDLE`] leaves the scrape, so
//! handles are not kept longer than [`HANDLE_LIFE`]: a handle of a series that left would count into nothing.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use ::proxy::{
    ends::{self, End, IDLE, address},
    hearsay::{Heard, Hearsay},
};
use arcstr::ArcStr;
use mesh::Service;
use metrics::{Counter, Histogram, Label, counter, describe_counter, describe_histogram, gauge, histogram};
use parking_lot::RwLock;
use plan::baggage::Baggage;

const HANDLE_LIFE: Duration = Duration::from_secs(300);
const _: () = assert!(HANDLE_LIFE.as_secs() < IDLE.as_secs());
/// Sets of labels whose handles are kept.
const CACHED: usize = 16_384;

const REQUESTS: &str = "istio_requests_total";
const DURATION: &str = "istio_request_duration_milliseconds";
const REQUEST_BYTES: &str = "istio_request_bytes";
const RESPONSE_BYTES: &str = "istio_response_bytes";
const REQUEST_MESSAGES: &str = "istio_request_messages_total";
const RESPONSE_MESSAGES: &str = "istio_response_messages_total";
const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";
const SENT: &str = "istio_tcp_sent_bytes_total";

/// Upper bounds of the buckets of every histogram: those of Envoy, which Istio's dashboards know.
pub fn buckets() -> Vec<(&'static str, Vec<f64>)> {
    let times = [
        0.5,
        1.0,
        5.0,
        10.0,
        25.0,
        50.0,
        100.0,
        250.0,
        500.0,
        1000.0,
        2500.0,
        5000.0,
        10_000.0,
        30_000.0,
        60_000.0,
        300_000.0,
        600_000.0,
        1_800_000.0,
        3_600_000.0,
    ];
    let [duration, request, response] = [DURATION, REQUEST_BYTES, RESPONSE_BYTES];
    [duration, request, response].map(|name| (name, times.to_vec())).to_vec()
}

/// What tells one series from another.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The client.
    pub source: End,
    /// The server.
    pub destination: End,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// `http`, `grpc` or `tcp`.
    pub protocol: &'static str,
    /// Status of the answer; nothing for connections.
    pub status: Option<u16>,
    /// Status of gRPC.
    pub grpc: Option<ArcStr>,
    /// Why there is no answer of a server.
    pub flag: &'static str,
}

impl Labels {
    fn key(&self) -> (&End, &End, usize, &'static str, Option<u16>, Option<&str>, &'static str) {
        (
            &self.source,
            &self.destination,
            address(self.service.as_ref()),
            self.protocol,
            self.status,
            self.grpc.as_deref(),
            self.flag,
        )
    }

    fn render(&self) -> Vec<Label> {
        let mut out = Vec::with_capacity(34);
        out.push(Label::from_static_parts("reporter", "waypoint"));
        ends::source(&mut out, &self.source);
        ends::service(&mut out, self.service.as_deref());
        ends::destination(&mut out, &self.destination);
        out.push(Label::from_static_parts("request_protocol", self.protocol));
        out.push(Label::from_static_parts("response_flags", self.flag));
        // A client is let in by mutual TLS only.
        out.push(Label::from_static_parts("connection_security_policy", "mutual_tls"));
        if let Some(status) = self.status {
            out.push(Label::new("response_code", status.to_string()));
            let grpc = self.grpc.as_deref().unwrap_or_default().to_owned();
            out.push(Label::new("grpc_response_status", grpc));
        }
        out
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// The handles of one set of labels of requests.
#[derive(Clone)]
pub struct Requests {
    /// How many.
    pub total: Counter,
    /// How long.
    pub duration: Histogram,
    /// How much was asked.
    pub sent: Histogram,
    /// How much was answered.
    pub received: Histogram,
    /// Messages of gRPC that were asked and answered.
    pub messages: Option<(Counter, Counter)>,
}

impl Requests {
    fn new(labels: &Labels) -> Self {
        let rendered = labels.render();
        let messages = (labels.protocol == "grpc").then(|| {
            (counter!(REQUEST_MESSAGES, rendered.clone()), counter!(RESPONSE_MESSAGES, rendered.clone()))
        });
        Self {
            total: counter!(REQUESTS, rendered.clone()),
            duration: histogram!(DURATION, rendered.clone()),
            sent: histogram!(REQUEST_BYTES, rendered.clone()),
            received: histogram!(RESPONSE_BYTES, rendered),
            messages,
        }
    }
}

/// The handles of one set of labels of connections.
#[derive(Clone)]
pub struct Connections {
    /// How many began.
    pub opened: Counter,
    /// How many ended.
    pub closed: Counter,
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
}

impl Connections {
    fn new(labels: &Labels) -> Self {
        let rendered = labels.render();
        Self {
            opened: counter!(OPENED, rendered.clone()),
            closed: counter!(CLOSED, rendered.clone()),
            received: counter!(RECEIVED, rendered.clone()),
            sent: counter!(SENT, rendered),
        }
    }
}

type Kept<T> = RwLock<HashMap<Labels, (T, Instant)>>;

/// Handles by labels.
#[derive(Default)]
pub struct Metrics {
    requests: Kept<Requests>,
    connections: Kept<Connections>,
    heard: Heard,
}

impl Metrics {
    /// Describes every metric to the recorder and counts this build.
    pub fn new(version: &'static str) -> Self {
        describe();
        gauge!("istio_build", "component" => "waypoint", "tag" => version).set(1.0);
        Self::default()
    }

    /// What a peer says of itself, as labels have it; see [`Heard::note`].
    pub fn hear(&self, told: &Baggage<'_>, now: Instant) -> Option<Arc<Hearsay>> {
        self.heard.note(told, now)
    }

    /// The handles of requests with these labels.
    pub fn requests(&self, labels: &Labels) -> Requests {
        kept(&self.requests, labels, Requests::new)
    }

    /// The handles of connections with these labels.
    pub fn connections(&self, labels: &Labels) -> Connections {
        kept(&self.connections, labels, Connections::new)
    }
}

fn kept<T: Clone>(kept: &Kept<T>, labels: &Labels, make: impl Fn(&Labels) -> T) -> T {
    let now = Instant::now();
    let is_fresh = |made: Instant| now.saturating_duration_since(made) < HANDLE_LIFE;
    if let Some((handles, made)) = kept.read().get(labels)
        && is_fresh(*made)
    {
        return handles.clone();
    }
    let handles = make(labels);
    let mut cache = kept.write();
    if cache.len() >= CACHED {
        cache.retain(|_labels, (_handles, made)| is_fresh(*made));
    }
    if cache.len() < CACHED {
        cache.insert(labels.clone(), (handles.clone(), now));
    }
    handles
}

fn describe() {
    describe_counter!(REQUESTS, "Requests");
    describe_histogram!(DURATION, "Time from a request to the end of its answer");
    describe_histogram!(REQUEST_BYTES, "Bytes of a request's body");
    describe_histogram!(RESPONSE_BYTES, "Bytes of an answer's body");
    describe_counter!(REQUEST_MESSAGES, "Messages of gRPC that clients sent");
    describe_counter!(RESPONSE_MESSAGES, "Messages of gRPC that servers sent");
    describe_counter!(OPENED, "Connections opened");
    describe_counter!(CLOSED, "Connections closed");
    describe_counter!(RECEIVED, "Bytes from clients");
    describe_counter!(SENT, "Bytes to clients");
    describe_counter!("istio_on_demand_dns_total", "Look-ups of workloads that have a name and no address");
    describe_counter!("istio_xds_connection_terminations_total", "Ends of the discovery stream");
    describe_counter!("istio_xds_message_total", "Discovery responses");
    describe_counter!("istio_xds_message_bytes_total", "Bytes of discovery responses");
    describe_counter!("ambit_retries_total", "Requests sent again to another endpoint");
    describe_counter!("ambit_attacks_total", "Connections ended because of what they do");
    describe_counter!("ambit_tunnels_refused_total", "Tunnels that were asked for in vain");
    describe_counter!(
        "ambit_endpoints_set_aside_total",
        "Endpoints set aside after failures, or at their own wish"
    );
    describe_counter!(
        "ambit_overflows_total",
        "Requests refused because too many are under way to their service"
    );
    describe_counter!("ambit_sessions_moved_total", "Sessions whose endpoint could not be used any more");
    describe_counter!("ambit_spans_sent_total", "Spans that a collector took");
    describe_counter!("ambit_spans_dropped_total", "Spans that no collector took");
    describe_counter!("ambit_upgraded_bytes_total", "Bytes carried after a switch of protocols");
}
