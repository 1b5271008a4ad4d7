// SPDX-License-Identifier: Apache-2.0
//! The attributes that a `when` of an `AuthorizationPolicy` may name.

/// What an attribute is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attribute {
    SourceIp,
    SourceNamespace,
    SourcePrincipal,
    DestinationIp,
    DestinationPort,
    /// Of a request, or otherwise not visible to a node proxy.
    Http,
}

/// For messages.
pub(in crate::translate) const KNOWN: [&str; 15] = [
    "source.ip",
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "destination.ip",
    "destination.port",
    "remote.ip",
    "connection.sni",
    "request.headers[<name>]",
    "request.auth.principal",
    "request.auth.audiences",
    "request.auth.presenter",
    "request.auth.claims[<name>]",
    "source.trustDomain",
    "experimental.envoy.filters.<name>",
];

impl Attribute {
    /// The attribute of a key, if it is one.
    pub(super) fn of(key: &str) -> Option<Self> {
        Some(match key {
            "source.ip" => Self::SourceIp,
            "source.namespace" => Self::SourceNamespace,
            "source.principal" => Self::SourcePrincipal,
            "destination.ip" => Self::DestinationIp,
            "destination.port" => Self::DestinationPort,
            "remote.ip" | "connection.sni" | "source.trustDomain" | "source.serviceAccount" => Self::Http,
            "request.auth.principal" | "request.auth.audiences" | "request.auth.presenter" => Self::Http,
            _ if key.starts_with("request.headers[") && key.ends_with(']') => Self::Http,
            _ if key.starts_with("request.auth.claims[") && key.ends_with(']') => Self::Http,
            _ if key.starts_with("experimental.envoy.filters.") => Self::Http,
            _ => return None,
        })
    }
}
