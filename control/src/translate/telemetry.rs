// SPDX-License-Identifier: Apache-2.0
//! `Telemetry` as what waypoints observe of requests. Names of providers become their addresses.

mod metrics;

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use http::HeaderName;
use mesh::{
    Hostname, ServiceName, TelemetryName,
    expression::{Filter, InvalidExpression},
    telemetry::{Logging, Provider, Scope, Share, Tag, Tracing},
};

use super::Translation;
use crate::{
    objects::{CustomTag, Kind, LoggingRule, Side, TargetReference, Telemetry, TracingRule},
    report::Reports,
    world::Settings,
};

/// The provider of an access log that is always there: standard output.
const STANDARD: &str = "envoy";
/// Classes of Gateways that are waypoints.
const CLASSES: [&str; 2] = ["ambit-waypoint", "istio-waypoint"];

/// What waypoints get; nothing where they have nothing to do with the object.
pub(crate) fn translate(settings: &Settings, object: &Telemetry) -> Translation<mesh::Telemetry> {
    let mut reports = Reports::of(object.metadata.key(Kind::Telemetry));
    let output = convert(settings, object, &mut reports);
    Translation { output, reports: reports.done() }
}

fn convert(settings: &Settings, object: &Telemetry, reports: &mut Reports) -> Option<mesh::Telemetry> {
    let (spec, metadata) = (&object.spec, &object.metadata);
    let scope = scope(settings, object, reports);
    let tracing = tracing(settings, &spec.tracing, reports);
    let logging = logging(&spec.access_logging, reports);
    let metrics = metrics::metrics(&spec.metrics, reports);
    let created = metadata.creation_timestamp.map_or(i64::MAX, |at| at.as_second());
    Some(mesh::Telemetry {
        name: TelemetryName { namespace: metadata.namespace.clone(), name: metadata.name.clone() },
        created: u64::try_from(created).unwrap_or_default(),
        scope: scope?,
        tracing,
        logging,
        metrics,
    })
}

/// What is wrong with it, whatever else there is.
pub(super) fn check(object: &Telemetry, reports: &mut Reports) {
    let spec = &object.spec;
    for (number, rule) in spec.tracing.iter().enumerate() {
        let field = format!("spec.tracing[{number}]");
        share(rule, &field, reports);
        tags(&rule.custom_tags, &field, &mut BTreeMap::new(), reports);
    }
    logging(&spec.access_logging, reports);
    metrics::metrics(&spec.metrics, reports);
}

/// What it is for.
fn scope(settings: &Settings, object: &Telemetry, reports: &mut Reports) -> Option<Scope> {
    let (spec, metadata) = (&object.spec, &object.metadata);
    let is_root = metadata.namespace == settings.root_namespace;
    if spec.selector.is_some() {
        let what = "selects workloads, and node proxies observe no requests: name a Gateway or Service in targetRefs";
        reports.warning("spec.selector", what);
        return None;
    }
    let references: Vec<_> = spec.target_ref.iter().chain(&spec.target_refs).collect();
    if references.is_empty() {
        return Some(if is_root { Scope::Mesh } else { Scope::Namespace });
    }
    let field = if spec.target_ref.is_some() { "spec.targetRef" } else { "spec.targetRefs" };
    let (mut waypoints, mut services, mut all) = (Vec::new(), Vec::new(), false);
    for reference in references {
        match target(settings, metadata.namespace.as_str(), is_root, reference) {
            Ok(Target::Waypoint(name)) => waypoints.push(name),
            Ok(Target::Service(name)) => services.push(name),
            Ok(Target::Everything) => all = true,
            Err(why) => reports.warning(field, why),
        }
    }
    match (all, waypoints.is_empty(), services.is_empty()) {
        (true, _, _) => Some(Scope::Mesh),
        (false, true, true) => None,
        (false, false, true) => Some(Scope::Waypoints(waypoints)),
        (false, true, false) => Some(Scope::Services(services)),
        (false, false, false) => {
            reports.warning(
                field,
                "names Gateways and Services: only the Gateways count; make two objects of it",
            );
            Some(Scope::Waypoints(waypoints))
        }
    }
}

enum Target {
    Waypoint(ArcStr),
    Service(ServiceName),
    Everything,
}

fn target(
    settings: &Settings,
    namespace: &str,
    is_root: bool,
    reference: &TargetReference,
) -> Result<Target, String> {
    let TargetReference { group, kind, name, namespace: other } = reference;
    if other.as_ref().is_some_and(|other| other != namespace) {
        return Err(format!("{kind} {name} is of another namespace, which cannot be observed from here"));
    }
    match (group.as_str(), kind.as_str()) {
        ("gateway.networking.k8s.io", "Gateway") => Ok(Target::Waypoint(name.clone())),
        ("gateway.networking.k8s.io", "GatewayClass") if is_root && CLASSES.contains(&name.as_str()) => {
            Ok(Target::Everything)
        }
        ("" | "core", "Service") => {
            let hostname = format!("{name}.{namespace}.svc.{}", settings.cluster_domain);
            let hostname = Hostname::parse(&hostname).map_err(|error| error.to_string())?;
            Ok(Target::Service(ServiceName { namespace: namespace.into(), hostname }))
        }
        _ => Err(format!("{kind} {name} is nothing that a waypoint stands for: name a Gateway or a Service")),
    }
}

/// The rules for a server's side; the first to say something counts.
fn tracing(settings: &Settings, rules: &[TracingRule], reports: &mut Reports) -> Tracing {
    let mut out = Tracing::default();
    for (number, rule) in rules.iter().enumerate() {
        let field = format!("spec.tracing[{number}]");
        if !is_here(rule.matching.clone().unwrap_or_default().mode, &field, reports) {
            continue;
        }
        out.provider = out.provider.or_else(|| provider(settings, rule, &field, reports));
        let share = share(rule, &field, reports);
        out.share = out.share.or(share);
        out.report = out.report.or_else(|| rule.disable_span_reporting.map(|disabled| !disabled));
        tags(&rule.custom_tags, &field, &mut out.tags, reports);
        if rule.disable_context_propagation == Some(true) {
            let what = "is not honoured: a trace that ends at a waypoint helps nobody";
            reports.warning(format!("{field}.disableContextPropagation"), what);
        }
        if rule.enable_istio_tags == Some(false) {
            reports.warning(format!("{field}.enableIstioTags"), "spans always say what the mesh knows");
        }
        if rule.use_request_id_for_trace_sampling == Some(true) {
            let what = "is not honoured: the caller's trace decides, and chance where there is none";
            reports.warning(format!("{field}.useRequestIdForTraceSampling"), what);
        }
    }
    out
}

fn share(rule: &TracingRule, field: &str, reports: &mut Reports) -> Option<Share> {
    let percent = rule.random_sampling_percentage?;
    let share = Share::percent(percent);
    if share.is_none() {
        let what = format!("{percent} is no percentage: write a number from 0 to 100");
        reports.error(format!("{field}.randomSamplingPercentage"), what);
    }
    share
}

fn provider(
    settings: &Settings,
    rule: &TracingRule,
    field: &str,
    reports: &mut Reports,
) -> Option<Arc<Provider>> {
    let field = format!("{field}.providers");
    if rule.providers.len() > 1 {
        reports.warning(&field, "only the first provider gets spans");
    }
    let name = &rule.providers.first()?.name;
    let found = settings.providers.get(name);
    if found.is_none() {
        let known: Vec<_> = settings.providers.keys().map(ArcStr::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let what =
            format!("{name:?} is no provider that control was told of ({known}): add it to its providers");
        reports.warning(field, what);
    }
    found.cloned()
}

fn tags(
    rules: &BTreeMap<ArcStr, CustomTag>,
    field: &str,
    out: &mut BTreeMap<ArcStr, Tag>,
    reports: &mut Reports,
) {
    for (name, rule) in rules {
        let field = format!("{field}.customTags[{name:?}]");
        let tag = match rule {
            CustomTag { literal: Some(literal), .. } => Tag::Literal(literal.value.clone()),
            CustomTag { header: Some(header), .. } => match HeaderName::from_bytes(header.name.as_bytes()) {
                Ok(name) => Tag::Header { name, otherwise: header.default_value.clone() },
                Err(_invalid) => {
                    reports.error(format!("{field}.header.name"), format!("{:?} is no header", header.name));
                    continue;
                }
            },
            CustomTag { environment: Some(variable), .. } => {
                reports.warning(
                    format!("{field}.environment"),
                    "variables of a waypoint are not told: its defaultValue counts; write a literal",
                );
                if variable.default_value.is_empty() {
                    continue;
                }
                Tag::Literal(variable.default_value.clone())
            }
            CustomTag { formatter: Some(_), .. } => {
                reports.warning(format!("{field}.formatter"), "is Envoy's and not honoured: name a header");
                continue;
            }
            CustomTag { .. } => {
                reports.error(field, "says nothing: write a literal or a header");
                continue;
            }
        };
        out.entry(name.clone()).or_insert(tag);
    }
}

fn logging(rules: &[LoggingRule], reports: &mut Reports) -> Logging {
    let mut out = Logging::default();
    for (number, rule) in rules.iter().enumerate() {
        let field = format!("spec.accessLogging[{number}]");
        let filter = match filter(rule) {
            Ok(filter) => filter,
            Err(error) => {
                // Half of a rule would log what nobody asked for.
                reports.error(format!("{field}.filter.expression"), error.to_string());
                continue;
            }
        };
        if !is_here(rule.matching.clone().unwrap_or_default().mode, &field, reports) {
            continue;
        }
        if let Some(other) = rule.providers.iter().find(|provider| provider.name != STANDARD) {
            let what = format!("{:?} gets nothing: the access log goes to standard output", other.name);
            reports.warning(format!("{field}.providers"), what);
        }
        if out.enabled.is_none() {
            out = Logging { enabled: Some(!rule.disabled.unwrap_or(false)), filter };
        }
    }
    out
}

fn filter(rule: &LoggingRule) -> Result<Option<Filter>, InvalidExpression> {
    let expression = rule.filter.as_ref().map(|filter| &filter.expression);
    expression.filter(|text| !text.is_empty()).map(|text| Filter::parse(text)).transpose()
}

/// Whether a rule is for the side that a waypoint is on.
fn is_here(side: Side, field: &str, reports: &mut Reports) -> bool {
    match side {
        Side::ClientAndServer | Side::Server => true,
        Side::Client => {
            reports
                .warning(format!("{field}.match.mode"), "a waypoint is on the server's side: write SERVER");
            false
        }
    }
}
