// SPDX-License-Identifier: Apache-2.0
//! Tunnels from clients (port 15008): mutual TLS under the waypoint's certificate; every CONNECT is one connection of a
//! client whose identity is proven.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use ::proxy::{ask::ask_plain, chain, dialling::text, ends::End};
use hbone::{Cause, Connect, HeaderMap, HeaderValue, Server, StatusCode, Stop};
use mesh::{SpiffeId, service::AppProtocol};
use plan::{Authority, Failure, What, baggage, trace, waypoint::addressed};
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::{
    detect, guard,
    link::{Inner, Link, Linked},
    record::{self, ACCESS},
    shard::Shard,
    tcp,
};

/// A client that does not finish its handshake by then is turned away.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Whoever sends to a waypoint may know a moment earlier than the waypoint that it serves what is asked for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Who is at the other end of a TLS connection.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) identity: SpiffeId,
    pub(crate) own: SpiffeId,
}

/// Serves one TLS connection to its end.
pub async fn handle(shard: Arc<Shard>, stream: TcpStream, address: SocketAddr) {
    let handshake = tokio::time::timeout(HANDSHAKE, Box::pin(greet(&shard, stream))).await;
    let failure = match handshake {
        Ok(Ok((stream, identity, own))) => {
            serve(&shard, stream, Arc::new(Peer { address, identity, own })).await;
            return;
        }
        Ok(Err(failure)) => failure,
        Err(_elapsed) => What::Tls(format!("handshake not finished within {HANDSHAKE:?}")).into(),
    };
    record::turned_away(address, "", &failure);
}

type Accepted = tokio_rustls::server::TlsStream<TcpStream>;

async fn greet(shard: &Shard, stream: TcpStream) -> Result<(Accepted, SpiffeId, SpiffeId), Failure> {
    let own = shard.waypoint.identity().await?;
    let config = shard.waypoint.server_config().await?;
    let _room =
        shard.waypoint.handshakes.acquire().await.map_err(|_closed| What::Exhausted("TLS handshakes"))?;
    let accepted = identity::tls::accept(config, stream).await;
    let (stream, identity) = accepted.map_err(|error| What::Tls(chain(&error).to_string()))?;
    Ok((stream, identity, own))
}

async fn serve(shard: &Arc<Shard>, stream: Accepted, peer: Arc<Peer>) {
    let server = Server::new(shard.waypoint.server.clone(), shard.spawner.clone());
    let shutdown = shard.tasks.shutdown();
    let stop = Stop { drain: shutdown.requested(), force: std::future::pending::<Cause>() };
    let ended =
        server.serve(stream, stop, |connect| traced(Arc::clone(shard), Arc::clone(&peer), connect)).await;
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.address, error = %chain(&error), "a tunnel connection failed");
    }
}

/// Under the number that the client's proxy gave the flow, so that both logs tell of it alike.
fn traced(shard: Arc<Shard>, peer: Arc<Peer>, connect: Connect) -> impl Future<Output = ()> + Send + 'static {
    let given = connect.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let trace = given.and_then(trace::parse).unwrap_or_else(rand::random);
    let span = tracing::debug_span!(target: ACCESS, "link", id = format_args!("{trace:032x}"));
    tunnel(shard, peer, trace, connect).instrument(span)
}

pub(crate) async fn tunnel(shard: Arc<Shard>, peer: Arc<Peer>, trace: u128, mut connect: Connect) {
    let authority = connect.authority().to_owned();
    let headers = connect.headers().clone();
    let found = tokio::select! {
        biased;
        () = connect.abandoned() => return,
        found = Box::pin(find(&shard, &peer, trace, &authority, &headers)) => found,
    };
    let link = match found {
        Ok(link) => Arc::new(link),
        Err(failure) => {
            record::turned_away(peer.address, &authority, &failure);
            metrics::counter!("ambit_tunnels_refused_total", "response_flags" => failure.flag().as_str())
                .increment(1);
            connect.refuse(StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            return;
        }
    };
    match link.addressed.protocol {
        // Nothing is to be looked at, so the client learns at once whether its server can be reached.
        AppProtocol::Tls if tcp::wants_server_name(&shard, &link) => match connect.accept(answer(&shard)) {
            Ok(tunnel) => {
                let linked = Linked { link, inner: Inner::new(tunnel) };
                Box::pin(detect::by_server_name(&shard, linked)).await;
            }
            Err(error) => tracing::debug!(error = %chain(&error), "a client left"),
        },
        AppProtocol::Tcp | AppProtocol::Tls => Box::pin(carry(&shard, link, connect)).await,
        AppProtocol::Unknown | AppProtocol::Http11 | AppProtocol::Http2 | AppProtocol::Grpc => {
            match connect.accept(answer(&shard)) {
                Ok(tunnel) => {
                    Box::pin(detect::serve(shard, Linked { link, inner: Inner::new(tunnel) })).await;
                }
                Err(error) => tracing::debug!(error = %chain(&error), "a client left"),
            }
        }
    }
}

async fn carry(shard: &Arc<Shard>, link: Arc<Link>, connect: Connect) {
    let started = Instant::now();
    let reached = match guard::connection(&shard.waypoint, &link, None) {
        Ok(judgement) => {
            guard::begun(&link, &judgement);
            tcp::reach(shard, &link, None).await
        }
        Err(failure) => Err(failure),
    };
    match reached {
        Ok(far) => match connect.accept(answer(shard)) {
            Ok(tunnel) => tcp::carry(shard, Linked { link, inner: Inner::new(tunnel) }, far, started).await,
            Err(error) => tracing::debug!(error = %chain(&error), "a client left"),
        },
        Err(failure) => {
            tcp::unreached(shard, &link, &failure, started);
            connect.refuse(StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
        }
    }
}

async fn find(
    shard: &Shard,
    peer: &Peer,
    trace: u128,
    authority: &str,
    headers: &HeaderMap,
) -> Result<Link, Failure> {
    let waypoint = &shard.waypoint;
    let asked: Authority =
        authority.parse().map_err(|_invalid| What::InvalidAuthority(authority.to_owned()))?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let client = peer.identity.namespace();
    let addressed =
        ask_plain(&waypoint.replica, deadline, |index| addressed(index, waypoint.local(), client, &asked))
            .await??;
    Ok(Link {
        peer: peer.address,
        identity: peer.identity.clone(),
        own: peer.own.clone(),
        source: source(shard, peer, headers),
        addressed,
        authority: authority.into(),
        trace,
    })
}

/// The client: what discovery says of its address, if that fits its identity; else what it says of itself, unless it calls
/// itself one of another namespace than its certificate does.
fn source(shard: &Shard, peer: &Peer, headers: &HeaderMap) -> End {
    let waypoint = &shard.waypoint;
    let at = mesh::NetworkAddress::new(waypoint.config.proxy.network.clone(), peer.address.ip());
    let workload = waypoint.replica.read(|index| {
        index.workload_at(&at).filter(|workload| workload.identity() == peer.identity).cloned()
    });
    let hearsay = match workload {
        Some(_) => None,
        None => text(headers, "baggage").and_then(|words| {
            let told = baggage::parse(&words);
            let fits = told.namespace == Some(peer.identity.namespace().as_str());
            fits.then(|| waypoint.metrics.hear(&told, Instant::now())).flatten()
        }),
    };
    End { workload, hearsay, principal: Some(peer.identity.clone()) }
}

fn answer(shard: &Shard) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let waypoint = &shard.waypoint;
    if waypoint.config.proxy.tunnel.response_baggage {
        let own = waypoint.replica.read(|index| index.workloads_named(&waypoint.config.own).next().cloned());
        let value = own.and_then(|own| HeaderValue::from_str(&baggage::header(&own)).ok());
        headers.extend(value.map(|value| (hbone::HeaderName::from_static("baggage"), value)));
    }
    headers
}
