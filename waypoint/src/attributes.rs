// SPDX-License-Identifier: Apache-2.0
//! What expressions of Telemetry objects learn of a request or a connection that has ended.

use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http::{
    HeaderMap, HeaderName, Version,
    header::{REFERER, USER_AGENT},
};
use mesh::{
    SpiffeId,
    expression::{Attribute, Facts, Side, Value},
};

use crate::{exchange::Exchange, metrics::Labels};

/// Flags in the order of the bits that Envoy has for them.
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

/// A request with its answer.
#[derive(Debug)]
pub struct Request<'a> {
    exchange: &'a Exchange,
    status: u16,
    grpc: Option<i64>,
    flag: &'static str,
    took: Duration,
}

/// The ends of a connection, whatever it carries.
#[derive(Clone, Copy, Debug)]
pub struct Connection<'a> {
    /// The client's address.
    pub peer: SocketAddr,
    /// What it asked for.
    pub asked: SocketAddr,
    /// The server's address.
    pub server: Option<SocketAddr>,
    /// The identity that the client has proven.
    pub identity: &'a SpiffeId,
    /// Who this waypoint is.
    pub own: &'a SpiffeId,
    /// Why there is no server.
    pub flag: &'static str,
}

impl<'a> Request<'a> {
    /// One that has ended.
    pub fn new(exchange: &'a Exchange, labels: &Labels, took: Duration) -> Self {
        Self {
            exchange,
            status: labels.status.unwrap_or_default(),
            grpc: labels.grpc.as_deref().and_then(|status| status.parse().ok()),
            flag: labels.flag,
            took,
        }
    }

    fn connection(&self) -> Connection<'a> {
        let Exchange { link, asked, address, .. } = self.exchange;
        Connection {
            peer: link.peer,
            asked: *asked,
            server: *address,
            identity: &link.identity,
            own: &link.own,
            flag: self.flag,
        }
    }

    fn headers(&self, side: Side) -> Option<&'a HeaderMap> {
        let trail = &self.exchange.trail;
        match side {
            Side::Request => trail.headers.as_deref(),
            Side::Response => trail.answer.as_deref(),
        }
    }

    /// Bytes of a body and of the headers before it.
    fn total(&self, side: Side, body: u64) -> Option<Value<'a>> {
        let fields = self.headers(side)?.iter().map(|(name, value)| name.as_str().len() + value.len());
        size(body.saturating_add(u64::try_from(fields.sum::<usize>()).ok()?))
    }

    /// Why the answer is what it is, in Envoy's words.
    fn details(&self) -> &'static str {
        match &self.exchange.fault {
            Some(fault) => fault.details(),
            None if self.exchange.attempts == 0 => "direct_response",
            None => "via_upstream",
        }
    }
}

impl Facts for Request<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        let exchange = self.exchange;
        let path = exchange.path.as_str();
        let (url_path, query) = path.split_once('?').unwrap_or((path, ""));
        match attribute {
            Attribute::Path => text(path),
            Attribute::UrlPath => text(url_path),
            Attribute::Query => text(query),
            Attribute::Host => text(&exchange.host),
            // Inside a tunnel there is no other.
            Attribute::Scheme => text("http"),
            Attribute::Method => text(exchange.method.as_str()),
            Attribute::Protocol => text(version(exchange.version)),
            Attribute::Referer => self.header(Side::Request, &REFERER).map(Value::Text),
            Attribute::UserAgent => self.header(Side::Request, &USER_AGENT).map(Value::Text),
            Attribute::RequestId => text(exchange.trail.number.as_ref()?.to_str().ok()?),
            Attribute::RequestTime => {
                let began = SystemTime::now().checked_sub(self.took)?;
                nanoseconds(began.duration_since(UNIX_EPOCH).ok()?).map(Value::Time)
            }
            Attribute::RequestDuration => nanoseconds(self.took).map(Value::Duration),
            Attribute::RequestSize => size(exchange.request.bytes()),
            Attribute::RequestTotalSize => self.total(Side::Request, exchange.request.bytes()),
            Attribute::Code => Some(Value::Int(self.status.into())),
            Attribute::CodeDetails => text(self.details()),
            Attribute::GrpcStatus => self.grpc.map(Value::Int),
            Attribute::ResponseSize => size(exchange.response.bytes()),
            Attribute::ResponseTotalSize => self.total(Side::Response, exchange.response.bytes()),
            Attribute::Flags
            | Attribute::SourceAddress
            | Attribute::SourcePort
            | Attribute::DestinationAddress
            | Attribute::DestinationPort
            | Attribute::UpstreamAddress
            | Attribute::UpstreamPort
            | Attribute::MutualTls
            | Attribute::PeerIdentity
            | Attribute::OwnIdentity => self.connection().fact(attribute),
        }
    }

    fn header(&self, side: Side, name: &HeaderName) -> Option<Cow<'_, str>> {
        let mut values = self.headers(side)?.get_all(name).iter();
        let first = String::from_utf8_lossy(values.next()?.as_bytes());
        Some(values.fold(first, |text, value| {
            let mut text = text.into_owned();
            text.push(',');
            text.push_str(&String::from_utf8_lossy(value.as_bytes()));
            Cow::Owned(text)
        }))
    }
}

impl Connection<'_> {
    fn fact(&self, attribute: Attribute) -> Option<Value<'static>> {
        let written = |value: &dyn std::fmt::Display| Some(Value::Text(Cow::Owned(value.to_string())));
        match attribute {
            Attribute::Flags => Some(Value::Int(bits(self.flag))),
            Attribute::SourceAddress => written(&self.peer),
            Attribute::SourcePort => Some(Value::Int(self.peer.port().into())),
            Attribute::DestinationAddress => written(&self.asked),
            Attribute::DestinationPort => Some(Value::Int(self.asked.port().into())),
            Attribute::UpstreamAddress => written(&self.server?),
            Attribute::UpstreamPort => Some(Value::Int(self.server?.port().into())),
            // A client is let in by mutual TLS only.
            Attribute::MutualTls => Some(Value::Bool(true)),
            Attribute::PeerIdentity => written(self.identity),
            Attribute::OwnIdentity => written(self.own),
            Attribute::Path
            | Attribute::UrlPath
            | Attribute::Query
            | Attribute::Host
            | Attribute::Scheme
            | Attribute::Method
            | Attribute::Protocol
            | Attribute::Referer
            | Attribute::UserAgent
            | Attribute::RequestId
            | Attribute::RequestTime
            | Attribute::RequestDuration
            | Attribute::RequestSize
            | Attribute::RequestTotalSize
            | Attribute::Code
            | Attribute::CodeDetails
            | Attribute::GrpcStatus
            | Attribute::ResponseSize
            | Attribute::ResponseTotalSize => None,
        }
    }
}

impl Facts for Connection<'_> {
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>> {
        self.fact(attribute)
    }

    fn header(&self, _side: Side, _name: &HeaderName) -> Option<Cow<'_, str>> {
        None
    }
}

fn text(text: &str) -> Option<Value<'_>> {
    Some(Value::Text(Cow::Borrowed(text)))
}

fn size(bytes: u64) -> Option<Value<'static>> {
    i64::try_from(bytes).ok().map(Value::Int)
}

fn nanoseconds(time: Duration) -> Option<i64> {
    i64::try_from(time.as_nanos()).ok()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

fn bits(flag: &str) -> i64 {
    FLAGS.iter().position(|known| *known == flag).map_or(0, |bit| 1 << bit)
}

#[cfg(test)]
mod tests;
