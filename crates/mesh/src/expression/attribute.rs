// SPDX-License-Identifier: Apache-2.0
//! What an expression may ask about, under the names that Envoy has for it.

use std::borrow::Cow;

use http::HeaderName;

use super::{
    Uses,
    value::{Kind, Value},
};

/// Something that a request or connection has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// Path and query.
    Path,
    /// Path without the query.
    UrlPath,
    /// What follows the question mark.
    Query,
    /// `Host` or `:authority`.
    Host,
    /// `http` or `https`.
    Scheme,
    /// Method.
    Method,
    /// Version of HTTP.
    Protocol,
    /// `referer`.
    Referer,
    /// `user-agent`.
    UserAgent,
    /// `x-request-id`.
    RequestId,
    /// When it came.
    RequestTime,
    /// How long it took.
    RequestDuration,
    /// Bytes of its body.
    RequestSize,
    /// Bytes of its body and headers.
    RequestTotalSize,
    /// Status of the answer.
    Code,
    /// Why the answer is what it is.
    CodeDetails,
    /// Why there is no answer of a server, as a set of bits.
    Flags,
    /// Status of gRPC.
    GrpcStatus,
    /// Bytes of the answer's body.
    ResponseSize,
    /// Bytes of the answer's body and headers.
    ResponseTotalSize,
    /// The client's address and port.
    SourceAddress,
    /// The client's port.
    SourcePort,
    /// Address and port that were asked for.
    DestinationAddress,
    /// The port that was asked for.
    DestinationPort,
    /// Address and port of the server.
    UpstreamAddress,
    /// The server's port.
    UpstreamPort,
    /// Whether the client has proven who it is.
    MutualTls,
    /// The client's identity.
    PeerIdentity,
    /// The identity of this proxy.
    OwnIdentity,
}

/// Whose headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Those of the request.
    Request,
    /// Those of the answer.
    Response,
}

/// What is known of a request or connection.
pub trait Facts {
    /// Of the attribute's kind; nothing where there is none.
    fn attribute(&self, attribute: Attribute) -> Option<Value<'_>>;

    /// A header; several of one name are joined by commas.
    fn header(&self, side: Side, name: &HeaderName) -> Option<Cow<'_, str>>;
}

const NAMES: [(&str, Attribute, Kind); 29] = [
    ("request.path", Attribute::Path, Kind::Text),
    ("request.url_path", Attribute::UrlPath, Kind::Text),
    ("request.query", Attribute::Query, Kind::Text),
    ("request.host", Attribute::Host, Kind::Text),
    ("request.scheme", Attribute::Scheme, Kind::Text),
    ("request.method", Attribute::Method, Kind::Text),
    ("request.protocol", Attribute::Protocol, Kind::Text),
    ("request.referer", Attribute::Referer, Kind::Text),
    ("request.useragent", Attribute::UserAgent, Kind::Text),
    ("request.id", Attribute::RequestId, Kind::Text),
    ("request.time", Attribute::RequestTime, Kind::Time),
    ("request.duration", Attribute::RequestDuration, Kind::Duration),
    ("request.size", Attribute::RequestSize, Kind::Int),
    ("request.total_size", Attribute::RequestTotalSize, Kind::Int),
    ("response.code", Attribute::Code, Kind::Int),
    ("response.code_details", Attribute::CodeDetails, Kind::Text),
    ("response.flags", Attribute::Flags, Kind::Int),
    ("response.grpc_status", Attribute::GrpcStatus, Kind::Int),
    ("response.size", Attribute::ResponseSize, Kind::Int),
    ("response.total_size", Attribute::ResponseTotalSize, Kind::Int),
    ("source.address", Attribute::SourceAddress, Kind::Text),
    ("source.port", Attribute::SourcePort, Kind::Int),
    ("destination.address", Attribute::DestinationAddress, Kind::Text),
    ("destination.port", Attribute::DestinationPort, Kind::Int),
    ("upstream.address", Attribute::UpstreamAddress, Kind::Text),
    ("upstream.port", Attribute::UpstreamPort, Kind::Int),
    ("connection.mtls", Attribute::MutualTls, Kind::Bool),
    ("connection.uri_san_peer_certificate", Attribute::PeerIdentity, Kind::Text),
    ("connection.uri_san_local_certificate", Attribute::OwnIdentity, Kind::Text),
];

/// Headers that are none in HTTP/1, and attributes in any version.
const PSEUDO: [(Side, &str, Attribute); 6] = [
    (Side::Request, ":authority", Attribute::Host),
    (Side::Request, "host", Attribute::Host),
    (Side::Request, ":method", Attribute::Method),
    (Side::Request, ":path", Attribute::Path),
    (Side::Request, ":scheme", Attribute::Scheme),
    (Side::Response, ":status", Attribute::Code),
];

impl Attribute {
    /// The one of a name, with its kind.
    pub(super) fn named(name: &str) -> Option<(Self, Kind)> {
        NAMES.iter().find(|(known, ..)| *known == name).map(|(_, attribute, kind)| (*attribute, *kind))
    }

    /// The one that stands for a header.
    pub(super) fn for_header(side: Side, name: &str) -> Option<(Self, Kind)> {
        let stands = PSEUDO.iter().find(|(of, known, _)| *of == side && *known == name);
        let (_, _, attribute) = stands?;
        NAMES.iter().find(|(_, known, _)| known == attribute).map(|(_, known, kind)| (*known, *kind))
    }

    /// What must be kept for it.
    pub(super) fn uses(self) -> Uses {
        let of_request = matches!(self, Self::Referer | Self::UserAgent | Self::RequestTotalSize);
        Uses { request_headers: of_request, response_headers: self == Self::ResponseTotalSize }
    }
}

impl Side {
    /// The one whose headers have a name.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "request.headers" => Some(Self::Request),
            "response.headers" => Some(Self::Response),
            _ => None,
        }
    }

    /// What must be kept for its headers.
    pub(super) fn uses(self) -> Uses {
        Uses { request_headers: self == Self::Request, response_headers: self == Self::Response }
    }
}
