// SPDX-License-Identifier: Apache-2.0
//! Outputs as YAML for the eyes of a reviewer: what is empty or a default is left out.

use std::{collections::BTreeSet, fmt::Display};

use control::{
    objects::ObjectKey,
    world::{Bound, Standing, World},
};
use mesh::{
    Change, Policy, Route, Service, Telemetry, Workload,
    l7::route::{Backend, HttpRule, Rules, Target},
    policy::{Clause, Match, Rule, ServiceAccountMatch, StringMatch},
    service::{LoadBalancing, PortMap, WeightedWaypoint},
    telemetry::{LabelRule, Metric, Override},
    workload::{GatewayAddress, GatewayDestination},
};
use serde_json::{Map, Value, json};

/// Everything that proxies are told, and what users are told of these objects.
pub(crate) fn yaml(world: &World, keys: &BTreeSet<ObjectKey>) -> String {
    let (mut workloads, mut services, mut policies, mut routes) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut telemetries = Vec::new();
    let mut traffic = Vec::new();
    let (mut guards, mut authentications) = (Vec::new(), Vec::new());
    for output in world.outputs() {
        match output {
            Change::Workload(output) => workloads.push(workload(&output)),
            Change::Service(output) => services.push(service(&output)),
            Change::Policy(output) => policies.push(policy(&output)),
            Change::Route(output) => routes.push(route(&output)),
            Change::Telemetry(output) => telemetries.push(telemetry(&output)),
            Change::Traffic(output) => traffic.push(json!(format!("{output:?}"))),
            Change::Guard(output) => guards.push(crate::attached::guard(&output)),
            Change::Authentication(output) => authentications.push(crate::attached::authentication(&output)),
            Change::WorkloadGone(_)
            | Change::ServiceGone(_)
            | Change::PolicyGone(_)
            | Change::RouteGone(_)
            | Change::GuardGone(_)
            | Change::AuthenticationGone(_)
            | Change::TelemetryGone(_)
            | Change::TrafficGone(_) => {
                panic!("nothing is gone")
            }
        }
    }
    let reports = world.reports().map(|report| {
        json!({"object": report.object.to_string(), "field": report.field, "message": report.message})
    });
    let all = map([
        ("policies", Value::Array(policies)),
        ("guards", Value::Array(guards)),
        ("authentications", Value::Array(authentications)),
        ("routes", Value::Array(routes)),
        ("services", Value::Array(services)),
        ("telemetries", Value::Array(telemetries)),
        ("traffic", Value::Array(traffic)),
        ("workloads", Value::Array(workloads)),
        ("conditions", keys.iter().flat_map(|key| conditions(world, key)).collect()),
        ("reports", reports.collect()),
    ]);
    serde_saphyr::to_string(&all).unwrap()
}

/// What an object says of waypoints in its status: the types, as Istio has them, are control's to write.
fn conditions(world: &World, key: &ObjectKey) -> Vec<Value> {
    let reports: Vec<_> = world.reports_of(key).collect();
    let bound =
        world.bound(key).map(|Bound { is_bound, reason, .. }| ("istio.io/WaypointBound", is_bound, reason));
    let standing = world.standing(key, &reports);
    let standing =
        standing.map(|Standing { is_accepted, reason, .. }| ("WaypointAccepted", is_accepted, reason));
    let shown = |(kind, is_true, reason): (&str, bool, &str)| json!({"object": key.to_string(), "type": kind, "status": if is_true { "True" } else { "False" }, "reason": reason});
    bound.into_iter().chain(standing).map(shown).collect()
}

fn telemetry(output: &Telemetry) -> Value {
    let tracing = &output.tracing;
    let provider = tracing.provider.as_deref().map(|provider| {
        let (name, wire) = (&provider.name, provider.wire);
        json!(format!("{name}: {wire:?} {}:{}{}", provider.host, provider.port, provider.path))
    });
    let tags = tracing.tags.iter().map(|(name, tag)| (name.to_string(), json!(format!("{tag:?}"))));
    map([
        ("name", text(&output.name)),
        ("scope", json!(format!("{:?}", output.scope))),
        ("provider", provider.unwrap_or_default()),
        ("sampling", json!(tracing.share.map(|share| f64::from(share.parts()) / 100.0))),
        ("report", json!(tracing.report)),
        ("tags", Value::Object(tags.collect())),
        ("accessLog", json!(output.logging.enabled)),
        ("filter", json!(output.logging.filter.as_ref().map(|filter| filter.as_str().as_str()))),
        ("metrics", Value::Object(output.metrics.iter().map(metric).collect())),
    ])
}

fn metric((metric, rule): (&Metric, &Override)) -> (String, Value) {
    let labels = rule.labels.iter().map(|(name, rule)| {
        let said = match rule {
            LabelRule::Removed => Value::Null,
            LabelRule::Says(formula) => json!(formula.as_str().as_str()),
        };
        (name.to_string(), said)
    });
    let said = json!({"disabled": rule.disabled, "labels": Value::Object(labels.collect())});
    (metric.as_str().to_owned(), said)
}

fn workload(output: &Workload) -> Value {
    let services = output.services.iter().map(|(name, ports)| (name.to_string(), port_map(ports)));
    let tunnel = output.application_tunnel.map(|tunnel| {
        let port = tunnel.port.map_or_else(|| "the port asked for".to_owned(), |port| port.to_string());
        json!(format!("{:?} {port}", tunnel.protocol))
    });
    map([
        ("hostname", output.hostname.as_ref().map_or(Value::Null, text)),
        ("network", text(&output.network)),
        ("applicationTunnel", tunnel.unwrap_or_default()),
        ("waypoint", gateway(output.waypoint.as_ref())),
        ("capacity", if output.capacity == 1 { Value::Null } else { json!(output.capacity) }),
        ("uid", text(&output.uid)),
        ("identity", text(output.identity())),
        ("addresses", list(&output.addresses)),
        ("networkMode", text(format!("{:?}", output.network_mode))),
        ("tunnel", text(format!("{:?}", output.tunnel))),
        ("nativeTunnel", if output.native_tunnel { json!(true) } else { Value::Null }),
        ("node", text(&output.node)),
        ("locality", list([&output.locality.region, &output.locality.zone, &output.locality.subzone])),
        ("canonical", text(format!("{} {}", output.canonical_name, output.canonical_revision))),
        ("owner", text(format!("{} {}", output.workload_type.as_str(), output.workload_name))),
        ("policies", list(&output.policies)),
        ("services", Value::Object(services.collect())),
        ("health", text(format!("{:?}", output.health))),
    ])
}

fn service(output: &Service) -> Value {
    map([
        ("name", text(output.key())),
        ("vips", list(output.vips.iter().map(|vip| vip.net))),
        ("ports", port_map(&output.ports)),
        ("balance", balance(&output.load_balancing)),
        ("ipFamilies", text(format!("{:?}", output.ip_families))),
        ("subjectAltNames", list(&output.subject_alt_names)),
        ("waypoint", gateway(output.waypoint.as_ref())),
        ("weightedWaypoints", output.weighted_waypoints.iter().map(share).collect()),
        ("ingressUseWaypoint", if output.ingress_use_waypoint { json!(true) } else { Value::Null }),
        ("canonical", if output.canonical { Value::Null } else { json!(false) }),
    ])
}

fn share(share: &WeightedWaypoint) -> Value {
    let address = gateway(Some(&share.destination));
    text(format!("{} of 100 to {}", share.weight, address.as_str().unwrap_or_default()))
}

fn gateway(address: Option<&GatewayAddress>) -> Value {
    let Some(GatewayAddress { destination, hbone_port }) = address else { return Value::Null };
    match destination {
        GatewayDestination::Hostname(name) => text(format!("{name} {hbone_port}")),
        GatewayDestination::Address(address) => text(format!("{address} {hbone_port}")),
    }
}

fn balance(balance: &LoadBalancing) -> Value {
    if *balance == LoadBalancing::default() {
        return Value::Null;
    }
    let scopes = balance.routing_preference.iter().map(|scope| format!("{scope:?}"));
    text(format!("{:?} {:?} {:?}", balance.mode, scopes.collect::<Vec<_>>(), balance.health_policy))
}

fn port_map(ports: &PortMap) -> Value {
    let ports = ports.iter().map(|(port, target)| {
        let number = target.target.map_or_else(|| "by name".to_owned(), |number| number.to_string());
        (port.to_string(), json!(format!("{number} {:?}", target.protocol)))
    });
    Value::Object(ports.collect())
}

fn policy(output: &Policy) -> Value {
    map([
        ("name", text(&output.name)),
        ("scope", text(format!("{:?}", output.scope))),
        ("action", text(format!("{:?}", output.action))),
        ("dryRun", if output.dry_run { json!(true) } else { Value::Null }),
        ("rules", output.rules.iter().map(rule).collect()),
    ])
}

fn route(output: &Route) -> Value {
    let rules: Value = match &output.rules {
        Rules::Http(rules) => rules.iter().map(|rule| http_rule(rule)).collect(),
        Rules::Tls(rules) => rules
            .iter()
            .map(|rule| map([("servers", list(&rule.hostnames)), ("backends", backends(&rule.backends))]))
            .collect(),
        Rules::Tcp(rules) => rules.iter().map(|rule| map([("backends", backends(&rule.backends))])).collect(),
    };
    let parents = output.parents.iter().map(|parent| {
        let port = parent.port.map(|port| format!(" port {port}")).unwrap_or_default();
        let clients = parent.consumers.as_ref().map(|clients| format!(" from {clients}")).unwrap_or_default();
        text(format!("{}{port}{clients}", parent.service))
    });
    map([
        ("name", text(&output.name)),
        ("created", if output.created == u64::MAX { Value::Null } else { json!(output.created) }),
        ("parents", parents.collect()),
        ("rules", rules),
    ])
}

fn http_rule(rule: &HttpRule) -> Value {
    let debug =
        |value: Option<&dyn std::fmt::Debug>| value.map_or(Value::Null, |value| text(format!("{value:?}")));
    let matches = rule.matches.iter().map(|matching| {
        let headers = matching.headers.iter().map(|(name, wanted)| format!("{name} {wanted:?}"));
        let query = matching.query.iter().map(|(name, wanted)| format!("{name} {wanted:?}"));
        map([
            ("path", text(format!("{:?}", matching.path))),
            ("method", matching.method.as_ref().map_or(Value::Null, text)),
            ("headers", list(headers)),
            ("query", list(query)),
        ])
    });
    let timeouts = [rule.timeouts.request, rule.timeouts.attempt];
    map([
        ("name", rule.name.as_ref().map_or(Value::Null, text)),
        ("matches", matches.collect()),
        ("filters", list(rule.filters.iter().map(|filter| format!("{filter:?}")))),
        ("backends", backends(&rule.backends)),
        ("timeouts", if timeouts == [None, None] { Value::Null } else { text(format!("{timeouts:?}")) }),
        ("retry", debug(rule.retry.as_ref().map(|retry| retry as _))),
        ("persistence", debug(rule.persistence.as_ref().map(|persistence| persistence as _))),
    ])
}

fn backends(backends: &[Backend]) -> Value {
    let backend = |backend: &Backend| {
        let target = match &backend.target {
            Target::Service { name, port } => format!("{name} port {port}"),
            Target::Refused(why) => format!("500: {why}"),
        };
        map([
            ("target", text(target)),
            ("weight", json!(backend.weight)),
            ("filters", list(backend.filters.iter().map(|filter| format!("{filter:?}")))),
        ])
    };
    backends.iter().map(backend).collect()
}

fn rule(rule: &Rule) -> Value {
    let any = |clause: &Clause| json!({"any": clause.matches.iter().map(condition).collect::<Value>()});
    json!({"all": rule.clauses.iter().map(any).collect::<Value>()})
}

fn condition(output: &Match) -> Value {
    map([
        ("principals", strings(&output.principals)),
        ("notPrincipals", strings(&output.not_principals)),
        ("namespaces", strings(&output.namespaces)),
        ("notNamespaces", strings(&output.not_namespaces)),
        ("serviceAccounts", accounts(&output.service_accounts)),
        ("notServiceAccounts", accounts(&output.not_service_accounts)),
        ("sourceIps", list(&output.source_ips)),
        ("notSourceIps", list(&output.not_source_ips)),
        ("destinationIps", list(&output.destination_ips)),
        ("notDestinationIps", list(&output.not_destination_ips)),
        ("destinationPorts", list(&output.destination_ports)),
        ("notDestinationPorts", list(&output.not_destination_ports)),
    ])
}

fn strings(matches: &[StringMatch]) -> Value {
    list(matches.iter().map(|one| match one {
        StringMatch::Exact(text) => format!("is {text}"),
        StringMatch::Prefix(text) => format!("begins with {text}"),
        StringMatch::Suffix(text) => format!("ends with {text}"),
        StringMatch::Presence => "anything".to_owned(),
    }))
}

fn accounts(accounts: &[ServiceAccountMatch]) -> Value {
    list(accounts.iter().map(|account| format!("{}/{}", account.namespace, account.service_account)))
}

pub(crate) fn list(items: impl IntoIterator<Item = impl Display>) -> Value {
    items.into_iter().map(text).collect()
}

pub(crate) fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

/// In the order of writing would be nicer; the order of the alphabet is stable.
pub(crate) fn map<const N: usize>(entries: [(&str, Value); N]) -> Value {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.iter().all(|item| item.as_str() == Some("")),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    };
    let kept = entries.into_iter().filter(|(_, value)| !empty(value));
    Value::Object(kept.map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>())
}
