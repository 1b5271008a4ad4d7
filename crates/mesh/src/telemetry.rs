// SPDX-License-Identifier: Apache-2.0
//! What is to be observed of requests, as data: which of them are traced and where to, which are logged, which labels
//! metrics have. One value per object; [`View`] is what several of them come to for one service.

use std::{collections::BTreeMap, fmt, sync::Arc};

use arcstr::ArcStr;
use http::HeaderName;

use crate::name::{InvalidName, PolicyName, ServiceName};

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

/// Of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// Whether it is written.
    pub enabled: Option<bool>,
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
}

impl View {
    /// Of values from the nearest to the farthest. Tags of all are said; what is nearer counts where two have one name.
    pub fn new(nearest_first: &[&Telemetry]) -> Self {
        let mut view = Self::default();
        for Telemetry { tracing, logging, .. } in nearest_first {
            let merged = &mut view.tracing;
            merged.provider = merged.provider.take().or_else(|| tracing.provider.clone());
            merged.share = merged.share.or(tracing.share);
            merged.report = merged.report.or(tracing.report);
            for (name, tag) in &tracing.tags {
                merged.tags.entry(name.clone()).or_insert_with(|| tag.clone());
            }
            view.logging.enabled = view.logging.enabled.or(logging.enabled);
        }
        view
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
        Telemetry { name, created: 0, scope, tracing: Tracing::default(), logging: Logging::default() }
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
