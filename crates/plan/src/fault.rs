// SPDX-License-Identifier: Apache-2.0
//! What can become of a request that gets no answer from a server: one list, and one mapping of it to the status, the
//! response flag (Envoy's), the status of gRPC, and whether another attempt may do better.

use std::{fmt, time::Duration};

use crate::failure::{Failure, Retry, What};

/// A request that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The way to an endpoint failed; nothing of the request was sent.
    Unreached(Failure),
    /// The server ended the connection, or the stream, before it had answered.
    Reset(String),
    /// The same, of a connection that had carried others before and broke before anything of the answer came: most likely its
    /// server had given it up just then (RFC 9112 §9.3.1).
    Rested(String),
    /// The server answered with what is no HTTP.
    Protocol(String),
    /// The route's time was over before the answer began.
    TimedOut(Duration),
    /// The client sent what cannot be passed on.
    Malformed(&'static str),
    /// The client does not send the rest of what it has begun.
    Stalled(Duration),
    /// The client left before the answer.
    Cancelled,
    /// The header is longer than is accepted.
    HeaderTooLarge,
    /// No rule matches.
    NoRoute,
    /// The rule that matches leads nowhere.
    NoBackend,
    /// A filter of the rule makes what is no request.
    Unfit(String),
    /// A policy refuses it: its name.
    Denied(String),
    /// It carries no proof of who sends it, or one that does not hold.
    Unauthenticated(&'static str),
    /// A fault that somebody asked for.
    Injected(u16),
    /// A bound of this proxy is reached.
    Overloaded(&'static str),
    /// What is asked for cannot be carried to this server.
    Unsupported(&'static str),
}

/// What a fault means to everyone who has to react to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// Status of the answer.
    pub status: u16,
    /// Value of the label `response_flags`.
    pub flag: &'static str,
    /// `grpc-status` of the answer to a call.
    pub grpc: u8,
    /// Whether the request may be sent again, as nothing of it has reached a server.
    pub unsent: bool,
}

/// Codes of gRPC.
mod grpc {
    pub(super) const CANCELLED: u8 = 1;
    pub(super) const DEADLINE_EXCEEDED: u8 = 4;
    pub(super) const PERMISSION_DENIED: u8 = 7;
    pub(super) const RESOURCE_EXHAUSTED: u8 = 8;
    pub(super) const UNIMPLEMENTED: u8 = 12;
    pub(super) const INTERNAL: u8 = 13;
    pub(super) const UNAVAILABLE: u8 = 14;
    pub(super) const UNAUTHENTICATED: u8 = 16;
}

impl Fault {
    /// The one place where faults are told apart.
    pub fn meaning(&self) -> Meaning {
        let (status, flag, grpc) = match self {
            Self::Unreached(failure) => (503, unreached(&failure.what), grpc::UNAVAILABLE),
            Self::Reset(_) | Self::Rested(_) => (503, "UC", grpc::UNAVAILABLE),
            Self::Protocol(_) => (502, "UPE", grpc::UNAVAILABLE),
            Self::TimedOut(_) => (504, "UT", grpc::DEADLINE_EXCEEDED),
            Self::Malformed(_) => (400, "DPE", grpc::INTERNAL),
            Self::Stalled(_) => (408, "DT", grpc::DEADLINE_EXCEEDED),
            Self::Cancelled => (499, "DC", grpc::CANCELLED),
            Self::HeaderTooLarge => (431, "DPE", grpc::RESOURCE_EXHAUSTED),
            Self::NoRoute => (404, "NR", grpc::UNIMPLEMENTED),
            Self::NoBackend => (500, "NC", grpc::UNAVAILABLE),
            Self::Unfit(_) => (500, "NC", grpc::INTERNAL),
            Self::Denied(_) => (403, "UAEX", grpc::PERMISSION_DENIED),
            Self::Unauthenticated(_) => (401, "UAEX", grpc::UNAUTHENTICATED),
            Self::Injected(status) => (*status, "FI", of_status(*status)),
            Self::Overloaded(_) => (503, "UO", grpc::UNAVAILABLE),
            Self::Unsupported(_) => (501, "UPE", grpc::UNIMPLEMENTED),
        };
        let unsent = matches!(self, Self::Unreached(failure) if failure.retry == Retry::Elsewhere);
        Meaning { status, flag, grpc, unsent }
    }

    /// Why the answer is what it is, in Envoy's words.
    pub fn details(&self) -> &'static str {
        match self {
            Self::Unreached(failure) => match unreached(&failure.what) {
                "UH" => "no_healthy_upstream",
                "NR" => "route_not_found",
                "UO" => "upstream_reset_before_response_started{overflow}",
                _ => "upstream_reset_before_response_started{connection_failure}",
            },
            Self::Reset(_) | Self::Rested(_) => {
                "upstream_reset_before_response_started{connection_termination}"
            }
            Self::Protocol(_) => "upstream_reset_before_response_started{protocol_error}",
            Self::TimedOut(_) => "response_timeout",
            Self::Malformed(_) => "codec_error",
            Self::Stalled(_) => "request_overall_timeout",
            Self::Cancelled => "downstream_remote_disconnect",
            Self::HeaderTooLarge => "request_headers_too_large",
            Self::NoRoute => "route_not_found",
            Self::NoBackend | Self::Unfit(_) => "cluster_not_found",
            Self::Denied(_) => "rbac_access_denied",
            Self::Unauthenticated(_) => "jwt_authn_access_denied",
            Self::Injected(_) => "fault_filter_abort",
            Self::Overloaded(_) => "overload",
            Self::Unsupported(_) => "upgrade_failed",
        }
    }
}

/// No endpoint, or no way to it.
fn unreached(what: &What) -> &'static str {
    match what {
        What::NoHealthyUpstream(_) | What::Unresolved(_) | What::NoService => "UH",
        What::NoRoute(_) | What::UnknownWaypoint(_) | What::NotServed(_) => "NR",
        What::Exhausted(_) => "UO",
        What::NotSynced
        | What::UnknownWorkload(_)
        | What::PolicyMissing(_)
        | What::Denied(_)
        | What::NotAllowed(_)
        | What::PolicyChanged(_)
        | What::Recursive(_)
        | What::UnsupportedProtocol(_)
        | What::NotConnect(_)
        | What::InvalidAuthority(_)
        | What::IpMismatch { .. }
        | What::ConnectFailed { .. }
        | What::ConnectTimeout(_)
        | What::TunnelTimeout { .. }
        | What::Tls(_)
        | What::UnexpectedPeer { .. }
        | What::Http2(_)
        | What::Identity(_)
        | What::Revoked
        | What::Status(_)
        | What::PeerDraining
        | What::Moved(_)
        | What::Drained
        | What::Io(_) => "UF",
    }
}

/// The code that gRPC has for an HTTP status (its `http-grpc-status-mapping`).
pub fn of_status(status: u16) -> u8 {
    match status {
        400 => grpc::INTERNAL,
        401 => grpc::UNAUTHENTICATED,
        403 => grpc::PERMISSION_DENIED,
        404 => grpc::UNIMPLEMENTED,
        429 | 502..=504 => grpc::UNAVAILABLE,
        _ => 2,
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Unreached(failure)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreached(failure) => failure.fmt(f),
            Self::Reset(cause) | Self::Rested(cause) => write!(f, "reset before the answer: {cause}"),
            Self::Protocol(cause) => write!(f, "the answer is no HTTP: {cause}"),
            Self::TimedOut(after) => write!(f, "no answer within {after:?}"),
            Self::Malformed(reason) => write!(f, "malformed request: {reason}"),
            Self::Stalled(after) => write!(f, "the client sent nothing for {after:?}"),
            Self::Cancelled => f.write_str("the client left before the answer"),
            Self::HeaderTooLarge => f.write_str("the header is too large"),
            Self::NoRoute => f.write_str("no route matches"),
            Self::NoBackend => f.write_str("the route has no backend"),
            Self::Unfit(reason) => f.write_str(reason),
            Self::Denied(policy) => write!(f, "denied by {policy}"),
            Self::Unauthenticated(reason) => write!(f, "not authenticated: {reason}"),
            Self::Injected(status) => write!(f, "fault injected: {status}"),
            Self::Overloaded(bound) => write!(f, "too much at once: {bound}"),
            Self::Unsupported(what) => write!(f, "cannot be carried: {what}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_map_to_status_flag_and_code() {
        let address = "10.0.0.1:80".parse().unwrap();
        let unreached = |what: What| Fault::from(Failure::from(what));
        let cases = [
            (unreached(What::NoHealthyUpstream(address)), 503, "UH", 14, false),
            (unreached(What::ConnectTimeout(address)), 503, "UF", 14, true),
            (unreached(What::Identity("none".to_owned())), 503, "UF", 14, false),
            (Fault::Reset("reset".to_owned()), 503, "UC", 14, false),
            (Fault::Rested("reset".to_owned()), 503, "UC", 14, false),
            (Fault::TimedOut(Duration::from_secs(1)), 504, "UT", 4, false),
            (Fault::Malformed("two lengths"), 400, "DPE", 13, false),
            (Fault::NoRoute, 404, "NR", 12, false),
            (Fault::Denied("a/b".to_owned()), 403, "UAEX", 7, false),
            (Fault::Injected(418), 418, "FI", 2, false),
            (Fault::Overloaded("requests"), 503, "UO", 14, false),
        ];
        for (fault, status, flag, grpc, unsent) in cases {
            assert_eq!(fault.meaning(), Meaning { status, flag, grpc, unsent }, "{fault}");
            assert!(!fault.details().is_empty() && !fault.details().contains(' '), "{fault}");
        }
    }
}
