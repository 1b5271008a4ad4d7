// SPDX-License-Identifier: Apache-2.0
//! Connections that are carried as bytes: an endpoint for each, and its record.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Instant};

use ::proxy::dialling::Origin;
use arcstr::ArcStr;
use hbone::{Abort, Copied, Counters, End, Leg, Plain, Side, Socket, TunnelError, copy};
use mesh::l7::View;
use plan::{
    Failure, Retry, What,
    outbound::Hop,
    route::{self, Connection},
    upstream::health::Outcome,
    waypoint::Target,
};

use crate::{
    dial::{Far, dial},
    keys::of_connection,
    link::{Link, Linked},
    open::Carried,
    pick::{self, Aim, pick},
    record::{self, Facts},
    route::at,
    shard::Shard,
};

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 4;

/// A connection to an endpoint with the way there.
#[derive(Debug)]
pub struct Reached {
    /// The bytes.
    pub far: Far,
    hop: Box<Hop>,
    server: Option<ArcStr>,
}

/// Connects to an endpoint, and to another one while nothing has been delivered.
///
/// # Errors
/// When none can be reached: the last reason.
pub async fn reach(shard: &Arc<Shard>, link: &Link, server: Option<&str>) -> Result<Reached, Failure> {
    let (target, asked) = routed(shard, link, server)?;
    let traffic = pick::traffic(shard, &target);
    let mut aim = Aim {
        target,
        asked,
        source: link.peer,
        seed: rand::random(),
        key: traffic.as_ref().and_then(|traffic| of_connection(traffic, link.peer)),
        session: None,
        traffic,
        failed: HashSet::new(),
    };
    let origin = Origin { source: link.peer, trace: link.trace };
    let endpoints = &shard.waypoint.endpoints;
    let mut last = None;
    for _attempt in 0..ATTEMPTS {
        let hop = match pick(shard, &aim).await {
            Ok(hop) => hop,
            Err(failure) => return Err(last.unwrap_or(failure)),
        };
        if hop.endpoint().is_some_and(|uid| aim.failed.contains(uid)) {
            break;
        }
        let began = Instant::now();
        let outcome = dial(shard, &hop, origin, None).await;
        let uid = hop.endpoint();
        let noted = if outcome.is_ok() { Outcome::Answered } else { Outcome::Failed };
        if let Some(uid) = uid {
            endpoints.note(uid, noted, began.elapsed(), shard.waypoint.now());
        }
        match outcome {
            Ok(far) => return Ok(Reached { far, hop: Box::new(hop), server: server.map(ArcStr::from) }),
            Err(failure) => {
                let again = failure.retry == Retry::Elsewhere;
                last = Some(failure);
                match uid {
                    Some(uid) if again => drop(aim.failed.insert(uid.clone())),
                    Some(_) | None => break,
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| What::NoHealthyUpstream(link.addressed.asked).into()))
}

/// Where the routes of the service send a connection; `server` is the name in its TLS handshake, if it has one.
fn routed(shard: &Shard, link: &Link, server: Option<&str>) -> Result<(Target, SocketAddr), Failure> {
    let addressed = (link.addressed.target.clone(), link.addressed.asked);
    let Some(service) = addressed.0.service().map(|service| service.key()) else { return Ok(addressed) };
    let nowhere = |reason: String| Failure::from(What::NoRoute(reason));
    shard.waypoint.replica.read(|index| {
        let namespace = link.identity.namespace();
        let found = route::connection(index, &service, link.addressed.port, namespace, server);
        let (name, backends) = match &found {
            Connection::Unrouted => return Ok(addressed),
            Connection::Nowhere => return Err(nowhere(format!("no TLS route for {server:?}"))),
            Connection::Tls(matched) => (&matched.route, &matched.rule.backends),
            Connection::Tcp(matched) => (&matched.route, &matched.rule.backends),
        };
        let backend = route::choose(backends, rand::random());
        let backend = backend.ok_or_else(|| nowhere(format!("{name} has no backend")))?;
        at(&shard.waypoint, index, &backend.target)
            .map_err(|_fault| nowhere(format!("a backend of {name} is none")))
    })
}

/// Whether the name in a TLS handshake decides where a connection goes, or whether it may.
pub fn wants_server_name(shard: &Shard, link: &Link) -> bool {
    if shard.waypoint.by_server_name.is_asked() {
        return true;
    }
    let Some(service) = link.addressed.target.service() else { return false };
    shard.waypoint.replica.read(|index| {
        let view = index.routes_for(&service.key(), link.addressed.port, link.identity.namespace());
        view.is_some_and(View::has_tls)
    })
}

/// Records a connection for which no endpoint could be reached.
pub fn unreached(shard: &Shard, link: &Link, failure: &Failure, started: Instant) {
    record::failed(&shard.waypoint, &Facts::new(link, None), failure, started);
}

/// Copies until the connection ends, however it does.
pub async fn carry(shard: &Shard, linked: Linked, reached: Reached, started: Instant) {
    let Linked { link, inner } = linked;
    let Reached { far, hop, server } = reached;
    let carried = Carried { link: Arc::clone(&link), server, request: None };
    let (entered, abort) = shard.waypoint.carry(carried);
    let open = record::Open::new(&shard.waypoint, Facts::new(&link, Some(&hop)), started);
    let near = Socket::new(inner);
    let (copied, counters) = match far {
        Far::Plain(stream) => run(near, Socket::new(stream), abort).await,
        Far::Secured(stream) => run(near, Socket::new(Plain(*stream)), abort).await,
        Far::Tunnel(tunnel) => run(near, *tunnel, abort).await,
    };
    let failure = entered.connection.failure().cloned().or_else(|| failure(&copied));
    open.close(&shard.waypoint, &counters, failure.as_ref());
}

async fn run<N: Leg, F: Leg>(near: N, far: F, abort: Abort) -> (Copied, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    (copy(near, far, Arc::clone(&counters), abort).await, counters)
}

fn failure(copied: &Copied) -> Option<Failure> {
    match &copied.end {
        End::Finished => None,
        End::Aborted(cause) => Some(What::Io(cause.to_string()).into()),
        End::Failed { side, source } => {
            let cause = TunnelError::of(source).map_or_else(|| source.to_string(), ToString::to_string);
            let whose = match side {
                Side::Near => "client",
                Side::Far => "server",
            };
            Some(What::Io(format!("{whose}: {cause}")).into())
        }
    }
}
