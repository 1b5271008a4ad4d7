// SPDX-License-Identifier: Apache-2.0
//! Every number the agent publishes: name, unit and labels.

use std::time::Duration;

use finding::Grade;
use metrics::{counter, gauge, histogram};
use runtime::metrics::MetricsSettings;

/// Gauge: ztunnels connected over ZDS (Istio's name).
const ZTUNNELS: &str = "ztunnel_connected";
/// Gauge: pods by `state` (enrolled, pending, failed).
const PODS: &str = "ambit_node_pods";
/// Histogram, seconds: from the request to the answer, by `result` (enrolled, pending, failed).
const ENROL: &str = "ambit_node_enrol_duration_seconds";
/// Counter: pods released, by `result` (removed, failed).
const REMOVED: &str = "ambit_node_pods_removed_total";

/// Counter: what the CNI plugin asked, by `command` (add, check, del, gc) and `response_code` (Istio's name).
const ASKED: &str = "istio_cni_plugin_requests_total";

/// Gauge: what is looked at on this node (`GET /checks`), by `check` and `grade` (ok, warning, failure).
const FINDINGS: &str = "ambit_node_findings";

/// From a millisecond (everything there already) to the patience of an add.
const ENROL_BUCKETS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0];

/// How the numbers are kept.
pub fn settings() -> MetricsSettings {
    MetricsSettings { buckets: vec![(ENROL, ENROL_BUCKETS.to_vec())], idle: None }
}

/// How many ztunnels are connected.
pub(crate) fn ztunnels(connected: usize) {
    gauge!(ZTUNNELS).set(float(connected));
}

/// How many pods are in a state.
pub(crate) fn pods(label: Label, count: usize) {
    gauge!(PODS, "state" => label.text()).set(float(count));
}

/// An add was answered.
pub(crate) fn added(label: Label, took: Duration) {
    histogram!(ENROL, "result" => label.text()).record(took.as_secs_f64());
}

/// How many findings a check has of a grade.
pub(crate) fn findings(check: &str, grade: Grade, count: usize) {
    gauge!(FINDINGS, "check" => check.to_owned(), "grade" => grade.text()).set(float(count));
}

/// The CNI plugin got an answer.
pub(crate) fn asked(command: &'static str, status: u16) {
    counter!(ASKED, "command" => command, "response_code" => status.to_string()).increment(1);
}

/// A pod was released, or could not be.
pub(crate) fn released<T, E>(result: &Result<T, E>) {
    let label = if result.is_ok() { "removed" } else { "failed" };
    counter!(REMOVED, "result" => label).increment(1);
}

/// The three ways in which a pod may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Label {
    Enrolled,
    Pending,
    Failed,
}

impl Label {
    pub(crate) const ALL: [Self; 3] = [Self::Enrolled, Self::Pending, Self::Failed];

    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Pending => "pending",
            Self::Failed => "failed",
        }
    }
}

fn float(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
