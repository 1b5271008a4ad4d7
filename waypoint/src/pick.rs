// SPDX-License-Identifier: Apache-2.0
//! Which endpoint a request or a connection goes to: `plan` proposes, what endpoints have shown decides between two.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ::proxy::ask::{PATIENCE, Unanswered, ask};
use mesh::{Hostname, WorkloadUid};
use plan::{
    Answer, Failure, Flow, Missing, Protocol, Resolved, What,
    outbound::Hop,
    upstream::Algorithm,
    waypoint::{self, Target},
};

use crate::shard::Shard;

/// Host names that are resolved for one request.
const LOOKUPS: usize = 3;

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
    /// Endpoints that have failed for this request.
    pub failed: HashSet<WorkloadUid>,
}

/// The way to an endpoint: one that nobody has set aside, else one that only other requests found wanting, else one that
/// this request did.
///
/// # Errors
/// When there is none.
pub async fn pick(shard: &Arc<Shard>, aim: &Aim) -> Result<Hop, Failure> {
    let waypoint = &shard.waypoint;
    let mut avoid = waypoint.endpoints.aside(waypoint.now());
    avoid.extend(aim.failed.iter().cloned());
    let hop = better(shard, aim, &avoid).await?;
    if !hop.set_aside || aim.failed.is_empty() {
        return Ok(hop);
    }
    better(shard, aim, &aim.failed).await
}

/// The better of two.
async fn better(shard: &Arc<Shard>, aim: &Aim, avoid: &HashSet<WorkloadUid>) -> Result<Hop, Failure> {
    let mut flow = Flow {
        protocol: Protocol::TCP,
        source: aim.source,
        destination: aim.asked,
        seed: aim.seed,
        resolved: Resolved::default(),
    };
    let waypoint = &shard.waypoint;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for _lookup in 0..=LOOKUPS {
        let question = |index: &mesh::Index| {
            let propose = |flow: &Flow| waypoint::hop(index, waypoint.local(), flow, &aim.target, avoid);
            let other = Flow { seed: flow.seed.wrapping_mul(SPREAD).wrapping_add(1), ..flow.clone() };
            match propose(&flow) {
                Answer::Ready(Ok(first)) => match propose(&other) {
                    Answer::Ready(Ok(second)) => Answer::Ready(Ok((first, Some(second)))),
                    Answer::Ready(Err(_)) | Answer::Needs(_) => Answer::Ready(Ok((first, None))),
                },
                Answer::Ready(Err(failure)) => Answer::Ready(Err(failure)),
                Answer::Needs(missing) => Answer::Needs(missing),
            }
        };
        match ask(&waypoint.replica, deadline, question).await {
            Ok(Ok((first, second))) => return Ok(cheaper(shard, first, second)),
            Ok(Err(failure)) | Err(Unanswered::Failed(failure)) => return Err(failure),
            Err(Unanswered::Host(name)) => {
                let addresses = lookup(&name, deadline).await;
                flow.resolved.insert(name, addresses);
            }
        }
    }
    Err(What::NoHealthyUpstream(aim.asked).into())
}

/// Makes another seed of a seed.
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

fn cheaper(shard: &Shard, first: Hop, second: Option<Hop>) -> Hop {
    let Some(second) = second else { return first };
    let (Some(one), Some(other)) = (first.endpoint(), second.endpoint()) else { return first };
    if one == other || first.set_aside != second.set_aside {
        return if first.set_aside { second } else { first };
    }
    let now = shard.waypoint.now();
    let cost = |uid| shard.waypoint.endpoints.cost(uid, Algorithm::PeakEwma, now);
    if cost(other) < cost(one) { second } else { first }
}

async fn lookup(name: &Hostname, deadline: tokio::time::Instant) -> Vec<IpAddr> {
    metrics::counter!("istio_on_demand_dns_total", "hostname" => name.as_str().to_owned()).increment(1);
    let found = tokio::time::timeout_at(deadline, tokio::net::lookup_host((name.as_str(), 0))).await;
    match found {
        Ok(Ok(addresses)) => addresses.map(|address| address.ip().to_canonical()).collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, host = %name, "a name has no address");
            Vec::new()
        }
        Err(_elapsed) => {
            let missing: Failure = Missing::Host(name.clone()).failure().into();
            tracing::debug!(error = %missing, "no answer from the resolvers");
            Vec::new()
        }
    }
}
