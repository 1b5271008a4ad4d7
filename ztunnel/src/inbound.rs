// SPDX-License-Identifier: Apache-2.0
//! Tunnels to the applications of a pod (port 15008): mutual TLS under the pod's certificate, then for every CONNECT
//! decide, connect to the application from the client's address, answer, relay.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::OptionFuture};
use hbone::{Cause, Connect, HeaderMap, HeaderValue, Server, Socket, StatusCode, Stop};
use mesh::SpiffeId;
use plan::{
    Answer, Failure, Missing, Protocol, What, baggage,
    inbound::{self, Upstream},
    trace,
};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::{
    ask::{PATIENCE, ask_plain},
    deliver::deliver,
    dial::{identity_failure, text},
    metrics::{End, Reporter},
    pod::Shard,
    record::{self, ACCESS, Facts, chain},
    relay::relay,
    socket::canonical,
};

/// A client that does not finish its handshake by then is turned away.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Who is at the other end of a TLS connection.
#[derive(Clone)]
struct Peer {
    address: SocketAddr,
    local: SocketAddr,
    identity: SpiffeId,
}

/// Serves one TLS connection to its end.
pub async fn handle(shard: Arc<Shard>, stream: TcpStream, address: SocketAddr) {
    let Ok(local) = stream.local_addr().map(canonical) else { return };
    let handshake = tokio::time::timeout(HANDSHAKE, Box::pin(greet(&shard, stream))).await;
    let failure = match handshake {
        Ok(Ok((stream, identity))) => {
            let peer = Arc::new(Peer { address, local, identity });
            serve(&shard, stream, peer).await;
            return;
        }
        Ok(Err(failure)) => failure,
        Err(_elapsed) => What::Tls(format!("handshake not finished within {HANDSHAKE:?}")).into(),
    };
    record::turned_away(Reporter::Destination, address, local, &failure);
}

async fn greet(
    shard: &Shard,
    stream: TcpStream,
) -> Result<(tokio_rustls::server::TlsStream<TcpStream>, SpiffeId), Failure> {
    let identity = own_identity(shard).await?;
    let node = &shard.pod.node;
    if node.identities.cached(&identity).is_none() {
        node.identities.certificate(&identity).await.map_err(|error| identity_failure(&error))?;
    }
    let config = server_config(shard, identity)?;
    let _room = shard.pod.handshakes.acquire().await.map_err(|_closed| What::Exhausted("TLS handshakes"))?;
    identity::tls::accept(config, stream).await.map_err(|error| What::Tls(chain(&error).to_string()).into())
}

/// Who the pod is: what discovery says of the workload that the node agent named.
async fn own_identity(shard: &Shard) -> Result<SpiffeId, Failure> {
    let local = shard.pod.local();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    ask_plain(&shard.pod.node.replica, deadline, |index| {
        match index.workloads_named(&local.workload).next() {
            Some(workload) => Answer::Ready(workload.identity()),
            None => Answer::Needs(Missing::Workload(local.workload.clone())),
        }
    })
    .await
}

/// Made once per identity: a handshake only reads it.
fn server_config(shard: &Shard, identity: SpiffeId) -> Result<Arc<ServerConfig>, Failure> {
    let mut kept = shard.pod.tls.lock();
    if let Some((known, config)) = kept.as_ref()
        && *known == identity
    {
        return Ok(Arc::clone(config));
    }
    let node = &shard.pod.node;
    let config = node.profile.server_config(node.identities.follow(&identity));
    let config = config.map_err(|error| What::Tls(chain(&error).to_string()))?;
    *kept = Some((identity, Arc::clone(&config)));
    Ok(config)
}

async fn serve(shard: &Arc<Shard>, stream: tokio_rustls::server::TlsStream<TcpStream>, peer: Arc<Peer>) {
    let server = Server::new(shard.pod.node.server.clone(), shard.spawner.clone());
    let shutdown = shard.tasks.shutdown();
    let stop = Stop {
        drain: shutdown.requested(),
        // The group's tasks are dropped then; nothing is left to be told.
        force: std::future::pending::<Cause>(),
    };
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
    let span = tracing::debug_span!(target: ACCESS, "inbound", id = format_args!("{trace:032x}"));
    // Boxed is what goes away once the tunnel is open.
    let opened = Box::pin(open(shard, peer, connect)).map(OptionFuture::from);
    opened.flatten().map(|_over| ()).instrument(span)
}

/// Until bytes flow: the future that carries them.
async fn open(
    shard: Arc<Shard>,
    peer: Arc<Peer>,
    mut connect: Connect,
) -> Option<impl Future<Output = ()> + Send> {
    let started = Instant::now();
    let (authority, headers) = (connect.authority().to_owned(), connect.headers().clone());
    let outcome = tokio::select! {
        biased;
        () = connect.abandoned() => return None,
        outcome = admit(&shard, &peer, &authority, headers) => outcome,
    };
    match outcome {
        Ok((upstream, stream, facts)) => match connect.accept(answer(&shard, &upstream)) {
            Ok(tunnel) => {
                let subject = Some(upstream.subject);
                Some(relay(&shard, (facts, started), subject, tunnel, Socket::new(stream)))
            }
            Err(error) => {
                tracing::debug!(error = %chain(&error), "a client left");
                None
            }
        },
        Err((facts, failure)) => {
            connect.refuse(StatusCode::from_u16(failure.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE));
            match facts {
                Some(facts) => {
                    record::failed(&shard.pod.node.metrics, &facts, &failure, started, Instant::now())
                }
                None => record::turned_away(Reporter::Destination, peer.address, peer.local, &failure),
            }
            None
        }
    }
}

type Refused = (Option<Box<Facts>>, Failure);

async fn admit(
    shard: &Shard,
    peer: &Peer,
    authority: &str,
    headers: HeaderMap,
) -> Result<(Upstream, TcpStream, Facts), Refused> {
    let forwarded = text(&headers, "forwarded");
    let network = text(&headers, "x-forwarded-network");
    let connect = inbound::Connect {
        protocol: Protocol::TCP,
        source: peer.address,
        identity: peer.identity.clone(),
        local: peer.local,
        authority,
        forwarded: forwarded.as_deref(),
        forwarded_network: network.as_deref(),
    };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let decided = ask_plain(&shard.pod.node.replica, deadline, |index| {
        inbound::decide(index, shard.pod.local(), &connect)
    });
    let upstream = match decided.await {
        Ok(Ok(upstream)) => upstream,
        Ok(Err(failure)) | Err(failure) => {
            return Err((Some(Box::new(refused(shard, peer, authority))), failure));
        }
    };
    let mut facts = facts(peer, authority, &upstream);
    let node = &shard.pod.node;
    if upstream.source.is_none() {
        facts.source.hearsay = text(&headers, "baggage").and_then(|words| node.hear(&words));
    }
    if let Some(verdict) = &upstream.judgement.dry_run {
        record::dry_run(&facts, verdict);
    }
    match deliver(shard, &upstream).await {
        Ok(stream) => Ok((upstream, stream, facts)),
        Err(failure) => Err((Some(Box::new(facts)), failure)),
    }
}

fn answer(shard: &Shard, upstream: &Upstream) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if shard.pod.node.config.proxy.tunnel.response_baggage
        && let Ok(value) = HeaderValue::from_str(&baggage::header(&upstream.destination))
    {
        headers.insert("baggage", value);
    }
    headers
}

fn facts(peer: &Peer, authority: &str, upstream: &Upstream) -> Facts {
    Facts {
        reporter: Reporter::Destination,
        source: End {
            workload: upstream.source.clone(),
            principal: Some(peer.identity.clone()),
            ..End::default()
        },
        source_address: peer.address,
        destination: End {
            principal: Some(upstream.destination.identity()),
            workload: Some(Arc::clone(&upstream.destination)),
            ..End::default()
        },
        destination_address: peer.local,
        authority: Some(authority.into()),
        service: upstream.service.clone(),
        mutual_tls: true,
    }
}

/// What is known of a connection that was not let in.
fn refused(shard: &Shard, peer: &Peer, authority: &str) -> Facts {
    let node = &shard.pod.node;
    let local = shard.pod.local();
    let at = mesh::NetworkAddress::new(local.network.clone(), peer.address.ip());
    let (source, destination) = node.replica.read(|index| {
        let source = index.workload_at(&at).filter(|workload| workload.identity() == peer.identity);
        (source.cloned(), index.workloads_named(&local.workload).next().cloned())
    });
    Facts {
        reporter: Reporter::Destination,
        source: End { workload: source, principal: Some(peer.identity.clone()), ..End::default() },
        source_address: peer.address,
        destination: End {
            principal: destination.as_deref().map(mesh::Workload::identity),
            workload: destination,
            ..End::default()
        },
        destination_address: peer.local,
        authority: Some(authority.into()),
        service: None,
        mutual_tls: true,
    }
}
