// SPDX-License-Identifier: Apache-2.0
//! What a waypoint knows besides workloads, services and connections' policies: routes, guards, authentications, traffic and
//! telemetries, in JSON. Dumps are handed around, so what may be a secret is not in them: the values of headers and
//! parameters but for harmless ones, and keys.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use mesh::{
    Authentication, Guard, Index, Route, Telemetry, Traffic,
    l7::{
        TextMatch,
        authentication::{JwtRule, Keys, Location},
        guard::{Attachment, Attribute, Condition, Test},
        route::{
            Backend, Filter, HeaderEdits, HttpMatch, HttpRule, PathEdit, PathMatch, Persistence, Rules,
            Target,
        },
        tls::{Roots, ServerTls},
    },
    policy::StringMatch,
    telemetry::{LabelRule, Override, Scope, Tag},
    workload::GatewayDestination,
};
use proxy::dump;
use serde_json::{Map, Value, json};

use crate::tap::HARMLESS;

const REDACTED: &str = "[redacted]";

/// All that discovery has told; one read of the Index.
pub fn index(index: &Index) -> Map<String, Value> {
    let mut out = dump::index(index);
    let kinds = [
        ("routes", sorted(index.routes(), |found| found.name.clone(), route)),
        ("guards", sorted(index.guards(), |found| found.name.clone(), guard)),
        ("authentications", sorted(index.authentications(), |found| found.name.clone(), authentication)),
        ("traffics", sorted(index.traffics(), |found| found.service.clone(), traffic)),
        ("telemetries", sorted(index.telemetries(), |found| found.name.clone(), telemetry)),
    ];
    out.extend(kinds.map(|(kind, all)| (kind.to_owned(), all)));
    out
}

fn sorted<'a, T: 'a, K: Ord>(
    all: impl Iterator<Item = &'a Arc<T>>,
    name: impl Fn(&T) -> K,
    shown: impl Fn(&T) -> Value,
) -> Value {
    let mut all: Vec<_> = all.collect();
    all.sort_by_cached_key(|found| name(found));
    all.into_iter().map(|found| shown(found)).collect()
}

/// Without fields that say nothing.
fn lean(mut value: Value) -> Value {
    if let Value::Object(fields) = &mut value {
        fields.retain(|_name, value| match value {
            Value::Null => false,
            Value::Array(all) => !all.is_empty(),
            Value::Object(all) => !all.is_empty(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
        });
    }
    value
}

fn each<T>(all: &[T], shown: impl Fn(&T) -> Value) -> Value {
    all.iter().map(shown).collect()
}

fn texts<T: AsRef<str>>(all: &[T]) -> Value {
    each(all, |text| json!(text.as_ref()))
}

fn route(route: &Route) -> Value {
    let parent = |parent: &mesh::l7::route::Parent| {
        let consumers = parent.consumers.as_deref();
        lean(json!({ "service": parent.service.to_string(), "port": parent.port, "consumers": consumers }))
    };
    let named = |name: Option<&str>, backends: &[Backend], hostnames: Value| {
        lean(json!({ "name": name, "hostnames": hostnames, "backends": each(backends, backend) }))
    };
    let rules: Value = match &route.rules {
        Rules::Http(rules) => rules.iter().map(|rule| http(rule)).collect(),
        Rules::Tls(rules) => rules
            .iter()
            .map(|rule| named(rule.name.as_deref(), &rule.backends, texts(&rule.hostnames)))
            .collect(),
        Rules::Tcp(rules) => {
            rules.iter().map(|rule| named(rule.name.as_deref(), &rule.backends, Value::Null)).collect()
        }
    };
    json!({
        "kind": route.name.kind.as_str(),
        "namespace": route.name.namespace.as_str(),
        "name": route.name.name.as_str(),
        "created": route.created,
        "parents": each(&route.parents, parent),
        "rules": rules,
    })
}

fn http(rule: &HttpRule) -> Value {
    let retry = rule.retry.as_ref().map(|retry| {
        let codes: Vec<_> = retry.codes.iter().map(|code| code.as_u16()).collect();
        let backoff = retry.backoff.map(|time| format!("{time:?}"));
        lean(json!({ "attempts": retry.attempts, "backoff": backoff, "codes": codes }))
    });
    let timeouts = lean(json!({
        "request": rule.timeouts.request.map(|time| format!("{time:?}")),
        "backendRequest": rule.timeouts.attempt.map(|time| format!("{time:?}")),
    }));
    let mut shown = lean(json!({
        "name": rule.name.as_deref(),
        "filters": each(&rule.filters, filter),
        "backends": each(&rule.backends, backend),
        "timeouts": timeouts,
        "retry": retry,
        "sessionPersistence": rule.persistence.as_ref().map(persistence),
    }));
    if let Value::Object(fields) = &mut shown {
        // Said even of none, which matches nothing.
        fields.insert("matches".into(), each(&rule.matches, matching));
    }
    shown
}

fn matching(matching: &HttpMatch) -> Value {
    let text = |wanted: &TextMatch, shown: bool| match wanted {
        TextMatch::Exact(text) => json!({ "Exact": if shown { text.as_str() } else { REDACTED } }),
        TextMatch::Pattern(pattern) => {
            json!({ "RegularExpression": if shown { pattern.as_str() } else { REDACTED } })
        }
    };
    let path = match &matching.path {
        PathMatch::Any => Value::Null,
        PathMatch::Exact(path) => json!({ "Exact": path.as_str() }),
        PathMatch::Prefix(path) => json!({ "PathPrefix": path.as_str() }),
        PathMatch::Pattern(pattern) => json!({ "RegularExpression": pattern.as_str().as_str() }),
        PathMatch::Rpc { service, method } => {
            let part = |wanted: &Option<TextMatch>| wanted.as_ref().map(|wanted| text(wanted, true));
            json!({ "Rpc": { "service": part(service), "method": part(method) } })
        }
    };
    let header = |(name, wanted): &(HeaderName, TextMatch)| json!({ "name": name.as_str(), "value": text(wanted, HARMLESS.contains(name)) });
    lean(json!({
        "path": path,
        "method": matching.method.as_ref().map(http::Method::as_str),
        "headers": each(&matching.headers, header),
        "query": each(&matching.query, |(name, wanted)| json!({ "name": name.as_str(), "value": text(wanted, false) })),
    }))
}

fn filter(filter: &Filter) -> Value {
    match filter {
        Filter::RequestHeaders(found) => json!({ "RequestHeaders": edits(found) }),
        Filter::ResponseHeaders(found) => json!({ "ResponseHeaders": edits(found) }),
        Filter::Redirect(found) => json!({ "Redirect": lean(json!({
            "scheme": found.scheme.as_deref(),
            "hostname": found.hostname.as_deref(),
            "port": found.port,
            "path": found.path.as_ref().map(path_edit),
            "status": found.status.as_u16(),
        })) }),
        Filter::Rewrite(found) => json!({ "Rewrite": lean(json!({
            "hostname": found.hostname.as_ref().map(|name| String::from_utf8_lossy(name.as_bytes())),
            "path": found.path.as_ref().map(path_edit),
        })) }),
        Filter::Mirror(found) => json!({ "Mirror": {
            "target": target(&found.target),
            "numerator": found.numerator,
            "denominator": found.denominator,
        } }),
        Filter::Cors(found) => json!({ "Cors": lean(json!({
            "allowOrigins": texts(&found.allow_origins),
            "allowCredentials": found.allow_credentials,
            "allowMethods": texts(&found.allow_methods),
            "allowHeaders": texts(&found.allow_headers),
            "exposeHeaders": texts(&found.expose_headers),
            "maxAge": format!("{:?}", found.max_age),
        })) }),
    }
}

fn edits(edits: &HeaderEdits) -> Value {
    let field = |(name, value): &(HeaderName, HeaderValue)| {
        let shown = HARMLESS.contains(name).then(|| String::from_utf8_lossy(value.as_bytes()));
        json!({ "name": name.as_str(), "value": shown.unwrap_or_else(|| REDACTED.into()) })
    };
    lean(json!({
        "set": each(&edits.set, field),
        "add": each(&edits.add, field),
        "remove": texts(&edits.remove),
    }))
}

fn path_edit(edit: &PathEdit) -> Value {
    match edit {
        PathEdit::Full(path) => json!({ "ReplaceFullPath": path.as_str() }),
        PathEdit::Prefix(path) => json!({ "ReplacePrefixMatch": path.as_str() }),
    }
}

fn backend(backend: &Backend) -> Value {
    lean(json!({
        "target": target(&backend.target),
        "weight": backend.weight,
        "filters": each(&backend.filters, filter),
    }))
}

fn target(target: &Target) -> Value {
    match target {
        Target::Service { name, port } => json!({ "service": name.to_string(), "port": port }),
        Target::Refused(reason) => json!({ "refused": reason.as_str() }),
    }
}

fn persistence(persistence: &Persistence) -> Value {
    lean(json!({
        "name": persistence.name.as_str(),
        "carrier": format!("{:?}", persistence.carrier),
        "absolute": persistence.absolute.map(|time| format!("{time:?}")),
    }))
}

fn attachment(attachment: &Attachment) -> Value {
    match attachment {
        Attachment::Service(name) => json!({ "service": name.to_string() }),
        Attachment::Waypoint(GatewayDestination::Hostname(name)) => json!({ "waypoint": name.to_string() }),
        Attachment::Waypoint(GatewayDestination::Address(at)) => json!({ "waypoint": at.to_string() }),
    }
}

fn guard(guard: &Guard) -> Value {
    let rules: Vec<Vec<Vec<Value>>> = guard
        .rules
        .iter()
        .map(|rule| {
            let clauses = rule.clauses.iter();
            clauses
                .map(|clause| clause.alternatives.iter().map(|all| each(all, condition)).collect())
                .collect()
        })
        .collect();
    json!({
        "namespace": guard.name.namespace.as_str(),
        "name": guard.name.name.as_str(),
        "attached": each(&guard.attached, attachment),
        "action": format!("{:?}", guard.action),
        "rules": rules,
        "dryRun": guard.dry_run,
    })
}

fn condition(condition: &Condition) -> Value {
    let test = |test: &Test| match test {
        Test::Text(text) => value(&condition.of, text),
        Test::Template(template) => json!({ "Template": template.as_str() }),
        Test::Net(net) => json!(net.to_string()),
        Test::Port(port) => json!(port),
        Test::Account(account) => json!(format!("{}/{}", account.namespace, account.service_account)),
    };
    lean(json!({
        "of": attribute(&condition.of),
        "any": each(&condition.any, test),
        "none": each(&condition.none, test),
    }))
}

fn value(of: &Attribute, wanted: &StringMatch) -> Value {
    match (of, wanted) {
        (_, StringMatch::Presence) => dump::text(wanted),
        (Attribute::Header(name), _) if !HARMLESS.contains(name) => json!(REDACTED),
        _ => dump::text(wanted),
    }
}

/// As `when` calls it, where it has a name there.
fn attribute(attribute: &Attribute) -> String {
    let fixed = match attribute {
        Attribute::Principal => "source.principal",
        Attribute::Namespace => "source.namespace",
        Attribute::ServiceAccount => "source.serviceAccount",
        Attribute::TrustDomain => "source.trustDomain",
        Attribute::SourceIp => "source.ip",
        Attribute::RemoteIp => "remote.ip",
        Attribute::DestinationIp => "destination.ip",
        Attribute::DestinationPort => "destination.port",
        Attribute::ServerName => "connection.sni",
        Attribute::RequestPrincipal => "request.auth.principal",
        Attribute::Audience => "request.auth.audiences",
        Attribute::Presenter => "request.auth.presenter",
        Attribute::Host => "request.host",
        Attribute::Method => "request.method",
        Attribute::Path => "request.path",
        Attribute::Header(name) => return format!("request.headers[{name}]"),
        Attribute::Claim(path) => return format!("request.auth.claims[{}]", path.join("][")),
    };
    fixed.to_owned()
}

fn authentication(authentication: &Authentication) -> Value {
    json!({
        "namespace": authentication.name.namespace.as_str(),
        "name": authentication.name.name.as_str(),
        "attached": each(&authentication.attached, attachment),
        "rules": each(&authentication.rules, issuer),
    })
}

fn issuer(rule: &JwtRule) -> Value {
    let location = |location: &Location| match location {
        Location::Header { name, prefix } => json!({ "header": name.as_str(), "prefix": prefix.as_str() }),
        Location::Param(name) => json!({ "param": name.as_str() }),
        Location::Cookie(name) => json!({ "cookie": name.as_str() }),
    };
    let keys = match &rule.keys {
        // They may be symmetric ones.
        Keys::Inline(keys) => json!({ "inline": format!("{} bytes", keys.len()) }),
        Keys::At { uri, timeout } => json!({ "uri": uri.as_str(), "timeout": format!("{timeout:?}") }),
        Keys::Discovered { timeout } => json!({ "discovered": true, "timeout": format!("{timeout:?}") }),
    };
    let claim = |(header, path): &(HeaderName, Vec<arcstr::ArcStr>)| json!({ "header": header.as_str(), "claim": texts(path) });
    lean(json!({
        "issuer": rule.issuer.as_str(),
        "audiences": texts(&rule.audiences),
        "keys": keys,
        "from": each(&rule.from, location),
        "forward": rule.forward,
        "payloadHeader": rule.payload_header.as_ref().map(HeaderName::as_str),
        "claimHeaders": each(&rule.claim_headers, claim),
        "words": texts(&rule.words),
    }))
}

fn traffic(traffic: &Traffic) -> Value {
    let tls: Map<_, _> = traffic.tls.iter().map(|(port, found)| (port.to_string(), tls(found))).collect();
    let budget = traffic.budget.map(|budget| {
        json!({
            "percent": budget.percent,
            "interval": format!("{:?}", budget.interval),
            "least": budget.least,
            "leastInterval": format!("{:?}", budget.least_interval),
        })
    });
    lean(json!({
        "service": traffic.service.to_string(),
        "balancer": format!("{:?}", traffic.balancer),
        "sessionPersistence": traffic.persistence.as_ref().map(persistence),
        "retryBudget": budget,
        "maxRequests": traffic.limits.active,
        "maxPendingRequests": traffic.limits.waiting,
        "tls": tls,
    }))
}

fn tls(tls: &ServerTls) -> Value {
    let roots = match &tls.roots {
        Roots::System => json!("System"),
        Roots::Only(roots) => json!(roots.len()),
    };
    let name = |name: &mesh::l7::tls::SubjectName| json!(format!("{name:?}"));
    lean(
        json!({ "hostname": tls.hostname.as_str(), "subjectAltNames": each(&tls.names, name), "roots": roots }),
    )
}

fn telemetry(telemetry: &Telemetry) -> Value {
    let scope = match &telemetry.scope {
        Scope::Mesh => json!("Mesh"),
        Scope::Namespace => json!("Namespace"),
        Scope::Waypoints(names) => json!({ "waypoints": texts(names) }),
        Scope::Services(names) => json!({ "services": each(names, |name| json!(name.to_string())) }),
    };
    let (tracing, logging) = (&telemetry.tracing, &telemetry.logging);
    let provider = tracing.provider.as_ref().map(|found| {
        let at = format!("{}:{}{}", found.host, found.port, found.path);
        json!({ "name": found.name.as_str(), "wire": format!("{:?}", found.wire), "at": at })
    });
    let tag = |tag: &Tag| match tag {
        Tag::Literal(text) => json!({ "literal": text.as_str() }),
        Tag::Header { name, otherwise } => {
            json!({ "header": name.as_str(), "otherwise": otherwise.as_str() })
        }
    };
    let tags: Map<_, _> = tracing.tags.iter().map(|(name, found)| (name.to_string(), tag(found))).collect();
    let metrics = telemetry.metrics.iter();
    let metrics: Map<_, _> =
        metrics.map(|(metric, rule)| (metric.as_str().to_owned(), metric_override(rule))).collect();
    lean(json!({
        "namespace": telemetry.name.namespace.as_str(),
        "name": telemetry.name.name.as_str(),
        "created": telemetry.created,
        "scope": scope,
        "tracing": lean(json!({
            "provider": provider,
            "percent": tracing.share.map(|share| f64::from(share.parts()) / 100.0),
            "report": tracing.report,
            "tags": tags,
        })),
        "accessLogging": lean(json!({
            "enabled": logging.enabled,
            "filter": logging.filter.as_ref().map(|filter| filter.as_str().as_str()),
        })),
        "metrics": metrics,
    }))
}

fn metric_override(rule: &Override) -> Value {
    let label = |rule: &LabelRule| match rule {
        LabelRule::Removed => json!("removed"),
        LabelRule::Says(formula) => json!({ "says": formula.as_str().as_str() }),
    };
    let labels: Map<_, _> = rule.labels.iter().map(|(name, rule)| (name.to_string(), label(rule))).collect();
    lean(json!({ "disabled": rule.disabled, "labels": labels }))
}

#[cfg(test)]
mod tests;
