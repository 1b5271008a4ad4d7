// SPDX-License-Identifier: Apache-2.0
//! Spans as OTLP has them. Pure.

use std::time::Duration;

use proto::otlp::{
    AnyValue, ExportTraceServiceRequest, InstrumentationScope, KeyValue, Resource, ResourceSpans, ScopeSpans,
    Span as Message, SpanKind, Status, StatusCode, any_value::Value,
};

use super::{Kind, Sender, Span, since_epoch};

/// A batch.
pub(super) fn request(sender: &Sender, spans: &[Span]) -> ExportTraceServiceRequest {
    let said = [
        ("service.name", sender.service.as_str()),
        ("service.version", sender.version),
        ("k8s.pod.name", &sender.pod),
        ("k8s.namespace.name", &sender.namespace),
    ];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            resource: Some(Resource { attributes: said.map(|(key, value)| pair(key, value)).to_vec() }),
            scope_spans: vec![ScopeSpans {
                scope: Some(InstrumentationScope { name: "ambit".into(), version: sender.version.into() }),
                spans: spans.iter().map(message).collect(),
            }],
        }],
    }
}

fn message(span: &Span) -> Message {
    let begin = since_epoch(span.begin);
    Message {
        trace_id: span.ids.trace.to_be_bytes().to_vec().into(),
        span_id: span.ids.span.to_be_bytes().to_vec().into(),
        trace_state: String::new(),
        parent_span_id: span.parent.map(|parent| parent.to_be_bytes().to_vec()).unwrap_or_default().into(),
        name: span.name.to_string(),
        kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        }
        .into(),
        start_time_unix_nano: nanos(begin),
        end_time_unix_nano: nanos(begin + span.took),
        attributes: span.attributes.iter().map(|(key, value)| pair(key, value)).collect(),
        status: span
            .error
            .as_ref()
            .map(|error| Status { message: error.clone(), code: StatusCode::Error.into() }),
    }
}

fn pair(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) }),
    }
}

/// Until the year 2554.
fn nanos(since: Duration) -> u64 {
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
