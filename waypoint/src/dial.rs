// SPDX-License-Identifier: Apache-2.0
//! Carries out a `Hop`: the certificate, a tunnel from the pool, or a connection without one, plain or under TLS. Where to
//! go, and how, was decided before.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::proxy::{
    chain,
    dialling::{
        DialError, Origin, connect_failure, head, identity_failure, open_failure, tcp_failure, tls_failure,
    },
};
use hbone::Tunnel;
use plan::{
    Failure, What,
    outbound::{Hop, Inner, Transport},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use crate::{
    outside::inside,
    pools::Wire,
    shard::{Shard, TunnelKey},
};

/// A peer that does not answer a SYN, or a handshake, for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// TCP keepalive of connections to servers: first probe and pause between probes.
const KEEPALIVE: Duration = Duration::from_secs(180);

/// What a hop led to.
#[derive(Debug)]
pub enum Far {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS with a server outside the mesh.
    Secured(Box<TlsStream<TcpStream>>),
    /// A tunnel, direct or through the gateway of another network.
    Tunnel(Box<Tunnel>),
}

/// Carries out a hop; `wire` is what will be spoken, if that is HTTP.
///
/// # Errors
/// Says what went wrong and whether another endpoint may do; nothing was delivered.
pub async fn dial(shard: &Arc<Shard>, hop: &Hop, origin: Origin, wire: Option<Wire>) -> Result<Far, Failure> {
    match &hop.transport {
        Transport::Passthrough(address) | Transport::Plain(address) => {
            let stream = connect(*address).await.map_err(|error| tcp_failure(*address, &error))?;
            let Some(tls) = &hop.tls else { return Ok(Far::Plain(stream)) };
            let outsides = &shard.waypoint.outsides;
            let shaking = outsides.connect(stream, *address, (tls, inside(wire)), CONNECT_TIMEOUT);
            Ok(Far::Secured(Box::new(Box::pin(shaking).await?)))
        }
        Transport::Tunnel(tunnel) => {
            let key = TunnelKey { address: tunnel.address, expected: Arc::clone(&tunnel.expected) };
            let head = head(hop, &tunnel.authority.to_string(), origin, None)?;
            Ok(Far::Tunnel(Box::new(open(shard, hop, key, &head).await?)))
        }
        Transport::Nested { outer, inner } => {
            let key = TunnelKey { address: outer.address, expected: Arc::clone(&outer.expected) };
            let outer_head = head(hop, &outer.authority.to_string(), origin, None)?;
            let tunnel = open(shard, hop, key, &outer_head).await?;
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
) -> Result<Far, Failure> {
    let head = head(hop, &inner.authority.to_string(), origin, Some(&inner.forwarded_network.to_string()))?;
    let address = hop.address();
    let waypoint = &shard.waypoint;
    let certificate = waypoint.identities.certificate(&hop.source.identity()).await;
    let certificate = certificate.map_err(|error| identity_failure(&error))?;
    let config = waypoint.profile.client_config(&certificate, inner.expected.to_vec());
    let config = config.map_err(|error| What::Tls(chain(&error).to_string()))?;
    let handshake = identity::tls::connect(config, outer);
    let (stream, _peer) = match tokio::time::timeout(CONNECT_TIMEOUT, handshake).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(tls_failure(&error).into()),
        Err(_elapsed) => return Err(What::ConnectTimeout(address).into()),
    };
    let (connection, driver) = hbone::handshake(stream, &waypoint.pool.connection)
        .await
        .map_err(|error| What::Http2(chain(&error).to_string()))?;
    drop(shard.servers.spawn("inner tunnel", async move {
        let ended = driver.await;
        tracing::debug!(?ended, "inner tunnel ended");
    }));
    let opened = connection.connect(&head).await;
    let (tunnel, _headers) = opened.map_err(|error| connect_failure(address, &error))?;
    Ok(Far::Tunnel(Box::new(tunnel)))
}

async fn open(shard: &Arc<Shard>, hop: &Hop, key: TunnelKey, head: &hbone::Head) -> Result<Tunnel, Failure> {
    let address = key.address;
    let identity = hop.source.identity();
    let dialled =
        shard.tunnels.connect(&key, head, || secure(Arc::clone(shard), identity.clone(), key.clone()));
    let (tunnel, _headers) = dialled.await.map_err(|error| open_failure(address, &error))?;
    Ok(tunnel)
}

/// A mutual TLS connection to the port of tunnels.
async fn secure(
    shard: Arc<Shard>,
    identity: mesh::SpiffeId,
    key: TunnelKey,
) -> Result<TlsStream<TcpStream>, DialError> {
    let TunnelKey { address, expected } = key;
    let certificate = shard.waypoint.identities.certificate(&identity).await?;
    let stream = connect(address).await.map_err(|source| DialError::Tcp { address, source })?;
    let config = shard.waypoint.profile.client_config(&certificate, expected.to_vec())?;
    let (stream, _peer) = identity::tls::connect(config, stream).await?;
    Ok(stream)
}

async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let Ok(connected) = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await else {
        return Err(io::ErrorKind::TimedOut.into());
    };
    let stream = connected?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

impl AsyncRead for Far {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_read(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(&mut **tunnel).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Far {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_write(cx, buf),
            Self::Tunnel(tunnel) => Pin::new(&mut **tunnel).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_flush(cx),
            Self::Tunnel(tunnel) => Pin::new(&mut **tunnel).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
            Self::Tunnel(tunnel) => Pin::new(&mut **tunnel).poll_shutdown(cx),
        }
    }
}

/// A connection to a server that carries HTTP. If it is dropped before its end was said, the server sees a failure.
#[derive(Debug)]
pub struct Wired(pub Far);

impl Drop for Wired {
    fn drop(&mut self) {
        match &mut self.0 {
            Far::Tunnel(tunnel) if !tunnel.ledger().finished => tunnel.reset(),
            Far::Tunnel(_) | Far::Plain(_) | Far::Secured(_) => {}
        }
    }
}

impl AsyncRead for Wired {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wired {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
