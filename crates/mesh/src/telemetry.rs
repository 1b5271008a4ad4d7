// SPDX-License-Identifier: Apache-2.0
//! What is to be observed of requests, as data: which of them are traced and where to, which are logged, which labels
//! metrics have. One value per object; [`View`] is what several of them come to for one service.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arcstr::ArcStr;
use http::HeaderName;

use crate::{
    expression::{Facts, Filter, Formula, Uses},
    name::{InvalidName, PolicyName, ServiceName},
};

/// Name of a Telemetry: `<namespace>/<name>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TelemetryName {
    /// Namespace.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

/// What one object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Telemetry {
    /// Its name.
    pub name: TelemetryName,
    /// Seconds since 1970: of two in one scope the older one counts.
    pub created: u64,
    /// What it is for.
    pub scope: Scope,
    /// Traces.
    pub tracing: Tracing,
    /// The access log.
    pub logging: Logging,
    /// Metrics.
    pub metrics: BTreeMap<Metric, Override>,
}

/// What a Telemetry is for; what is nearer goes before.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Everything.
    Mesh,
    /// Every waypoint of its namespace.
    Namespace,
    /// These waypoints of its namespace, by the names of their Gateways.
    Waypoints(Vec<ArcStr>),
    /// Requests to these services.
    Services(Vec<ServiceName>),
}

/// Of traces; what is not said is said by what is farther.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracing {
    /// Where spans go.
    pub provider: Option<Arc<Provider>>,
    /// Which share of requests is recorded, where no caller has decided that.
    pub share: Option<Share>,
    /// Whether spans are sent.
    pub report: Option<bool>,
    /// What spans say besides.
    pub tags: BTreeMap<ArcStr, Tag>,
}

/// Of the access log; who says something of it says all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Whether it is written.
    pub enabled: Option<bool>,
    /// Which requests and connections have a line, if not all.
    pub filter: Option<Filter>,
}

impl Logging {
    /// Whether a request or connection has a line.
    pub fn is_written(&self, facts: &dyn Facts) -> bool {
        self.enabled.unwrap_or(true) && self.filter.as_ref().is_none_or(|filter| filter.holds(facts))
    }
}

/// A metric of requests or connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Metric {
    /// `istio_requests_total`.
    Requests,
    /// `istio_request_duration_milliseconds`.
    Duration,
    /// `istio_request_bytes`.
    RequestBytes,
    /// `istio_response_bytes`.
    ResponseBytes,
    /// `istio_request_messages_total`.
    RequestMessages,
    /// `istio_response_messages_total`.
    ResponseMessages,
    /// `istio_tcp_connections_opened_total`.
    Opened,
    /// `istio_tcp_connections_closed_total`.
    Closed,
    /// `istio_tcp_sent_bytes_total`.
    Sent,
    /// `istio_tcp_received_bytes_total`.
    Received,
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Requests,
        Self::Duration,
        Self::RequestBytes,
        Self::ResponseBytes,
        Self::RequestMessages,
        Self::ResponseMessages,
        Self::Opened,
        Self::Closed,
        Self::Sent,
        Self::Received,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "istio_requests_total",
            Self::Duration => "istio_request_duration_milliseconds",
            Self::RequestBytes => "istio_request_bytes",
            Self::ResponseBytes => "istio_response_bytes",
            Self::RequestMessages => "istio_request_messages_total",
            Self::ResponseMessages => "istio_response_messages_total",
            Self::Opened => "istio_tcp_connections_opened_total",
            Self::Closed => "istio_tcp_connections_closed_total",
            Self::Sent => "istio_tcp_sent_bytes_total",
            Self::Received => "istio_tcp_received_bytes_total",
        }
    }
}

/// What is different about a metric; what is not said is said by what is farther, and else as it always is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// Whether it is not counted.
    pub disabled: Option<bool>,
    /// Its labels, by name.
    pub labels: BTreeMap<ArcStr, LabelRule>,
}

/// What is different about a label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelRule {
    /// There is none of the name.
    Removed,
    /// It says this.
    Says(Formula),
}

/// A part of all requests, in hundredths of a percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(u32);

impl Share {
    /// What all of them are.
    pub const WHOLE: u32 = 10_000;

    /// From hundredths of a percent; `None` above all.
    pub fn of_parts(parts: u32) -> Option<Self> {
        (parts <= Self::WHOLE).then_some(Self(parts))
    }

    /// From a percentage between 0 and 100.
    pub fn percent(percent: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is between 0 and 10,000"
        )]
        (0.0..=100.0).contains(&percent).then(|| Self((percent * 100.0).round() as u32))
    }

    /// In hundredths of a percent.
    pub fn parts(self) -> u32 {
        self.0
    }
}

/// Where spans are sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Provider {
    /// What it is called; empty for one that was not named.
    pub name: ArcStr,
    /// What it understands.
    pub wire: SpanWire,
    /// Its address or name.
    pub host: ArcStr,
    /// Its port.
    pub port: u16,
    /// Where under it, for what goes by HTTP.
    pub path: ArcStr,
}

/// How spans travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SpanWire {
    /// OTLP over gRPC.
    Otlp,
    /// Zipkin's JSON, version 2.
    Zipkin,
}

/// Something more that spans say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tag {
    /// This.
    Literal(ArcStr),
    /// A header of the request, or something else where it has none.
    Header {
        /// The header.
        name: HeaderName,
        /// What is said without it; nothing if that is empty.
        otherwise: ArcStr,
    },
}

/// What all that is said comes to for one service of one waypoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Traces.
    pub tracing: Tracing,
    /// The access log.
    pub logging: Logging,
    /// Metrics, without those about which nothing is different.
    pub metrics: BTreeMap<Metric, Override>,
    /// What expressions need of a request.
    pub uses: Uses,
}

impl View {
    /// Of values from the nearest to the farthest. Tags and labels of all are said; what is nearer counts where two have one
    /// name.
    pub fn new(nearest_first: &[&Telemetry]) -> Self {
        let mut view = Self::default();
        for Telemetry { tracing, logging, metrics, .. } in nearest_first {
            let merged = &mut view.tracing;
            merged.provider = merged.provider.take().or_else(|| tracing.provider.clone());
            merged.share = merged.share.or(tracing.share);
            merged.report = merged.report.or(tracing.report);
            for (name, tag) in &tracing.tags {
                merged.tags.entry(name.clone()).or_insert_with(|| tag.clone());
            }
            if view.logging == Logging::default() {
                view.logging = logging.clone();
            }
            for (metric, rule) in metrics {
                view.metrics.entry(*metric).or_default().add(rule);
            }
        }
        view.uses = view.needed();
        view
    }

    fn needed(&self) -> Uses {
        let rules = self.metrics.values().flat_map(|rule| rule.labels.values());
        let formulas = rules.filter_map(|rule| match rule {
            LabelRule::Says(formula) => Some(formula.uses()),
            LabelRule::Removed => None,
        });
        formulas.chain(self.logging.filter.as_ref().map(Filter::uses)).fold(Uses::default(), Uses::and)
    }
}

impl Override {
    /// What something farther says.
    fn add(&mut self, farther: &Self) {
        self.disabled = self.disabled.or(farther.disabled);
        for (name, rule) in &farther.labels {
            self.labels.entry(name.clone()).or_insert_with(|| rule.clone());
        }
    }
}

impl Telemetry {
    /// Whether it says something about requests to a service that pass this waypoint.
    pub fn counts_for(&self, namespace: &str, waypoint: &str, service: Option<&ServiceName>) -> bool {
        match &self.scope {
            Scope::Mesh => true,
            Scope::Namespace => self.name.namespace == namespace,
            Scope::Waypoints(names) => {
                self.name.namespace == namespace && names.iter().any(|name| name == waypoint)
            }
            Scope::Services(names) => service.is_some_and(|service| names.contains(service)),
        }
    }

    /// What goes before others is the smallest.
    pub fn rank(&self) -> impl Ord + '_ {
        let distance = match self.scope {
            Scope::Services(_) => 0,
            Scope::Waypoints(_) => 1,
            Scope::Namespace => 2,
            Scope::Mesh => 3,
        };
        (distance, self.created, &self.name)
    }
}

impl fmt::Display for TelemetryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl std::str::FromStr for TelemetryName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let PolicyName { namespace, name } = text.parse()?;
        Ok(Self { namespace, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn telemetry(name: &str, scope: Scope) -> Telemetry {
        let name = format!("shop/{name}").parse().unwrap();
        Telemetry {
            name,
            created: 0,
            scope,
            tracing: Tracing::default(),
            logging: Logging::default(),
            metrics: BTreeMap::new(),
        }
    }

    #[test]
    fn a_share_is_a_percentage_of_two_digits() {
        assert_eq!(Share::percent(0.01).map(Share::parts), Some(1));
        assert_eq!(Share::percent(100.0).map(Share::parts), Some(Share::WHOLE));
        for wrong in [-0.1, 100.1, f64::NAN] {
            assert_eq!(Share::percent(wrong), None);
        }
        assert_eq!(Share::of_parts(Share::WHOLE + 1), None);
    }

    #[test]
    fn what_is_nearer_counts_and_what_it_leaves_open_is_said_farther_away() {
        let mut mesh = telemetry("mesh", Scope::Mesh);
        mesh.tracing = Tracing {
            share: Share::percent(100.0),
            report: Some(true),
            tags: [("a", "far"), ("b", "far")]
                .map(|(name, value)| (name.into(), Tag::Literal(value.into())))
                .into(),
            ..Tracing::default()
        };
        mesh.logging.enabled = Some(false);
        let mut near = telemetry("near", Scope::Namespace);
        near.tracing.share = Share::percent(0.0);
        near.tracing.tags.insert("a".into(), Tag::Literal("near".into()));
        let mut all = [&mesh, &near];
        all.sort_by(|one, other| one.rank().cmp(&other.rank()));
        let view = View::new(&all);
        assert_eq!((view.tracing.share, view.tracing.report), (Share::percent(0.0), Some(true)));
        assert_eq!(view.tracing.tags["a"], Tag::Literal("near".into()));
        assert_eq!(view.tracing.tags["b"], Tag::Literal("far".into()));
        assert_eq!(view.logging.enabled, Some(false));
    }

    #[test]
    fn who_says_something_of_the_log_says_all_of_it() {
        let filter = |text: &str| Some(Filter::parse(text).unwrap());
        let mut mesh = telemetry("mesh", Scope::Mesh);
        mesh.logging = Logging { enabled: Some(true), filter: filter("response.headers.x == 'y'") };
        let mut near = telemetry("near", Scope::Namespace);
        assert_eq!(View::new(&[&near, &mesh]).logging, mesh.logging);
        assert!(View::new(&[&near, &mesh]).uses.response_headers);
        near.logging.enabled = Some(true);
        assert_eq!(View::new(&[&near, &mesh]).logging, near.logging);
        assert_eq!(View::new(&[&near, &mesh]).uses, Uses::default());
    }

    #[test]
    fn of_a_metric_the_nearest_counts_label_by_label() {
        let says = |text: &str| LabelRule::Says(Formula::parse(text).unwrap());
        let rule = |disabled, labels: &[(&str, LabelRule)]| Override {
            disabled,
            labels: labels.iter().map(|(name, rule)| ((*name).into(), rule.clone())).collect(),
        };
        let mut mesh = telemetry("mesh", Scope::Mesh);
        let far = rule(Some(true), &[("a", LabelRule::Removed), ("b", says("request.headers.x"))]);
        mesh.metrics = BTreeMap::from([(Metric::Requests, far.clone()), (Metric::Opened, far.clone())]);
        let mut near = telemetry("near", Scope::Namespace);
        near.metrics = BTreeMap::from([(Metric::Requests, rule(Some(false), &[("a", says("'b'"))]))]);
        let view = View::new(&[&near, &mesh]);
        let merged = rule(Some(false), &[("a", says("'b'")), ("b", says("request.headers.x"))]);
        assert_eq!(view.metrics, BTreeMap::from([(Metric::Requests, merged), (Metric::Opened, far)]));
        assert!(view.uses.request_headers && !view.uses.response_headers);
    }

    #[test]
    fn each_scope_has_its_own_requests() {
        let web: ServiceName = "shop/web.shop.svc.cluster.local".parse().unwrap();
        let other: ServiceName = "shop/other.shop.svc.cluster.local".parse().unwrap();
        for (scope, here, elsewhere) in [
            (Scope::Mesh, true, true),
            (Scope::Namespace, true, false),
            (Scope::Waypoints(vec!["gate".into()]), true, false),
            (Scope::Waypoints(vec!["door".into()]), false, false),
            (Scope::Services(vec![web.clone()]), true, true),
            (Scope::Services(vec![other]), false, false),
        ] {
            let telemetry = telemetry("a", scope);
            let counts = |namespace| telemetry.counts_for(namespace, "gate", Some(&web));
            assert_eq!((counts("shop"), counts("bank")), (here, elsewhere), "{telemetry:?}");
        }
    }
}
