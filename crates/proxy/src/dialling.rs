// SPDX-License-Identifier: Apache-2.0
//! What a tunnel is told when it is opened, and what a dial that failed means, in the mesh's own words.

use std::{io, net::SocketAddr};

use hbone::{Head, HeaderMap, HeaderValue, OpenError};
use identity::{HandshakeError, Unavailable, tls::PeerRejected};
use plan::{Failure, What, baggage, forwarded, outbound::Hop, trace};

use crate::chain;

/// Header of the inner CONNECT that names the network it comes from.
const FORWARDED_NETWORK: &str = "x-forwarded-network";

/// What the far ends are told of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The application's end of it.
    pub source: SocketAddr,
    /// Its number in the logs of both proxies.
    pub trace: u128,
}

/// Why a tunnel's connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No certificate to show.
    #[error(transparent)]
    Identity(#[from] Unavailable),
    /// No TCP connection.
    #[error("cannot connect to {address}")]
    Tcp {
        /// To where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No TLS, or the wrong peer.
    #[error(transparent)]
    Tls(#[from] HandshakeError),
    /// No configuration for it.
    #[error(transparent)]
    Config(#[from] identity::tls::TlsError),
}

/// The head of a tunnel's CONNECT; `network` is where an inner one comes from.
///
/// # Errors
/// When the authority is none.
pub fn head(hop: &Hop, authority: &str, origin: Origin, network: Option<&str>) -> Result<Head, Failure> {
    let service = hop.service.as_deref().map(|service| &service.hostname);
    let mut headers = HeaderMap::with_capacity(4);
    let mut add = |name: &'static str, value: &str| {
        // What a header cannot carry is left out: it is telemetry.
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    add("baggage", &baggage::header(&hop.source));
    add("forwarded", &forwarded::header(origin.source, service));
    add("traceparent", &trace::header(origin.trace, rand::random()));
    if let Some(network) = network {
        add(FORWARDED_NETWORK, network);
    }
    Head::new(authority, headers).map_err(|_invalid| What::InvalidAuthority(authority.to_owned()).into())
}

/// A header's text.
pub fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// What a TCP connection that was not made means.
pub fn tcp_failure(address: SocketAddr, error: &io::Error) -> What {
    match error.kind() {
        io::ErrorKind::TimedOut => What::ConnectTimeout(address),
        _ => What::ConnectFailed { address, cause: error.to_string() },
    }
}

/// What a tunnel that the pool did not give means.
pub fn open_failure(address: SocketAddr, error: &OpenError<DialError>) -> What {
    match error {
        OpenError::Dial { source } => match &**source {
            DialError::Identity(error) => identity_failure(error),
            DialError::Tcp { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
                What::TunnelTimeout { address, cause: source.to_string() }
            }
            DialError::Tcp { source, .. } => What::ConnectFailed { address, cause: source.to_string() },
            DialError::Tls(error) => tls_failure(error),
            DialError::Config(error) => What::Tls(chain(error).to_string()),
        },
        OpenError::DialTimedOut { after } => {
            What::TunnelTimeout { address, cause: format!("no connection within {after:?}") }
        }
        OpenError::Handshake { source } => What::Http2(chain(&**source).to_string()),
        OpenError::Closed { .. } => What::Moved(address),
        OpenError::Abandoned | OpenError::NoRoom => What::Exhausted("tunnels"),
        OpenError::Connect(error) => connect_failure(address, error),
    }
}

/// What a CONNECT without a tunnel means.
pub fn connect_failure(address: SocketAddr, error: &hbone::ConnectError) -> What {
    match error {
        hbone::ConnectError::Refused { status, .. } => What::Status(status.as_u16()),
        hbone::ConnectError::Unprocessed { .. } => What::PeerDraining,
        hbone::ConnectError::Closed { .. } => What::Moved(address),
        hbone::ConnectError::Lost { .. } | hbone::ConnectError::Silent => {
            What::ConnectFailed { address, cause: chain(error).to_string() }
        }
        hbone::ConnectError::TimedOut { .. } => What::ConnectTimeout(address),
    }
}

/// What an unavailable certificate means for a flow.
pub fn identity_failure(error: &Unavailable) -> What {
    What::Identity(chain(error).to_string())
}

/// What a handshake that failed means.
pub fn tls_failure(error: &HandshakeError) -> What {
    match error {
        HandshakeError::Rejected(PeerRejected::Identity { expected, presented }) => {
            What::UnexpectedPeer { expected: expected.clone(), got: presented.clone() }
        }
        HandshakeError::Rejected(PeerRejected::TrustDomain { .. } | PeerRejected::NoRoots)
        | HandshakeError::Tls(_)
        | HandshakeError::Lost(_)
        | HandshakeError::Protocol
        | HandshakeError::NoIdentity => What::Tls(chain(error).to_string()),
    }
}
