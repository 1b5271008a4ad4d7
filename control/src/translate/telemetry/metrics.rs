// SPDX-License-Identifier: Apache-2.0
//! `spec.metrics` of a Telemetry: what is different about the metrics of a waypoint. As in Istio, of two overrides of one
//! object the later one counts.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use mesh::{
    expression::Formula,
    telemetry::{LabelRule, Metric, Override},
};

use super::is_here;
use crate::{
    objects::{MetricMatch, MetricName, MetricOverride, MetricsRule, TagOperation, TagOverride},
    report::Reports,
};

/// The provider of metrics that is always there: whoever scrapes.
const SCRAPED: &str = "prometheus";
/// Labels of one metric that an object may change.
const MOST_LABELS: usize = 32;
/// What Prometheus keeps for itself.
const RESERVED: [&str; 2] = ["le", "quantile"];

pub(super) fn metrics(rules: &[MetricsRule], reports: &mut Reports) -> BTreeMap<Metric, Override> {
    let mut out = BTreeMap::new();
    for (number, rule) in rules.iter().enumerate() {
        let field = format!("spec.metrics[{number}]");
        if rule.reporting_interval.is_some() {
            let what = "is not honoured: what is scraped is what was counted so far";
            reports.warning(format!("{field}.reportingInterval"), what);
        }
        if let Some(other) = rule.providers.iter().find(|provider| provider.name != SCRAPED) {
            let what = format!("{:?} gets nothing: metrics are scraped, which is {SCRAPED:?}", other.name);
            reports.warning(format!("{field}.providers"), what);
        }
        if !rule.providers.is_empty() && rule.providers.iter().all(|provider| provider.name != SCRAPED) {
            continue;
        }
        for (number, rule) in rule.overrides.iter().enumerate() {
            overridden(rule, &format!("{field}.overrides[{number}]"), &mut out, reports);
        }
    }
    for (metric, rule) in &mut out {
        if rule.labels.len() > MOST_LABELS {
            let what = format!(
                "change {} labels of {}, and {MOST_LABELS} may be changed",
                rule.labels.len(),
                metric.as_str()
            );
            reports.error("spec.metrics", what);
            let kept = std::mem::take(&mut rule.labels).into_iter().take(MOST_LABELS);
            rule.labels = kept.collect();
        }
    }
    out
}

fn overridden(
    rule: &MetricOverride,
    field: &str,
    out: &mut BTreeMap<Metric, Override>,
    reports: &mut Reports,
) {
    let matching = rule.matching.clone().unwrap_or_default();
    let labels = labels(&rule.tag_overrides, field, reports);
    if !is_here(matching.mode, field, reports) {
        return;
    }
    for metric in matched(&matching, field, reports) {
        let known: &mut Override = out.entry(*metric).or_default();
        known.disabled = rule.disabled.or(known.disabled);
        known.labels.extend(labels.iter().map(|(name, rule)| (name.clone(), rule.clone())));
    }
}

fn matched(matching: &MetricMatch, field: &str, reports: &mut Reports) -> &'static [Metric] {
    if let Some(custom) = &matching.custom_metric {
        let what = format!("{custom:?} is no metric that a waypoint has: name one in `metric`");
        reports.warning(format!("{field}.match.customMetric"), what);
        return &[];
    }
    match matching.metric {
        MetricName::AllMetrics => &Metric::ALL,
        MetricName::RequestCount => &[Metric::Requests],
        MetricName::RequestDuration => &[Metric::Duration],
        MetricName::RequestSize => &[Metric::RequestBytes],
        MetricName::ResponseSize => &[Metric::ResponseBytes],
        MetricName::GrpcRequestMessages => &[Metric::RequestMessages],
        MetricName::GrpcResponseMessages => &[Metric::ResponseMessages],
        MetricName::TcpOpenedConnections => &[Metric::Opened],
        MetricName::TcpClosedConnections => &[Metric::Closed],
        MetricName::TcpSentBytes => &[Metric::Sent],
        MetricName::TcpReceivedBytes => &[Metric::Received],
    }
}

fn labels(
    rules: &BTreeMap<ArcStr, TagOverride>,
    field: &str,
    reports: &mut Reports,
) -> BTreeMap<ArcStr, LabelRule> {
    let mut out = BTreeMap::new();
    for (name, rule) in rules {
        let field = format!("{field}.tagOverrides[{name:?}]");
        if !is_label(name) {
            let what =
                "is no label that Prometheus takes: letters, digits and _, not beginning with a digit or __";
            reports.error(field, what);
            continue;
        }
        let rule = match (rule.operation, rule.value.is_empty()) {
            (TagOperation::Remove, is_empty) => {
                if !is_empty {
                    reports.warning(format!("{field}.value"), "says nothing where the label is removed");
                }
                LabelRule::Removed
            }
            (TagOperation::Upsert, true) => {
                reports.error(format!("{field}.value"), "is missing: write an expression, or REMOVE");
                continue;
            }
            (TagOperation::Upsert, false) => match Formula::parse(&rule.value) {
                Ok(formula) => LabelRule::Says(formula),
                Err(error) => {
                    reports.error(format!("{field}.value"), error.to_string());
                    continue;
                }
            },
        };
        out.insert(name.clone(), rule);
    }
    out
}

fn is_label(name: &str) -> bool {
    let first = name.bytes().next();
    first.is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with("__")
        && !RESERVED.contains(&name)
}
