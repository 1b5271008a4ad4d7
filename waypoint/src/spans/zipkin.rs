// SPDX-License-Identifier: Apache-2.0
//! Spans as Zipkin's JSON has them, version 2. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use super::{Kind, Sender, Span, since_epoch};

/// A batch.
pub(super) fn body(sender: &Sender, spans: &[Span]) -> Vec<u8> {
    let list: Value = spans.iter().map(|span| one(sender, span)).collect();
    list.to_string().into_bytes()
}

fn one(sender: &Sender, span: &Span) -> Value {
    let tags: BTreeMap<&str, &str> =
        span.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let mut value = json!({
        "traceId": format!("{:032x}", span.ids.trace),
        "id": format!("{:016x}", span.ids.span),
        "kind": match span.kind { Kind::Server => "SERVER", Kind::Client => "CLIENT" },
        "name": span.name,
        "timestamp": micros(since_epoch(span.begin)),
        // Nothing is shorter than a microsecond.
        "duration": micros(span.took).max(1),
        "localEndpoint": { "serviceName": sender.service },
        "tags": tags,
    });
    if let Value::Object(fields) = &mut value {
        if let Some(parent) = span.parent {
            fields.insert("parentId".into(), json!(format!("{parent:016x}")));
        }
        if let Some(remote) = span.remote {
            fields.insert("remoteEndpoint".into(), endpoint(remote));
        }
        if let Some(error) = span.error.as_ref().filter(|error| !error.is_empty())
            && let Some(Value::Object(tags)) = fields.get_mut("tags")
        {
            tags.insert("error".into(), json!(error));
        }
    }
    value
}

fn endpoint(at: SocketAddr) -> Value {
    match at {
        SocketAddr::V4(at) => json!({ "ipv4": at.ip(), "port": at.port() }),
        SocketAddr::V6(at) => json!({ "ipv6": at.ip(), "port": at.port() }),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
