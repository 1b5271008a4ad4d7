// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Telemetry`. What of it is not known is refused with all of it: half of what is to be observed would be
//! taken for the whole.

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use http::HeaderName;
use mesh::{
    Hostname, ServiceName,
    telemetry::{Logging, Provider, Scope, Share, SpanWire, Tag, Telemetry, TelemetryName, Tracing},
};
use proto::waypoint as wire;
use wire::{provider::Wire, tag::Value, telemetry as inside};

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
        logging: Logging { enabled: message.logging.and_then(|logging| logging.enabled) },
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
        logging: telemetry.logging.enabled.map(|enabled| wire::Logging { enabled: Some(enabled) }),
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

fn wrong(what: &'static str, value: &str) -> Problem {
    Problem::Text { what, value: value.to_owned() }
}
