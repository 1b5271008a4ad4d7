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

use mesh::Service;
use metrics::{Counter, Gauge, Label, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use parking_lot::RwLock;
use plan::{ResponseFlag, baggage::Baggage};

use proxy::ends::{self, address};
pub use proxy::ends::{End, IDLE};

use crate::hearsay::{Heard, Hearsay};

const HANDLE_LIFE: Duration = Duration::from_secs(300);
/// Sets of labels whose handles are kept.
const CACHED: usize = 16_384;

const OPEN: &str = "istio_tcp_sockets_open";
const OPENED: &str = "istio_tcp_connections_opened_total";
const CLOSED: &str = "istio_tcp_connections_closed_total";
const FAILED: &str = "istio_tcp_connections_failed_total";
const RECEIVED: &str = "istio_tcp_received_bytes_total";
const SENT: &str = "istio_tcp_sent_bytes_total";
const CUT_OFF: &str = "ambit_drain_closed_connections_total";

/// Which end of a connection this proxy serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's.
    Source,
    /// The server's.
    Destination,
}

impl Reporter {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// What tells one connection's series from another's.
#[derive(Clone, Debug)]
pub struct Labels {
    /// Who counts.
    pub reporter: Reporter,
    /// The client.
    pub source: End,
    /// The server.
    pub destination: End,
    /// The service that was asked for.
    pub service: Option<Arc<Service>>,
    /// How it ended.
    pub flag: ResponseFlag,
    /// Whether both ends are certain.
    pub mutual_tls: bool,
}

impl Labels {
    fn service_key(&self) -> usize {
        address(self.service.as_ref())
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Self) -> bool {
        self.reporter == other.reporter
            && self.source == other.source
            && self.destination == other.destination
            && self.service_key() == other.service_key()
            && self.flag == other.flag
            && self.mutual_tls == other.mutual_tls
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.reporter.hash(state);
        self.source.hash(state);
        self.destination.hash(state);
        self.service_key().hash(state);
        self.flag.as_str().hash(state);
        self.mutual_tls.hash(state);
    }
}

/// What is counted of one set of labels.
#[derive(Debug)]
pub struct Series {
    /// Connections opened.
    pub opened: Counter,
    /// Connections closed.
    pub closed: Counter,
    /// Connections that never carried anything.
    pub failed: Counter,
    /// Connections open now, whoever their ends are.
    pub open: Gauge,
    received: Counter,
    sent: Counter,
}

impl Series {
    fn new(labels: &Labels) -> Self {
        let open = gauge!(OPEN, "reporter" => labels.reporter.as_str());
        let labels = render(labels);
        Self {
            open,
            opened: counter!(OPENED, labels.clone()),
            closed: counter!(CLOSED, labels.clone()),
            failed: counter!(FAILED, labels.clone()),
            received: counter!(RECEIVED, labels.clone()),
            sent: counter!(SENT, labels),
        }
    }

    /// Adds bytes. `sent` is what the client sent. Envoy counts from the upstream's side, and dashboards with it: what
    /// the client sent is "received".
    pub fn bytes(&self, sent: u64, received: u64) {
        self.received.increment(sent);
        self.sent.increment(received);
    }
}

/// Handles by labels.
#[derive(Debug, Default)]
pub struct Metrics {
    series: RwLock<HashMap<Labels, (Arc<Series>, Instant)>>,
    heard: Heard,
}

impl Metrics {
    /// Describes every metric to the recorder and counts this build.
    pub fn new(version: &'static str) -> Self {
        describe();
        gauge!("istio_build", "component" => "ztunnel", "tag" => version).set(1.0);
        Self::default()
    }

    /// What a peer says of itself, as labels have it; see [`Heard::note`].
    pub fn hear(&self, told: &Baggage<'_>, now: Instant) -> Option<Arc<Hearsay>> {
        self.heard.note(told, now)
    }

    /// The counters of these labels.
    pub fn series(&self, labels: &Labels, now: Instant) -> Arc<Series> {
        if let Some((series, made)) = self.series.read().get(labels)
            && now.saturating_duration_since(*made) < HANDLE_LIFE
        {
            return Arc::clone(series);
        }
        let series = Arc::new(Series::new(labels));
        let mut cache = self.series.write();
        if cache.len() >= CACHED {
            cache.retain(|_labels, (_series, made)| now.saturating_duration_since(*made) < HANDLE_LIFE);
        }
        if cache.len() < CACHED {
            cache.insert(labels.clone(), (Arc::clone(&series), now));
        }
        series
    }
}

/// Connections that a drain's deadline has closed. Both ends of one that stays on the node count.
pub fn cut_off(connections: usize) {
    counter!(CUT_OFF).increment(u64::try_from(connections).unwrap_or(u64::MAX));
}

fn describe() {
    describe_counter!(OPENED, "Connections opened");
    describe_counter!(CLOSED, "Connections closed");
    describe_counter!(FAILED, "Connections that failed before they carried anything");
    describe_counter!(RECEIVED, "Bytes of requests");
    describe_counter!(SENT, "Bytes of responses");
    describe_counter!("istio_dns_requests_total", "DNS requests of applications");
    describe_counter!("istio_dns_upstream_requests_total", "DNS requests passed on");
    describe_counter!("istio_dns_upstream_failures_total", "DNS requests passed on in vain");
    describe_histogram!(
        "istio_dns_upstream_request_duration_seconds",
        "Time that DNS servers took to answer"
    );
    describe_counter!("istio_on_demand_dns_total", "Look-ups of workloads that have a name and no address");
    describe_gauge!("istio_active_proxy_count", "Pods served");
    describe_gauge!("istio_pending_proxy_count", "Pods that could not be served yet");
    describe_counter!("istio_proxies_started_total", "Pods taken over");
    describe_counter!("istio_proxies_stopped_total", "Pods given up");
    describe_gauge!(OPEN, "Connections open now");
    describe_counter!("istio_xds_connection_terminations_total", "Ends of the discovery stream");
    describe_counter!("istio_xds_message_total", "Discovery responses");
    describe_counter!("istio_xds_message_bytes_total", "Bytes of discovery responses");
    describe_gauge!("istio_build", "This build");
    describe_gauge!("ambit_certificate_expiry_seconds", "Seconds until the first certificate in use expires");
    describe_counter!(
        "ambit_dry_run_total",
        "What policies under trial would have done to connections let in"
    );
    describe_counter!("ambit_retries_total", "Connections tried again at another endpoint");
    describe_counter!(
        CUT_OFF,
        "Connections that were closed because they had not ended at the deadline of a drain"
    );
    describe_gauge!(
        "ambit_restarts",
        "Times that this process was killed and started again since its container began"
    );
}

fn render(labels: &Labels) -> Vec<Label> {
    let mut out = Vec::with_capacity(32);
    out.push(Label::from_static_parts("reporter", labels.reporter.as_str()));
    ends::source(&mut out, &labels.source);
    ends::service(&mut out, labels.service.as_deref());
    ends::destination(&mut out, &labels.destination);
    out.push(Label::from_static_parts("request_protocol", "tcp"));
    out.push(Label::from_static_parts("response_flags", labels.flag.as_str()));
    let policy = if labels.mutual_tls { "mutual_tls" } else { "unknown" };
    out.push(Label::from_static_parts("connection_security_policy", policy));
    out
}
