// SPDX-License-Identifier: Apache-2.0
//! What a client must be told.

use std::{collections::BTreeMap, fmt, sync::Arc};

use futures_util::future::BoxFuture;
use prost_types::{ListValue, Struct, Value, value};
use serde_json::{Map, Value as Json};
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::Channel,
};

use crate::kind::Kind;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Connects to the server, with a deadline and with pings: those are what notices that a server on an open stream is
/// gone. Asked for each stream, so that changed roots count from the next one on.
pub type ChannelSource = Arc<dyn Fn() -> BoxFuture<'static, Result<Channel, BoxError>> + Send + Sync>;

/// Gives the bearer token for a new stream; asked each time, since projected tokens are renewed.
pub type TokenSource = Arc<dyn Fn() -> Result<String, BoxError> + Send + Sync>;

/// What a client must be told.
#[derive(Clone)]
pub struct ClientConfig {
    /// The way to the server.
    pub channel: ChannelSource,
    /// `None`: no `authorization` header.
    pub token: Option<TokenSource>,
    /// Further headers, `clusterid` among them.
    pub headers: Vec<(String, String)>,
    /// `node.id`; for a node proxy `ztunnel~<ip>~<pod>.<namespace>~<namespace>.svc.cluster.local`.
    pub node_id: String,
    /// `node.metadata`.
    pub node_metadata: Map<String, Json>,
    /// What to subscribe to.
    pub kinds: &'static [Kind],
    /// Ask for workloads and services one by one (`Client::demand`), not for all.
    pub on_demand: bool,
}

/// A header that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("header {name:?} is not valid")]
pub struct InvalidHeader {
    /// Its name.
    pub name: String,
}

impl ClientConfig {
    /// The headers that do not change.
    pub(super) fn fixed_headers(&self) -> Result<MetadataMap, InvalidHeader> {
        let mut map = MetadataMap::new();
        for (name, text) in &self.headers {
            let key = AsciiMetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes());
            let (Ok(key), Ok(text)) = (key, AsciiMetadataValue::try_from(text.as_str())) else {
                return Err(InvalidHeader { name: name.clone() });
            };
            map.append(key, text);
        }
        Ok(map)
    }

    /// Headers of a new stream.
    pub(super) fn stream_headers(&self) -> Result<MetadataMap, BoxError> {
        let mut map = self.fixed_headers()?;
        if let Some(token) = &self.token {
            let mut bearer = AsciiMetadataValue::try_from(format!("Bearer {}", token()?.trim()))?;
            bearer.set_sensitive(true);
            map.insert("authorization", bearer);
        }
        Ok(map)
    }

    pub(super) fn metadata(&self) -> Struct {
        structure(&self.node_metadata)
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("token", &self.token.is_some())
            .field("node_id", &self.node_id)
            .field("kinds", &self.kinds)
            .field("on_demand", &self.on_demand)
            .finish_non_exhaustive()
    }
}

fn structure(map: &Map<String, Json>) -> Struct {
    Struct {
        fields: map.iter().map(|(name, json)| (name.clone(), protobuf(json))).collect::<BTreeMap<_, _>>(),
    }
}

fn protobuf(json: &Json) -> Value {
    let kind = match json {
        Json::Null => value::Kind::NullValue(0),
        Json::Bool(flag) => value::Kind::BoolValue(*flag),
        Json::Number(number) => value::Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => value::Kind::StringValue(text.clone()),
        Json::Array(list) => {
            value::Kind::ListValue(ListValue { values: list.iter().map(protobuf).collect() })
        }
        Json::Object(map) => value::Kind::StructValue(structure(map)),
    };
    Value { kind: Some(kind) }
}
