// SPDX-License-Identifier: Apache-2.0
//! Carries out a `Hop`: the certificate, the tunnel from the pool or a plain connection, and what went wrong in the
//! mesh's own words. Where to go was decided before.

use std::{io, net::SocketAddr, sync::Arc};

use hbone::{Head, HeaderMap, HeaderValue, OpenError, Tunnel};
use identity::{HandshakeError, Unavailable, tls::PeerRejected};
use mesh::SpiffeId;
use plan::{
    Failure, What, baggage, forwarded,
    outbound::{Hop, Inner, Transport},
    trace,
};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{
    pod::{Shard, TunnelKey},
    record::chain,
    socket::CONNECT_TIMEOUT,
};

/// Header of the inner CONNECT that names the network it comes from.
const FORWARDED_NETWORK: &str = "x-forwarded-network";

/// What a hop led to.
pub enum Upstream {
    /// Plain TCP.
    Plain(TcpStream),
    /// A tunnel.
    Tunnel(Box<Tunnel>),
    /// A tunnel through the gateway of another network.
    Nested(Box<Tunnel>, Box<Beyond>),
}

/// Who is behind a gateway: one of several that were expected, which the gateway chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beyond {
    /// Its identity, as its certificate proves it.
    pub identity: SpiffeId,
    /// What it says of itself.
    pub baggage: Option<String>,
}

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

/// Carries out a hop on behalf of a pod.
///
/// # Errors
/// Says what went wrong and whether another endpoint may do; nothing was delivered.
pub async fn dial(shard: &Arc<Shard>, hop: &Hop, origin: Origin) -> Result<Upstream, Failure> {
    match &hop.transport {
        Transport::Passthrough(address) | Transport::Plain(address) => {
            match shard.pod.sockets.connect(*address).await {
                Ok(stream) => Ok(Upstream::Plain(stream)),
                Err(error) => Err(tcp_failure(*address, &error).into()),
            }
        }
        Transport::Tunnel(tunnel) => {
            let key = TunnelKey { address: tunnel.address, expected: tunnel.expected.clone() };
            let head = head(hop, &tunnel.authority.to_string(), origin, None)?;
            let (tunnel, _headers) = open(shard, hop.source.identity(), key, &head).await?;
            Ok(Upstream::Tunnel(Box::new(tunnel)))
        }
        Transport::Nested { outer, inner } => {
            let key = TunnelKey { address: outer.address, expected: outer.expected.clone() };
            let outer_head = head(hop, &outer.authority.to_string(), origin, None)?;
            let (tunnel, _headers) = open(shard, hop.source.identity(), key, &outer_head).await?;
            nested(shard, hop, inner, tunnel, origin).await
        }
    }
}

/// The second tunnel, inside the first; it is never shared, so that the gateway can balance.
async fn nested(
    shard: &Arc<Shard>,
    hop: &Hop,
    inner: &Inner,
    outer: Tunnel,
    origin: Origin,
) -> Result<Upstream, Failure> {
    let head = head(hop, &inner.authority.to_string(), origin, Some(&inner.forwarded_network.to_string()))?;
    let address = hop.address();
    let identity = hop.source.identity();
    let certificate =
        shard.pod.node.identities.certificate(&identity).await.map_err(|error| identity_failure(&error))?;
    let config = shard.pod.node.profile.client_config(&certificate, inner.expected.clone());
    let config = config.map_err(|error| What::Tls(chain(&error).to_string()))?;
    let handshake = identity::tls::connect(config, outer);
    let (stream, peer) = match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(tls_failure(&error).into()),
        Err(_elapsed) => return Err(What::ConnectTimeout(address).into()),
    };
    let settings = &shard.pod.node.pool.connection;
    let (connection, driver) =
        hbone::handshake(stream, settings).await.map_err(|error| What::Http2(chain(&error).to_string()))?;
    drop(shard.tasks.spawn("inner tunnel", async move {
        let ended = driver.await;
        tracing::debug!(?ended, "inner tunnel ended");
    }));
    let (tunnel, headers) =
        connection.connect(&head).await.map_err(|error| connect_failure(address, &error))?;
    let beyond = Beyond { identity: peer, baggage: text(&headers, "baggage") };
    Ok(Upstream::Nested(Box::new(tunnel), Box::new(beyond)))
}

async fn open(
    shard: &Arc<Shard>,
    identity: SpiffeId,
    key: TunnelKey,
    head: &Head,
) -> Result<(Tunnel, HeaderMap), Failure> {
    let address = key.address;
    let dialled =
        shard.pool.connect(&key, head, || connect(Arc::clone(shard), identity.clone(), key.clone()));
    dialled.await.map_err(|error| open_failure(address, &error).into())
}

/// A mutual TLS connection to the port of tunnels.
async fn connect(
    shard: Arc<Shard>,
    identity: SpiffeId,
    key: TunnelKey,
) -> Result<TlsStream<TcpStream>, DialError> {
    let TunnelKey { address, expected } = key;
    let certificate = shard.pod.node.identities.certificate(&identity).await?;
    let stream =
        shard.pod.sockets.connect(address).await.map_err(|source| DialError::Tcp { address, source })?;
    let config = shard.pod.node.profile.client_config(&certificate, expected)?;
    let (stream, _peer) = identity::tls::connect(config, stream).await?;
    Ok(stream)
}

fn head(hop: &Hop, authority: &str, origin: Origin, network: Option<&str>) -> Result<Head, Failure> {
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

fn tcp_failure(address: SocketAddr, error: &io::Error) -> What {
    match error.kind() {
        io::ErrorKind::TimedOut => What::ConnectTimeout(address),
        _ => What::ConnectFailed { address, cause: error.to_string() },
    }
}

fn open_failure(address: SocketAddr, error: &OpenError<DialError>) -> What {
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

fn connect_failure(address: SocketAddr, error: &hbone::ConnectError) -> What {
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

fn tls_failure(error: &HandshakeError) -> What {
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
