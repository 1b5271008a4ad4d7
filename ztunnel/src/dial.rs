// SPDX-License-Identifier: Apache-2.0
//! Carries out a `Hop`: the certificate, the tunnel from the pool or a plain connection, and what went wrong in the
//! mesh's own words. Where to go was decided before.

use std::sync::Arc;

use hbone::{Head, HeaderMap, Tunnel};
use mesh::SpiffeId;
use plan::{
    Failure, What,
    outbound::{Hop, Inner, Transport},
};
pub use proxy::dialling::{DialError, Origin, identity_failure, text};
use proxy::dialling::{connect_failure, head, open_failure, tcp_failure, tls_failure};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::{
    pod::{Shard, TunnelKey},
    record::chain,
    socket::CONNECT_TIMEOUT,
};

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
            let key = TunnelKey { address: tunnel.address, expected: Arc::clone(&tunnel.expected) };
            let head = head(hop, &tunnel.authority.to_string(), origin, None)?;
            let (tunnel, _headers) = open(shard, hop.source.identity(), key, &head).await?;
            Ok(Upstream::Tunnel(Box::new(tunnel)))
        }
        Transport::Nested { outer, inner } => {
            let key = TunnelKey { address: outer.address, expected: Arc::clone(&outer.expected) };
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
    let config = shard.pod.node.profile.client_config(&certificate, inner.expected.to_vec());
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
    let config = shard.pod.node.profile.client_config(&certificate, expected.to_vec())?;
    let (stream, _peer) = identity::tls::connect(config, stream).await?;
    Ok(stream)
}
