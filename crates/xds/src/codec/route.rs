// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Route`. All of it decides where requests go, so nothing of it may be unknown.

mod filter;

use std::{sync::Arc, time::Duration};

use arcstr::ArcStr;
use http::{HeaderName, Method, StatusCode};
use mesh::{
    Hostname, Route, RouteName, ServiceName,
    l7::{
        Pattern, RouteKind, TextMatch,
        route::{
            Backend, Carrier, HttpMatch, HttpRule, Parent, PathMatch, Persistence, Retry, Rules, Target,
            TcpRule, Timeouts, TlsRule,
        },
    },
};
use proto::waypoint as wire;
use wire::{http_match::Path, persistence::Carrier as WireCarrier, target, text_match::Text};

use super::field::{self, FieldError, In, Problem};

/// From the wire.
pub(super) fn decode(message: wire::Route) -> Result<Route, FieldError> {
    let kind = match field::known(message.kind).field("kind")? {
        wire::Kind::Unspecified => return Err(Problem::Missing).field("kind"),
        wire::Kind::Http => RouteKind::Http,
        wire::Kind::Grpc => RouteKind::Grpc,
        wire::Kind::Tls => RouteKind::Tls,
        wire::Kind::Tcp => RouteKind::Tcp,
    };
    let text = format!("{}/{}/{}", kind.as_str(), message.namespace, message.name);
    let name: RouteName = field::name(&text).field("name")?;
    Ok(Route {
        name,
        created: message.created,
        parents: message.parents.iter().map(parent).collect::<Result<_, _>>()?,
        rules: match kind {
            RouteKind::Http | RouteKind::Grpc => Rules::Http(rules(&message.http_rules, http_rule)?),
            RouteKind::Tls => Rules::Tls(rules(&message.tls_rules, tls_rule)?),
            RouteKind::Tcp => Rules::Tcp(rules(&message.tcp_rules, tcp_rule)?),
        },
    })
}

/// To the wire.
pub(super) fn encode(route: &Route) -> wire::Route {
    let kind = match route.name.kind {
        RouteKind::Http => wire::Kind::Http,
        RouteKind::Grpc => wire::Kind::Grpc,
        RouteKind::Tls => wire::Kind::Tls,
        RouteKind::Tcp => wire::Kind::Tcp,
    };
    let mut message = wire::Route {
        kind: kind.into(),
        namespace: route.name.namespace.to_string(),
        name: route.name.name.to_string(),
        created: route.created,
        parents: route.parents.iter().map(parent_message).collect(),
        ..wire::Route::default()
    };
    match &route.rules {
        Rules::Http(rules) => message.http_rules = rules.iter().map(|rule| http_rule_message(rule)).collect(),
        Rules::Tls(rules) => message.tls_rules = rules.iter().map(|rule| tls_rule_message(rule)).collect(),
        Rules::Tcp(rules) => message.tcp_rules = rules.iter().map(|rule| tcp_rule_message(rule)).collect(),
    }
    message
}

fn rules<M, R>(
    messages: &[M],
    rule: impl Fn(&M) -> Result<R, FieldError>,
) -> Result<Vec<Arc<R>>, FieldError> {
    messages.iter().map(|message| rule(message).map(Arc::new)).collect()
}

fn parent(message: &wire::Parent) -> Result<Parent, FieldError> {
    Ok(Parent {
        service: service(message.service.as_ref()).field("parents.service")?,
        port: field::port(message.port).field("parents.port")?,
        consumers: optional(&message.consumers),
    })
}

fn parent_message(parent: &Parent) -> wire::Parent {
    wire::Parent {
        service: Some(service_message(&parent.service)),
        port: parent.port.map_or(0, u32::from),
        consumers: text(parent.consumers.as_ref()),
    }
}

fn http_rule(message: &wire::HttpRule) -> Result<HttpRule, FieldError> {
    Ok(HttpRule {
        name: optional(&message.name),
        matches: message.matches.iter().map(http_match).collect::<Result<_, _>>()?,
        filters: filter::decode_all(&message.filters)?,
        backends: backends(&message.backends)?,
        timeouts: Timeouts {
            request: message.request_timeout.map(Duration::from_micros),
            attempt: message.attempt_timeout.map(Duration::from_micros),
        },
        retry: message.retry.as_ref().map(retry).transpose()?,
        persistence: message.persistence.as_ref().map(persistence).transpose()?,
    })
}

fn http_rule_message(rule: &HttpRule) -> wire::HttpRule {
    wire::HttpRule {
        name: text(rule.name.as_ref()),
        matches: rule.matches.iter().map(http_match_message).collect(),
        filters: rule.filters.iter().map(filter::encode).collect(),
        backends: rule.backends.iter().map(backend_message).collect(),
        request_timeout: rule.timeouts.request.map(micros),
        attempt_timeout: rule.timeouts.attempt.map(micros),
        retry: rule.retry.as_ref().map(|retry| wire::Retry {
            attempts: retry.attempts,
            backoff: retry.backoff.map(micros),
            codes: retry.codes.iter().map(|code| u32::from(code.as_u16())).collect(),
        }),
        persistence: rule.persistence.as_ref().map(persistence_message),
    }
}

fn tls_rule(message: &wire::TlsRule) -> Result<TlsRule, FieldError> {
    Ok(TlsRule {
        name: optional(&message.name),
        hostnames: message.hostnames.iter().map(ArcStr::from).collect(),
        backends: backends(&message.backends)?,
    })
}

fn tls_rule_message(rule: &TlsRule) -> wire::TlsRule {
    wire::TlsRule {
        name: text(rule.name.as_ref()),
        hostnames: rule.hostnames.iter().map(ToString::to_string).collect(),
        backends: rule.backends.iter().map(backend_message).collect(),
    }
}

fn tcp_rule(message: &wire::TcpRule) -> Result<TcpRule, FieldError> {
    Ok(TcpRule { name: optional(&message.name), backends: backends(&message.backends)? })
}

fn tcp_rule_message(rule: &TcpRule) -> wire::TcpRule {
    wire::TcpRule {
        name: text(rule.name.as_ref()),
        backends: rule.backends.iter().map(backend_message).collect(),
    }
}

fn http_match(message: &wire::HttpMatch) -> Result<HttpMatch, FieldError> {
    let path = match &message.path {
        None => PathMatch::Any,
        Some(Path::Exact(path)) => PathMatch::Exact(path.into()),
        Some(Path::Prefix(path)) => PathMatch::Prefix(path.into()),
        Some(Path::Pattern(text)) => PathMatch::Pattern(pattern(text).field("matches.path.pattern")?),
        Some(Path::Rpc(rpc)) => PathMatch::Rpc {
            service: rpc.service.as_ref().map(matching).transpose().field("matches.path.rpc.service")?,
            method: rpc.method.as_ref().map(matching).transpose().field("matches.path.rpc.method")?,
        },
    };
    let method = match message.method.as_str() {
        "" => None,
        name => Some(
            Method::from_bytes(name.as_bytes())
                .ok()
                .ok_or_else(|| wrong("method", name))
                .field("matches.method")?,
        ),
    };
    Ok(HttpMatch {
        path,
        method,
        headers: named(&message.headers, header_name).field("matches.headers")?,
        query: named(&message.query, |name| Ok(name.into())).field("matches.query")?,
    })
}

fn named<N>(
    messages: &[wire::NamedMatch],
    name: impl Fn(&str) -> Result<N, Problem>,
) -> Result<Vec<(N, TextMatch)>, Problem> {
    let one = |message: &wire::NamedMatch| {
        Ok((name(&message.name)?, matching(message.text.as_ref().ok_or(Problem::Missing)?)?))
    };
    messages.iter().map(one).collect()
}

fn http_match_message(matching: &HttpMatch) -> wire::HttpMatch {
    let path = match &matching.path {
        PathMatch::Any => None,
        PathMatch::Exact(path) => Some(Path::Exact(path.to_string())),
        PathMatch::Prefix(path) => Some(Path::Prefix(path.to_string())),
        PathMatch::Pattern(pattern) => Some(Path::Pattern(pattern.as_str().to_string())),
        PathMatch::Rpc { service, method } => Some(Path::Rpc(wire::RpcMatch {
            service: service.as_ref().map(matching_message),
            method: method.as_ref().map(matching_message),
        })),
    };
    let named = |name: &str, text: &TextMatch| wire::NamedMatch {
        name: name.to_owned(),
        text: Some(matching_message(text)),
    };
    wire::HttpMatch {
        path,
        method: matching.method.as_ref().map(ToString::to_string).unwrap_or_default(),
        headers: matching.headers.iter().map(|(name, text)| named(name.as_str(), text)).collect(),
        query: matching.query.iter().map(|(name, text)| named(name, text)).collect(),
    }
}

fn matching(message: &wire::TextMatch) -> Result<TextMatch, Problem> {
    Ok(match message.text.as_ref().ok_or(Problem::Missing)? {
        Text::Exact(text) => TextMatch::Exact(text.into()),
        Text::Pattern(text) => TextMatch::Pattern(pattern(text)?),
    })
}

fn matching_message(matching: &TextMatch) -> wire::TextMatch {
    let text = match matching {
        TextMatch::Exact(text) => Text::Exact(text.to_string()),
        TextMatch::Pattern(pattern) => Text::Pattern(pattern.as_str().to_string()),
    };
    wire::TextMatch { text: Some(text) }
}

fn pattern(text: &str) -> Result<Pattern, Problem> {
    Pattern::parse(text).map_err(Problem::Pattern)
}

fn backends(messages: &[wire::Backend]) -> Result<Vec<Backend>, FieldError> {
    let backend = |message: &wire::Backend| {
        Ok(Backend {
            target: target(message.target.as_ref()).field("backends.target")?,
            weight: message.weight,
            filters: filter::decode_all(&message.filters)?,
        })
    };
    messages.iter().map(backend).collect()
}

fn backend_message(backend: &Backend) -> wire::Backend {
    wire::Backend {
        target: Some(target_message(&backend.target)),
        weight: backend.weight,
        filters: backend.filters.iter().map(filter::encode).collect(),
    }
}

fn target(message: Option<&wire::Target>) -> Result<Target, Problem> {
    Ok(match message.and_then(|message| message.target.as_ref()).ok_or(Problem::Missing)? {
        target::Target::Refused(reason) => Target::Refused(reason.into()),
        target::Target::Service(port) => Target::Service {
            name: service(port.service.as_ref())?,
            port: field::port(port.port)?.ok_or(Problem::Port { port: 0 })?,
        },
    })
}

fn target_message(of: &Target) -> wire::Target {
    let target = match of {
        Target::Refused(reason) => target::Target::Refused(reason.to_string()),
        Target::Service { name, port } => target::Target::Service(target::Port {
            service: Some(service_message(name)),
            port: u32::from(*port),
        }),
    };
    wire::Target { target: Some(target) }
}

fn retry(message: &wire::Retry) -> Result<Retry, FieldError> {
    Ok(Retry {
        attempts: message.attempts,
        backoff: message.backoff.map(Duration::from_micros),
        codes: message
            .codes
            .iter()
            .map(|code| status(*code))
            .collect::<Result<_, _>>()
            .field("retry.codes")?,
    })
}

pub(super) fn persistence(message: &wire::Persistence) -> Result<Persistence, FieldError> {
    let carrier = match field::known(message.carrier).field("persistence.carrier")? {
        WireCarrier::Unspecified => return Err(Problem::Missing).field("persistence.carrier"),
        WireCarrier::Header => Carrier::Header,
        WireCarrier::SessionCookie => Carrier::SessionCookie,
        WireCarrier::PermanentCookie => Carrier::PermanentCookie,
    };
    let absolute = message.absolute.map(Duration::from_micros);
    Ok(Persistence { name: message.name.as_str().into(), carrier, absolute })
}

pub(super) fn persistence_message(persistence: &Persistence) -> wire::Persistence {
    let carrier = match persistence.carrier {
        Carrier::Header => WireCarrier::Header,
        Carrier::SessionCookie => WireCarrier::SessionCookie,
        Carrier::PermanentCookie => WireCarrier::PermanentCookie,
    };
    wire::Persistence {
        name: persistence.name.to_string(),
        carrier: carrier.into(),
        absolute: persistence.absolute.map(micros),
    }
}

pub(super) fn service(message: Option<&wire::ServiceRef>) -> Result<ServiceName, Problem> {
    let message = message.ok_or(Problem::Missing)?;
    let hostname = Hostname::parse(&message.hostname).map_err(Problem::Name)?;
    Ok(ServiceName { namespace: message.namespace.as_str().into(), hostname })
}

pub(super) fn service_message(name: &ServiceName) -> wire::ServiceRef {
    wire::ServiceRef { namespace: name.namespace.to_string(), hostname: name.hostname.to_string() }
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, Problem> {
    HeaderName::from_bytes(text.as_bytes()).ok().ok_or_else(|| wrong("header name", text))
}

fn status(code: u32) -> Result<StatusCode, Problem> {
    let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
    status.ok_or_else(|| wrong("status code", &code.to_string()))
}

fn wrong(what: &'static str, value: &str) -> Problem {
    Problem::Text { what, value: value.to_owned() }
}

/// Empty is none.
fn optional(text: &str) -> Option<ArcStr> {
    (!text.is_empty()).then(|| text.into())
}

fn text(optional: Option<&ArcStr>) -> String {
    optional.map(ToString::to_string).unwrap_or_default()
}

/// Longer than 584,000 years is for ever.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
