// SPDX-License-Identifier: Apache-2.0
//! What can become of a flow that fails: one list, and one mapping of it to the response flag, the HTTP status, whose
//! fault it was, whether another endpoint may do better, and the words of the log.

use std::{fmt, net::IpAddr, net::SocketAddr};

use mesh::{Hostname, PolicyName, SpiffeId, WorkloadKey};

/// A flow that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct Failure {
    /// What happened.
    pub what: What,
    /// Whose doing it was.
    pub whose: Whose,
    /// Whether to try again, as long as no payload has been delivered.
    pub retry: Retry,
}

impl From<What> for Failure {
    fn from(what: What) -> Self {
        let Meaning { whose, retry, .. } = what.meaning();
        Self { what, whose, retry }
    }
}

impl Failure {
    /// Value of the metric label `response_flags`.
    pub fn flag(&self) -> ResponseFlag {
        self.what.meaning().flag
    }

    /// Status that answers the CONNECT of an inbound tunnel.
    pub fn status(&self) -> u16 {
        self.what.meaning().status
    }
}

/// Whose doing a failure was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// Of the side that opened the flow.
    Source,
    /// Of the side that it was meant for, or of the way there.
    Destination,
    /// Of the mesh itself: configuration, policy, identity.
    Mesh,
}

/// Whether to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It would fail again.
    Never,
    /// Another endpoint may do.
    Elsewhere,
}

/// Value of the metric label `response_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResponseFlag {
    /// Nothing to say.
    None,
    /// Refused by policy.
    Deny,
    /// No connection.
    Connect,
    /// The TLS handshake failed.
    TlsFailure,
    /// The HTTP/2 handshake failed.
    H2HandshakeFailure,
    /// Most likely a `NetworkPolicy` blocks the tunnel's port.
    NetworkPolicy,
    /// No certificate for the workload.
    IdentityError,
    /// The peer's certificate is revoked.
    CertRevoked,
}

impl ResponseFlag {
    /// As in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Deny => "DENY",
            Self::Connect => "CONNECT",
            Self::TlsFailure => "TLS_FAILURE",
            Self::H2HandshakeFailure => "H2_HANDSHAKE_FAILURE",
            Self::NetworkPolicy => "NETWORK_POLICY",
            Self::IdentityError => "IDENTITY_ERROR",
            Self::CertRevoked => "CERT_REVOKED",
        }
    }
}

/// Everything that can happen to a flow. Texts named `cause` are the error chain of the layer below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Discovery has not told everything yet.
    NotSynced,
    /// Discovery does not know the workload that the flow is of.
    UnknownWorkload(WorkloadKey),
    /// The workload names a policy that discovery did not tell.
    PolicyMissing(PolicyName),
    /// A DENY policy matches.
    Denied(PolicyName),
    /// ALLOW policies apply and none matches; the first of them.
    NotAllowed(PolicyName),
    /// An open connection that a policy refuses now.
    PolicyChanged(PolicyName),
    /// The destination would be this proxy.
    Recursive(SocketAddr),
    /// Not TCP.
    UnsupportedProtocol(u8),
    /// A request to a tunnel that is not CONNECT.
    NotConnect(String),
    /// `:authority` is not an address or name with a port.
    InvalidAuthority(String),
    /// The tunnel was asked for an address that is not this workload's.
    IpMismatch {
        /// Address asked for.
        asked: IpAddr,
        /// Address of the workload.
        local: IpAddr,
    },
    /// No such service, or no such port of it.
    NoService,
    /// A waypoint was asked for what it does not serve.
    NotServed(String),
    /// The waypoint is not known or has no endpoint.
    UnknownWaypoint(String),
    /// No endpoint of the service can be used.
    NoHealthyUpstream(SocketAddr),
    /// No way there, for instance another network without a gateway.
    NoRoute(String),
    /// A host name without addresses.
    Unresolved(Hostname),
    /// The TCP connection was not made.
    ConnectFailed {
        /// To where.
        address: SocketAddr,
        /// Why.
        cause: String,
    },
    /// The TCP connection was not made in time.
    ConnectTimeout(SocketAddr),
    /// The connection to the port of tunnels was not made in time.
    TunnelTimeout {
        /// To where.
        address: SocketAddr,
        /// Why.
        cause: String,
    },
    /// The TLS handshake failed.
    Tls(String),
    /// The peer has another identity than expected.
    UnexpectedPeer {
        /// Any of these would do.
        expected: Vec<SpiffeId>,
        /// What its certificate says.
        got: Vec<SpiffeId>,
    },
    /// The HTTP/2 handshake failed.
    Http2(String),
    /// There is no certificate for the workload.
    Identity(String),
    /// The peer's certificate is revoked.
    Revoked,
    /// The peer refused the tunnel with this status.
    Status(u16),
    /// The peer is going away and takes no new streams.
    PeerDraining,
    /// The address belongs to another identity now.
    Moved(SocketAddr),
    /// This proxy is going away and the deadline has passed, or the pod is gone.
    Drained,
    /// A budget of the pod is used up.
    Exhausted(&'static str),
    /// The stream broke while open.
    Io(String),
}

/// What a failure means to everyone who has to react to it.
struct Meaning {
    flag: ResponseFlag,
    /// Of the answer to a CONNECT; 401 for policy, as ambient proxies do.
    status: u16,
    whose: Whose,
    retry: Retry,
}

impl What {
    /// The one place where failures are told apart.
    fn meaning(&self) -> Meaning {
        use Retry::{Elsewhere, Never};
        use Whose::{Destination, Mesh, Source};
        let (flag, status, whose, retry) = match self {
            Self::NotSynced | Self::UnknownWorkload(_) => (ResponseFlag::Connect, 503, Mesh, Never),
            Self::PolicyMissing(_) => (ResponseFlag::Deny, 503, Mesh, Never),
            Self::Denied(_) | Self::NotAllowed(_) | Self::PolicyChanged(_) => {
                (ResponseFlag::Deny, 401, Source, Never)
            }
            Self::Recursive(_) | Self::NoService => (ResponseFlag::Connect, 503, Source, Never),
            Self::UnsupportedProtocol(_)
            | Self::NotConnect(_)
            | Self::InvalidAuthority(_)
            | Self::IpMismatch { .. } => (ResponseFlag::Connect, 400, Source, Never),
            Self::NotServed(_) => (ResponseFlag::Connect, 404, Source, Never),
            Self::UnknownWaypoint(_) | Self::NoRoute(_) => (ResponseFlag::Connect, 503, Mesh, Never),
            Self::NoHealthyUpstream(_) | Self::Unresolved(_) => {
                (ResponseFlag::Connect, 503, Destination, Never)
            }
            Self::ConnectFailed { .. } | Self::ConnectTimeout(_) | Self::PeerDraining | Self::Moved(_) => {
                (ResponseFlag::Connect, 503, Destination, Elsewhere)
            }
            Self::TunnelTimeout { .. } => (ResponseFlag::NetworkPolicy, 503, Destination, Elsewhere),
            Self::Tls(_) | Self::UnexpectedPeer { .. } => {
                (ResponseFlag::TlsFailure, 503, Destination, Elsewhere)
            }
            Self::Http2(_) => (ResponseFlag::H2HandshakeFailure, 503, Destination, Elsewhere),
            Self::Revoked => (ResponseFlag::CertRevoked, 503, Destination, Elsewhere),
            Self::Identity(_) => (ResponseFlag::IdentityError, 503, Mesh, Never),
            Self::Status(401) => (ResponseFlag::Deny, 503, Source, Never),
            Self::Status(_) => (ResponseFlag::Connect, 503, Destination, Elsewhere),
            Self::Drained => (ResponseFlag::None, 503, Mesh, Never),
            Self::Exhausted(_) => (ResponseFlag::Connect, 503, Mesh, Never),
            Self::Io(_) => (ResponseFlag::None, 503, Destination, Never),
        };
        Meaning { flag, status, whose, retry }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const REJECTION: &str = "connection closed due to policy rejection";
        match self {
            Self::NotSynced => f.write_str("discovery has not synced yet"),
            Self::UnknownWorkload(key) => write!(f, "unknown local workload: {key}"),
            Self::PolicyMissing(policy) => write!(f, "{REJECTION}: policy not known yet: {policy}"),
            Self::Denied(policy) => write!(f, "{REJECTION}: explicitly denied by: {policy}"),
            Self::NotAllowed(_) => write!(f, "{REJECTION}: allow policies exist, but none allowed"),
            Self::PolicyChanged(policy) => write!(f, "connection closed due to policy change: {policy}"),
            Self::Recursive(address) => write!(f, "attempted recursive call to ourselves: {address}"),
            Self::UnsupportedProtocol(protocol) => write!(f, "unsupported protocol: {protocol}"),
            Self::NotConnect(method) => write!(f, "unsupported method: {method}"),
            Self::InvalidAuthority(authority) => write!(f, "invalid authority: {authority:?}"),
            Self::IpMismatch { asked, local } => write!(f, "ip mismatch: {asked} != {local}"),
            Self::NoService => f.write_str("no service for target address"),
            Self::NotServed(asked) => write!(f, "not served by this waypoint: {asked}"),
            Self::UnknownWaypoint(waypoint) => write!(f, "unknown waypoint: {waypoint}"),
            Self::NoHealthyUpstream(address) => write!(f, "no healthy upstream: {address}"),
            Self::NoRoute(cause) => write!(f, "no valid routing destination: {cause}"),
            Self::Unresolved(hostname) => write!(f, "no address for host name: {hostname}"),
            Self::ConnectFailed { address, cause } => write!(f, "connection failed: {address}: {cause}"),
            Self::ConnectTimeout(address) => write!(f, "connection timed out: {address}"),
            Self::TunnelTimeout { address, cause } => write!(
                f,
                "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: {address}: {cause}"
            ),
            Self::Tls(cause) => write!(f, "tls handshake failed: {cause}"),
            Self::UnexpectedPeer { expected, got } => {
                write!(f, "peer did not present the expected SAN ({}), got {}", listed(expected), listed(got))
            }
            Self::Http2(cause) => write!(f, "http2 handshake failed: {cause}"),
            Self::Identity(cause) => write!(f, "identity error: {cause}"),
            Self::Revoked => f.write_str("the certificate of the peer is revoked"),
            Self::Status(status) => write!(f, "http status: {status}{}", reason(*status)),
            Self::PeerDraining => f.write_str("the peer is draining"),
            Self::Moved(address) => write!(f, "the address belongs to another identity now: {address}"),
            Self::Drained => f.write_str("connection closed due to connection drain"),
            Self::Exhausted(budget) => write!(f, "budget of the pod exhausted: {budget}"),
            Self::Io(cause) => write!(f, "io error: {cause}"),
        }
    }
}

fn listed(identities: &[SpiffeId]) -> String {
    match identities {
        [] => "none".to_owned(),
        some => some.iter().map(SpiffeId::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Reason phrase with a space in front (RFC 9110 §15): of the statuses that tunnels end with.
fn reason(status: u16) -> &'static str {
    match status {
        400 => " Bad Request",
        401 => " Unauthorized",
        403 => " Forbidden",
        404 => " Not Found",
        405 => " Method Not Allowed",
        408 => " Request Timeout",
        421 => " Misdirected Request",
        429 => " Too Many Requests",
        500 => " Internal Server Error",
        502 => " Bad Gateway",
        503 => " Service Unavailable",
        504 => " Gateway Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> PolicyName {
        "shop/deny-all".parse().unwrap()
    }

    fn address() -> SocketAddr {
        "10.0.0.1:15008".parse().unwrap()
    }

    #[test]
    fn failures_say_what_people_search_for() {
        let id = |account: &str| -> SpiffeId { format!("spiffe://td/ns/a/sa/{account}").parse().unwrap() };
        let cases = [
            (
                What::NotAllowed(policy()),
                "connection closed due to policy rejection: allow policies exist, but none allowed",
            ),
            (
                What::Denied(policy()),
                "connection closed due to policy rejection: explicitly denied by: shop/deny-all",
            ),
            (
                What::TunnelTimeout { address: address(), cause: "deadline has elapsed".to_owned() },
                "connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008: 10.0.0.1:15008: deadline has elapsed",
            ),
            (What::Status(401), "http status: 401 Unauthorized"),
            (What::Status(503), "http status: 503 Service Unavailable"),
            (What::Status(499), "http status: 499"),
            (
                What::UnknownWaypoint("shop/waypoint.example".to_owned()),
                "unknown waypoint: shop/waypoint.example",
            ),
            (What::NoHealthyUpstream("10.1.0.1:80".parse().unwrap()), "no healthy upstream: 10.1.0.1:80"),
            (What::NoService, "no service for target address"),
            (What::Drained, "connection closed due to connection drain"),
            (
                What::IpMismatch { asked: "10.0.0.1".parse().unwrap(), local: "10.0.0.2".parse().unwrap() },
                "ip mismatch: 10.0.0.1 != 10.0.0.2",
            ),
            (What::Identity("no certificate".to_owned()), "identity error: no certificate"),
            (
                What::UnexpectedPeer { expected: vec![id("x"), id("y")], got: vec![id("z")] },
                "peer did not present the expected SAN (spiffe://td/ns/a/sa/x, spiffe://td/ns/a/sa/y), got spiffe://td/ns/a/sa/z",
            ),
        ];
        for (what, text) in cases {
            assert_eq!(Failure::from(what).to_string(), text);
        }
        let changed = What::PolicyChanged(policy()).to_string();
        assert!(changed.starts_with("connection closed due to policy change"), "{changed}");
    }

    #[test]
    fn failures_map_to_flag_status_and_retry() {
        use ResponseFlag as Flag;
        let cases = [
            (What::Denied(policy()), Flag::Deny, 401, Retry::Never),
            (What::NotAllowed(policy()), Flag::Deny, 401, Retry::Never),
            (What::PolicyMissing(policy()), Flag::Deny, 503, Retry::Never),
            (What::InvalidAuthority("x".to_owned()), Flag::Connect, 400, Retry::Never),
            (What::NotConnect("GET".to_owned()), Flag::Connect, 400, Retry::Never),
            (What::NoService, Flag::Connect, 503, Retry::Never),
            (What::ConnectTimeout(address()), Flag::Connect, 503, Retry::Elsewhere),
            (What::Tls("alert".to_owned()), Flag::TlsFailure, 503, Retry::Elsewhere),
            (What::Http2("preface".to_owned()), Flag::H2HandshakeFailure, 503, Retry::Elsewhere),
            (What::Identity("none".to_owned()), Flag::IdentityError, 503, Retry::Never),
            (What::Revoked, Flag::CertRevoked, 503, Retry::Elsewhere),
            (What::Status(401), Flag::Deny, 503, Retry::Never),
            (What::Status(503), Flag::Connect, 503, Retry::Elsewhere),
            (What::PeerDraining, Flag::Connect, 503, Retry::Elsewhere),
            (What::Drained, Flag::None, 503, Retry::Never),
        ];
        for (what, flag, status, retry) in cases {
            let failure = Failure::from(what);
            assert_eq!((failure.flag(), failure.status(), failure.retry), (flag, status, retry), "{failure}");
        }
    }

    #[test]
    fn flags_are_those_of_the_dashboards() {
        use ResponseFlag::*;
        let all =
            [None, Deny, Connect, TlsFailure, H2HandshakeFailure, NetworkPolicy, IdentityError, CertRevoked];
        let texts = all.map(ResponseFlag::as_str);
        assert_eq!(
            texts,
            [
                "-",
                "DENY",
                "CONNECT",
                "TLS_FAILURE",
                "H2_HANDSHAKE_FAILURE",
                "NETWORK_POLICY",
                "IDENTITY_ERROR",
                "CERT_REVOKED"
            ]
        );
    }
}
