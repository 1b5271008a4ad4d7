// SPDX-License-Identifier: Apache-2.0
//! Every metric of this process, under the names that Istio's dashboards use.
//!
//! Labels come from workloads, services and enums, and from expressions of users, whose values are bounded. A series that nobody counts for [`IDLE`] leaves the scrape, so
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
use mesh::{Service, telemetry::Metric};
use metrics::{Counter, Histogram, Label, counter, describe_counter, describe_histogram, gauge, histogram};
use parking_lot::RwLock;
use plan::baggage::Baggage;

use crate::labels::{Bounds, Made};

const HANDLE_LIFE: Duration = Duration::from_secs(300);
const _: () = assert!(HANDLE_LIFE.as_secs() < IDLE.as_secs());
/// Sets of labels whose handles are kept.
const CACHED: usize = 16_384;

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
    let histograms = [Metric::Duration, Metric::RequestBytes, Metric::ResponseBytes];
    histograms.map(|metric| (metric.as_str(), times.to_vec())).to_vec()
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
    /// What Telemetry objects change.
    pub made: Option<Arc<Made>>,
}

impl Labels {
    fn ends(&self) -> (&End, &End, usize, Option<&Made>) {
        (&self.source, &self.destination, address(self.service.as_ref()), self.made.as_deref())
    }

    fn outcome(&self) -> (&'static str, Option<u16>, Option<&str>, &'static str) {
        (self.protocol, self.status, self.grpc.as_deref(), self.flag)
    }

    fn counter(&self, metric: Metric) -> Counter {
        self.render(metric).map_or_else(Counter::noop, |labels| counter!(metric.as_str(), labels))
    }

    fn histogram(&self, metric: Metric) -> Histogram {
        self.render(metric).map_or_else(Histogram::noop, |labels| histogram!(metric.as_str(), labels))
    }

    /// The labels of a metric; none where it is not counted.
    fn render(&self, metric: Metric) -> Option<Vec<Label>> {
        let Some(made) = self.made.as_deref() else { return Some(self.usual()) };
        made.counts(metric).then(|| {
            let mut labels = self.usual();
            made.apply(metric, &mut labels);
            labels
        })
    }

    /// What they are as long as nobody changes them.
    fn usual(&self) -> Vec<Label> {
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
        self.ends() == other.ends() && self.outcome() == other.outcome()
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.ends().hash(state);
        self.outcome().hash(state);
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
        let is_grpc = labels.protocol == "grpc";
        Self {
            total: labels.counter(Metric::Requests),
            duration: labels.histogram(Metric::Duration),
            sent: labels.histogram(Metric::RequestBytes),
            received: labels.histogram(Metric::ResponseBytes),
            messages: is_grpc
                .then(|| (labels.counter(Metric::RequestMessages), labels.counter(Metric::ResponseMessages))),
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
        Self {
            opened: labels.counter(Metric::Opened),
            closed: labels.counter(Metric::Closed),
            received: labels.counter(Metric::Received),
            sent: labels.counter(Metric::Sent),
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
    /// What labels may say that Telemetry objects ask for.
    pub bounds: Bounds,
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
    describe_counter!(Metric::Requests.as_str(), "Requests");
    describe_histogram!(Metric::Duration.as_str(), "Time from a request to the end of its answer");
    describe_histogram!(Metric::RequestBytes.as_str(), "Bytes of a request's body");
    describe_histogram!(Metric::ResponseBytes.as_str(), "Bytes of an answer's body");
    describe_counter!(Metric::RequestMessages.as_str(), "Messages of gRPC that clients sent");
    describe_counter!(Metric::ResponseMessages.as_str(), "Messages of gRPC that servers sent");
    describe_counter!(Metric::Opened.as_str(), "Connections opened");
    describe_counter!(Metric::Closed.as_str(), "Connections closed");
    describe_counter!(Metric::Received.as_str(), "Bytes from clients");
    describe_counter!(Metric::Sent.as_str(), "Bytes to clients");
    describe_counter!("istio_on_demand_dns_total", "Look-ups of workloads that have a name and no address");
    describe_counter!("istio_xds_connection_terminations_total", "Ends of the discovery stream");
    describe_counter!("istio_xds_message_total", "Discovery responses");
    describe_counter!("istio_xds_message_bytes_total", "Bytes of discovery responses");
    describe_counter!(
        "ambit_labels_overflowed_total",
        "Counted under other labels, as those that Telemetries ask for have too many values"
    );
    describe_counter!("ambit_retries_total", "Requests sent again to another endpoint");
    describe_counter!("ambit_attacks_total", "Connections ended, and heads refused, because of what they do");
    describe_counter!("ambit_jwt_tokens_total", "Tokens that were looked at");
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use http::{Request, Response};
    use http_body_util::Full;
    use mesh::{
        Change, Telemetry,
        expression::Formula,
        service::AppProtocol,
        telemetry::{LabelRule, Logging, Override, Scope, Tracing},
    };

    use super::*;
    use crate::testing::{Bench, SOON, Wire, answer};

    fn telemetry() -> Telemetry {
        let labels = [
            ("who", LabelRule::Says(Formula::parse("request.headers['x-user']").unwrap())),
            ("server", LabelRule::Says(Formula::parse("response.headers.server").unwrap())),
            ("source_app", LabelRule::Removed),
        ];
        let labels = labels.map(|(name, rule)| (name.into(), rule)).into();
        let off = Override { disabled: Some(true), ..Override::default() };
        let metrics = [(Metric::Requests, Override { disabled: None, labels }), (Metric::RequestBytes, off)];
        Telemetry {
            name: "shop/all".parse().unwrap(),
            created: 0,
            scope: Scope::Namespace,
            tracing: Tracing::default(),
            logging: Logging::default(),
            metrics: BTreeMap::from(metrics),
        }
    }

    #[tokio::test]
    async fn what_a_telemetry_asks_for_tells_series_apart() {
        let mut bench = Bench::new(AppProtocol::Http11, &[]);
        let named =
            answer(|_request| Response::builder().header("server", "one").body(Full::default()).unwrap());
        bench.server("one", AppProtocol::Http11, Wire::Http1, named).await;
        bench.writer.apply([Change::Telemetry(telemetry())]);
        bench.shard.waypoint.observed.forget();
        for user in ["alice", "bob", "alice"] {
            let request = Request::get("/").header("host", "web").header("x-user", user);
            bench.ask(request.body(Full::default()).unwrap()).await;
        }
        let metrics = &bench.shard.waypoint.metrics;
        let series = async {
            while metrics.requests.read().len() < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, series).await.unwrap();
        let kept = metrics.requests.read();
        let said = |labels: &[Label], name: &str| {
            labels.iter().find(|label| label.key() == name).map(|label| label.value().to_owned())
        };
        let mut users = Vec::new();
        for labels in kept.keys() {
            assert_eq!(labels.render(Metric::RequestBytes), None);
            let usual = labels.render(Metric::Duration).unwrap();
            assert!(said(&usual, "who").is_none() && said(&usual, "source_app").is_some());
            let changed = labels.render(Metric::Requests).unwrap();
            assert_eq!(
                (said(&changed, "server").as_deref(), said(&changed, "source_app")),
                (Some("one"), None)
            );
            users.extend(said(&changed, "who"));
        }
        users.sort();
        assert_eq!(users, ["alice", "bob"]);
    }
}
