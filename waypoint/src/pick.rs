// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a request or a connection goes to: the one of its session, or of its key or turn, where the service is
//! balanced so; else `plan` proposes, and what endpoints have shown decides between two.

use std::{cell::LazyCell, collections::HashSet, net::SocketAddr, sync::Arc};

use ::proxy::ask::{PATIENCE, Unanswered, ask};
use mesh::{Index, Traffic, WorkloadUid, balance::Mark, l7::traffic::Balancer};
use plan::{
    Answer, Failure, Flow, Protocol, Resolved, What,
    outbound::Hop,
    upstream::{Algorithm, health},
    waypoint::{self, Target},
};

use crate::{shard::Shard, waypoint::Waypoint};

/// Host names that are resolved for one request.
const LOOKUPS: usize = 3;
/// Endpoints on the way of a key that are looked at before any other will do.
const LOOKED_AT: usize = 1000;

/// What an endpoint is looked for.
#[derive(Debug)]
pub struct Aim {
    /// The service or workload.
    pub target: Target,
    /// Where it was asked for; carries the port.
    pub asked: SocketAddr,
    /// The client.
    pub source: SocketAddr,
    /// Source of chance.
    pub seed: u64,
    /// What is said of the service's traffic.
    pub traffic: Option<Arc<Traffic>>,
    /// What the request is hashed by.
    pub key: Option<u64>,
    /// The endpoint that the client is with.
    pub session: Option<Mark>,
    /// Endpoints that have failed for this request.
    pub failed: HashSet<WorkloadUid>,
}

impl Aim {
    fn flow(&self) -> Flow {
        Flow {
            protocol: Protocol::TCP,
            source: self.source,
            destination: self.asked,
            seed: self.seed,
            resolved: Resolved::default(),
        }
    }

    fn balancer(&self) -> &Balancer {
        self.traffic.as_ref().map_or(&Balancer::PeakEwma, |traffic| &traffic.balancer)
    }
}

/// What is said of the traffic of a service.
pub fn traffic(shard: &Shard, target: &Target) -> Option<Arc<Traffic>> {
    let service = target.service()?.key();
    shard.waypoint.replica.read(|index| index.traffic(&service).cloned())
}

/// The way to an endpoint: one that nobody has set aside, else one that only other requests found wanting, else one that
/// this request did.
///
/// # Errors
/// When there is none.
pub async fn pick(shard: &Arc<Shard>, aim: &Aim) -> Result<Hop, Failure> {
    let waypoint = &shard.waypoint;
    let mut avoid = waypoint.replica.read(|index| left_out(waypoint, index, &aim.target));
    avoid.extend(aim.failed.iter().cloned());
    if let Some(hop) = chosen(shard, aim, &avoid).await {
        return Ok(hop);
    }
    let hop = better(shard, aim, &avoid).await?;
    if !hop.set_aside || aim.failed.is_empty() {
        return Ok(hop);
    }
    better(shard, aim, &aim.failed).await
}

/// Who is set aside and may be: never so many of a service that the others would break down.
pub fn left_out(waypoint: &Waypoint, index: &Index, target: &Target) -> HashSet<WorkloadUid> {
    let Some(service) = target.service() else { return HashSet::new() };
    // Usually nobody is set aside, and nobody asks for it.
    let name = LazyCell::new(|| service.key());
    let belongs = |uid: &WorkloadUid| {
        index.workload(uid).is_some_and(|workload| workload.services.contains_key(&*name))
    };
    let aside = waypoint.endpoints.aside(waypoint.now(), belongs);
    if aside.is_empty() {
        return HashSet::new();
    }
    let endpoints = index.members(&name).len();
    health::left_out(waypoint.endpoints.limits(), endpoints, aside).into_iter().collect()
}

/// The endpoint of the session, of the key or of the turn; nothing where none of these says anything.
async fn chosen(shard: &Arc<Shard>, aim: &Aim, avoid: &HashSet<WorkloadUid>) -> Option<Hop> {
    let waypoint = &shard.waypoint;
    let name = aim.target.service()?.key();
    let uid = waypoint.replica.read(|index| in_line(shard, aim, avoid, index))?;
    if aim.session.is_some_and(|mark| mark != Mark::new(&uid)) {
        metrics::counter!("ambit_sessions_moved_total").increment(1);
    }
    let propose =
        |index: &Index, flow: &Flow| waypoint::endpoint(index, waypoint.local(), flow, (&name, &uid));
    resolved(shard, aim, propose).await.ok()
}

fn in_line(shard: &Shard, aim: &Aim, avoid: &HashSet<WorkloadUid>, index: &Index) -> Option<WorkloadUid> {
    let waypoint = &shard.waypoint;
    let in_line = match aim.balancer() {
        Balancer::RoundRobin | Balancer::RingHash(_) | Balancer::Maglev(_) => true,
        Balancer::PeakEwma | Balancer::LeastRequest | Balancer::Random => aim.session.is_some(),
    };
    let own = waypoint.local().own(index).ok().filter(|_| in_line)?;
    let service = index.service(&aim.target.service()?.key())?;
    let port = aim.asked.port();
    let line = waypoint.lineups.of(index, service, own, port);
    let usable = |uid: &&WorkloadUid| {
        !avoid.contains(*uid) && index.workload(uid).is_some_and(|workload| service.admits(workload))
    };
    if let Some(uid) = aim.session.and_then(|mark| line.marked(mark)).filter(usable) {
        return Some(uid.clone());
    }
    let found = match (aim.balancer(), aim.key) {
        (Balancer::RoundRobin, _) => line.turns(waypoint.lineups.turn(&service.key(), port)).find(usable),
        (Balancer::RingHash(_), Some(key)) => line.ring(key).take(LOOKED_AT).find(usable),
        (Balancer::Maglev(_), Some(key)) => line.maglev(key).find(usable),
        (Balancer::RingHash(_) | Balancer::Maglev(_), None)
        | (Balancer::PeakEwma | Balancer::LeastRequest | Balancer::Random, _) => None,
    };
    found.cloned()
}

/// The better of two; of one where chance alone decides.
async fn better(shard: &Arc<Shard>, aim: &Aim, avoid: &HashSet<WorkloadUid>) -> Result<Hop, Failure> {
    let waypoint = &shard.waypoint;
    let propose =
        |index: &Index, flow: &Flow| waypoint::hop(index, waypoint.local(), flow, &aim.target, avoid);
    let algorithm = match aim.balancer() {
        Balancer::PeakEwma => Algorithm::PeakEwma,
        Balancer::LeastRequest => Algorithm::LeastRequest,
        Balancer::RoundRobin | Balancer::Random | Balancer::RingHash(_) | Balancer::Maglev(_) => {
            return resolved(shard, aim, propose).await;
        }
    };
    let both = |index: &Index, flow: &Flow| {
        let other = Flow { seed: flow.seed.wrapping_mul(SPREAD).wrapping_add(1), ..flow.clone() };
        match propose(index, flow) {
            Answer::Ready(Ok(first)) => match propose(index, &other) {
                Answer::Ready(Ok(second)) => Answer::Ready(Ok((first, Some(second)))),
                Answer::Ready(Err(_)) | Answer::Needs(_) => Answer::Ready(Ok((first, None))),
            },
            Answer::Ready(Err(failure)) => Answer::Ready(Err(failure)),
            Answer::Needs(missing) => Answer::Needs(missing),
        }
    };
    let (first, second) = resolved(shard, aim, both).await?;
    Ok(cheaper(shard, algorithm, first, second))
}

/// Makes another seed of a seed.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// Asks until there is an answer; names are resolved on the way.
async fn resolved<T>(
    shard: &Arc<Shard>,
    aim: &Aim,
    propose: impl Fn(&Index, &Flow) -> Answer<Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut flow = aim.flow();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for _lookup in 0..=LOOKUPS {
        match ask(&shard.waypoint.replica, deadline, |index| propose(index, &flow)).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(failure)) | Err(Unanswered::Failed(failure)) => return Err(failure),
            Err(Unanswered::Host(name)) => {
                let asked = shard.waypoint.names.addresses(&name);
                let addresses = tokio::time::timeout_at(deadline, asked).await.unwrap_or_default();
                flow.resolved.insert(name, addresses);
            }
        }
    }
    Err(What::NoHealthyUpstream(aim.asked).into())
}

fn cheaper(shard: &Shard, algorithm: Algorithm, first: Hop, second: Option<Hop>) -> Hop {
    let Some(second) = second else { return first };
    let (Some(one), Some(other)) = (first.endpoint(), second.endpoint()) else { return first };
    if one == other || first.set_aside != second.set_aside {
        return if first.set_aside { second } else { first };
    }
    let now = shard.waypoint.now();
    let cost = |uid| shard.waypoint.endpoints.cost(uid, algorithm, now);
    if cost(other) < cost(one) { second } else { first }
}
