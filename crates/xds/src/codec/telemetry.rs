// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Telemetry`. What of it is not known is refused with all of it: half of what is to be observed would be
//! taken for the whole.

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use http::HeaderName;
use mesh::{
    Hostname, ServiceName,
    expression::{Filter, Formula},
    telemetry::{
        LabelRule, Logging, Metric, Override, Provider, Scope, Share, SpanWire, Tag, Telemetry,
        TelemetryName, Tracing,
    },
};
use proto::waypoint as wire;
use wire::{label_rule::Rule, provider::Wire, tag::Value, telemetry as inside};

use super::field::{self, FieldError, In, Problem};

/// From the wire.
pub(super) fn decode(message: wire::Telemetry) -> Result<Telemetry, FieldError> {
    let text = format!("{}/{}", message.namespace, message.name);
    let name: TelemetryName = field::name(&text).field("name")?;
    Ok(Telemetry {
        name,
        created: message.created,
        scope: scope(message.scope)?,
        tracing: message.tracing.map(tracing).transpose()?.unwrap_or_default(),
        logging: message.logging.map(logging).transpose()?.unwrap_or_default(),
        metrics: message.metrics.into_iter().map(metric_rule).collect::<Result<_, _>>().field("metrics")?,
    })
}

/// To the wire.
pub(super) fn encode(telemetry: &Telemetry) -> wire::Telemetry {
    let everywhere = inside::Everywhere::default;
    let names = |names: &[ArcStr]| names.iter().map(ToString::to_string).collect();
    wire::Telemetry {
        namespace: telemetry.name.namespace.to_string(),
        name: telemetry.name.name.to_string(),
        created: telemetry.created,
        scope: Some(match &telemetry.scope {
            Scope::Mesh => inside::Scope::Mesh(everywhere()),
            Scope::Namespace => inside::Scope::WholeNamespace(everywhere()),
            Scope::Waypoints(all) => inside::Scope::Waypoints(inside::Waypoints { names: names(all) }),
            Scope::Services(all) => inside::Scope::Services(inside::Services {
                services: all.iter().map(service_message).collect(),
            }),
        }),
        tracing: (telemetry.tracing != Tracing::default()).then(|| tracing_message(&telemetry.tracing)),
        logging: (telemetry.logging != Logging::default()).then(|| logging_message(&telemetry.logging)),
        metrics: telemetry.metrics.iter().map(|(metric, rule)| metric_message(*metric, rule)).collect(),
    }
}

fn scope(message: Option<inside::Scope>) -> Result<Scope, FieldError> {
    Ok(match message.ok_or(Problem::Missing).field("scope")? {
        inside::Scope::Mesh(_) => Scope::Mesh,
        inside::Scope::WholeNamespace(_) => Scope::Namespace,
        inside::Scope::Waypoints(all) => {
            Scope::Waypoints(all.names.iter().map(|name| name.as_str().into()).collect())
        }
        inside::Scope::Services(all) => {
            Scope::Services(all.services.iter().map(service).collect::<Result<_, _>>().field("services")?)
        }
    })
}

fn service(message: &wire::ServiceRef) -> Result<ServiceName, Problem> {
    let hostname = Hostname::parse(&message.hostname).map_err(Problem::Name)?;
    Ok(ServiceName { namespace: message.namespace.as_str().into(), hostname })
}

fn service_message(name: &ServiceName) -> wire::ServiceRef {
    wire::ServiceRef { namespace: name.namespace.to_string(), hostname: name.hostname.to_string() }
}

fn tracing(message: wire::Tracing) -> Result<Tracing, FieldError> {
    let share = message.share.map(|parts| {
        Share::of_parts(parts).ok_or_else(|| wrong("share", &parts.to_string())).field("tracing.share")
    });
    let mut tags = BTreeMap::new();
    for tag in message.tags {
        tags.insert(tag.name.as_str().into(), value(tag.value).field("tracing.tags")?);
    }
    Ok(Tracing {
        provider: message.provider.map(provider).transpose().field("tracing.provider")?.map(Arc::new),
        share: share.transpose()?,
        report: message.report,
        tags,
    })
}

fn tracing_message(tracing: &Tracing) -> wire::Tracing {
    let tag = |(name, tag): (&ArcStr, &Tag)| wire::Tag {
        name: name.to_string(),
        value: Some(match tag {
            Tag::Literal(text) => Value::Literal(text.to_string()),
            Tag::Header { name, otherwise } => {
                Value::Header(wire::HeaderTag { name: name.to_string(), otherwise: otherwise.to_string() })
            }
        }),
    };
    wire::Tracing {
        provider: tracing.provider.as_deref().map(|provider| wire::Provider {
            name: provider.name.to_string(),
            wire: match provider.wire {
                SpanWire::Otlp => Wire::Otlp,
                SpanWire::Zipkin => Wire::Zipkin,
            }
            .into(),
            host: provider.host.to_string(),
            port: provider.port.into(),
            path: provider.path.to_string(),
        }),
        share: tracing.share.map(Share::parts),
        report: tracing.report,
        tags: tracing.tags.iter().map(tag).collect(),
    }
}

fn provider(message: wire::Provider) -> Result<Provider, Problem> {
    let port = u16::try_from(message.port).ok().filter(|port| *port != 0);
    Ok(Provider {
        wire: match field::known(message.wire)? {
            Wire::Unspecified => return Err(Problem::Missing),
            Wire::Otlp => SpanWire::Otlp,
            Wire::Zipkin => SpanWire::Zipkin,
        },
        name: message.name.into(),
        host: message.host.into(),
        port: port.ok_or(Problem::Port { port: message.port })?,
        path: message.path.into(),
    })
}

fn value(message: Option<Value>) -> Result<Tag, Problem> {
    Ok(match message.ok_or(Problem::Missing)? {
        Value::Literal(text) => Tag::Literal(text.into()),
        Value::Header(header) => Tag::Header {
            name: HeaderName::from_bytes(header.name.as_bytes())
                .map_err(|_invalid| wrong("header name", &header.name))?,
            otherwise: header.otherwise.into(),
        },
    })
}

fn logging(message: wire::Logging) -> Result<Logging, FieldError> {
    let filter = message.filter.map(|text| Filter::parse(&text).map_err(Problem::Expression));
    Ok(Logging { enabled: message.enabled, filter: filter.transpose().field("logging.filter")? })
}

fn logging_message(logging: &Logging) -> wire::Logging {
    let filter = logging.filter.as_ref().map(|filter| filter.as_str().to_string());
    wire::Logging { enabled: logging.enabled, filter }
}

fn metric_rule(message: wire::MetricRule) -> Result<(Metric, Override), Problem> {
    let metric = metric(field::known(message.metric)?)?;
    let mut labels = BTreeMap::new();
    for label in message.labels {
        let rule = match label.rule.ok_or(Problem::Missing)? {
            Rule::Removed(_) => LabelRule::Removed,
            Rule::Says(text) => LabelRule::Says(Formula::parse(&text).map_err(Problem::Expression)?),
        };
        labels.insert(label.name.into(), rule);
    }
    Ok((metric, Override { disabled: message.disabled, labels }))
}

fn metric_message(metric: Metric, rule: &Override) -> wire::MetricRule {
    let label = |(name, rule): (&ArcStr, &LabelRule)| wire::LabelRule {
        name: name.to_string(),
        rule: Some(match rule {
            LabelRule::Removed => Rule::Removed(wire::label_rule::Removed {}),
            LabelRule::Says(formula) => Rule::Says(formula.as_str().to_string()),
        }),
    };
    wire::MetricRule {
        metric: metric_number(metric).into(),
        disabled: rule.disabled,
        labels: rule.labels.iter().map(label).collect(),
    }
}

fn metric(number: wire::Metric) -> Result<Metric, Problem> {
    Ok(match number {
        wire::Metric::Unspecified => return Err(Problem::Missing),
        wire::Metric::Requests => Metric::Requests,
        wire::Metric::Duration => Metric::Duration,
        wire::Metric::RequestBytes => Metric::RequestBytes,
        wire::Metric::ResponseBytes => Metric::ResponseBytes,
        wire::Metric::RequestMessages => Metric::RequestMessages,
        wire::Metric::ResponseMessages => Metric::ResponseMessages,
        wire::Metric::ConnectionsOpened => Metric::Opened,
        wire::Metric::ConnectionsClosed => Metric::Closed,
        wire::Metric::SentBytes => Metric::Sent,
        wire::Metric::ReceivedBytes => Metric::Received,
    })
}

fn metric_number(metric: Metric) -> wire::Metric {
    match metric {
        Metric::Requests => wire::Metric::Requests,
        Metric::Duration => wire::Metric::Duration,
        Metric::RequestBytes => wire::Metric::RequestBytes,
        Metric::ResponseBytes => wire::Metric::ResponseBytes,
        Metric::RequestMessages => wire::Metric::RequestMessages,
        Metric::ResponseMessages => wire::Metric::ResponseMessages,
        Metric::Opened => wire::Metric::ConnectionsOpened,
        Metric::Closed => wire::Metric::ConnectionsClosed,
        Metric::Sent => wire::Metric::SentBytes,
        Metric::Received => wire::Metric::ReceivedBytes,
    }
}

fn wrong(what: &'static str, value: &str) -> Problem {
    Problem::Text { what, value: value.to_owned() }
}
