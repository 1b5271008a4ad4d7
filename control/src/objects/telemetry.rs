// SPDX-License-Identifier: Apache-2.0
//! `Telemetry` of telemetry.istio.io/v1. A field that is not of the API is an error.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use serde::Deserialize;

use super::{
    meta::{LabelSelector, null_is_default, strict_objects},
    security::TargetReference,
};

strict_objects! {
    /// What is observed of requests.
    Telemetry: TelemetrySpec;
}

/// `spec` of a `Telemetry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TelemetrySpec {
    /// Workloads; not of waypoints.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// What it is attached to.
    #[serde(default)]
    pub target_ref: Option<TargetReference>,
    /// Several of `targetRef`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub target_refs: Vec<TargetReference>,
    /// Traces.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tracing: Vec<TracingRule>,
    /// Metrics.
    #[serde(default, deserialize_with = "null_is_default")]
    pub metrics: Vec<MetricsRule>,
    /// The access log.
    #[serde(default, deserialize_with = "null_is_default")]
    pub access_logging: Vec<LoggingRule>,
}

/// One of `spec.tracing`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TracingRule {
    /// On which side.
    #[serde(default, rename = "match")]
    pub matching: Option<SideMatch>,
    /// Where to; one.
    #[serde(default, deserialize_with = "null_is_default")]
    pub providers: Vec<ProviderRef>,
    /// Of requests of which nobody has decided.
    #[serde(default)]
    pub random_sampling_percentage: Option<f64>,
    /// Spans are not sent.
    #[serde(default)]
    pub disable_span_reporting: Option<bool>,
    /// Servers are not told of the trace.
    #[serde(default)]
    pub disable_context_propagation: Option<bool>,
    /// What spans say besides.
    #[serde(default, deserialize_with = "null_is_default")]
    pub custom_tags: BTreeMap<ArcStr, CustomTag>,
    /// Whether spans name the mesh's own facts.
    #[serde(default)]
    pub enable_istio_tags: Option<bool>,
    /// Whether the number of a request decides.
    #[serde(default)]
    pub use_request_id_for_trace_sampling: Option<bool>,
}

// A percentage that is read is a number.
impl Eq for TracingRule {}

/// `match` of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SideMatch {
    /// The side.
    #[serde(default)]
    pub mode: Side,
}

/// On which side of a request a proxy is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Side {
    /// Both.
    #[default]
    ClientAndServer,
    /// The client's.
    Client,
    /// The server's: a waypoint is there.
    Server,
}

/// A provider by its name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderRef {
    /// The name.
    pub name: ArcStr,
}

/// One of `customTags`: one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CustomTag {
    /// A text.
    #[serde(default)]
    pub literal: Option<LiteralTag>,
    /// A variable of the proxy.
    #[serde(default)]
    pub environment: Option<NamedTag>,
    /// A header of the request.
    #[serde(default)]
    pub header: Option<NamedTag>,
    /// A format of Envoy's.
    #[serde(default)]
    pub formatter: Option<LiteralTag>,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiteralTag {
    /// The text.
    pub value: ArcStr,
}

/// What something is called, and what is said without it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NamedTag {
    /// The name.
    pub name: ArcStr,
    /// Without it.
    #[serde(default)]
    pub default_value: ArcStr,
}

/// One of `spec.accessLogging`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LoggingRule {
    /// On which side.
    #[serde(default, rename = "match")]
    pub matching: Option<SideMatch>,
    /// Where to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub providers: Vec<ProviderRef>,
    /// No line is written.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// Which requests.
    #[serde(default)]
    pub filter: Option<LogFilter>,
}

/// `filter` of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFilter {
    /// In CEL.
    #[serde(default)]
    pub expression: ArcStr,
}

/// One of `spec.metrics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricsRule {
    /// Who gets them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub providers: Vec<ProviderRef>,
    /// What is different.
    #[serde(default, deserialize_with = "null_is_default")]
    pub overrides: Vec<MetricOverride>,
    /// How often they are told.
    #[serde(default)]
    pub reporting_interval: Option<ArcStr>,
}

/// One of `overrides`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricOverride {
    /// Of which metrics.
    #[serde(default, rename = "match")]
    pub matching: Option<MetricMatch>,
    /// They are not counted.
    #[serde(default)]
    pub disabled: Option<bool>,
    /// Labels, by name.
    #[serde(default, deserialize_with = "null_is_default")]
    pub tag_overrides: BTreeMap<ArcStr, TagOverride>,
}

/// `match` of an override.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetricMatch {
    /// On which side.
    #[serde(default)]
    pub mode: Side,
    /// Which of Istio's.
    #[serde(default)]
    pub metric: MetricName,
    /// One that is not Istio's.
    #[serde(default)]
    pub custom_metric: Option<ArcStr>,
}

/// Istio's metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MetricName {
    /// All of them.
    #[default]
    AllMetrics,
    /// Requests.
    RequestCount,
    /// How long they took.
    RequestDuration,
    /// Bytes of their bodies.
    RequestSize,
    /// Bytes of the answers' bodies.
    ResponseSize,
    /// Connections that began.
    TcpOpenedConnections,
    /// Connections that ended.
    TcpClosedConnections,
    /// Bytes to clients.
    TcpSentBytes,
    /// Bytes from clients.
    TcpReceivedBytes,
    /// Messages of clients.
    GrpcRequestMessages,
    /// Messages of servers.
    GrpcResponseMessages,
}

/// One of `tagOverrides`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TagOverride {
    /// What becomes of it.
    #[serde(default)]
    pub operation: TagOperation,
    /// What it says, in CEL.
    #[serde(default)]
    pub value: ArcStr,
}

/// What becomes of a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum TagOperation {
    /// It is there.
    #[default]
    Upsert,
    /// It is not.
    Remove,
}
