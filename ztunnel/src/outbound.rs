// SPDX-License-Identifier: Apache-2.0
//! Captured connections of the applications (port 15001): decide, dial, and at another endpoint again while nothing has
//! been delivered; then relay.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Instant};

use futures_util::{
    FutureExt as _,
    future::{Either, OptionFuture},
};
use hbone::Socket;
use mesh::{Hostname, WorkloadUid};
use plan::{
    Failure, Flow, Missing, Protocol, Resolved, Retry, What,
    outbound::{Hop, Transport},
};
use tokio::net::TcpStream;
use tracing::Instrument as _;

use crate::{
    aside::SLOW,
    ask::{PATIENCE, Unanswered, ask},
    dial::{Beyond, Origin, Upstream, dial},
    metrics::{End, Reporter},
    pod::Shard,
    record::{self, ACCESS, Facts},
    relay::relay,
    socket::original_destination,
};

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 4;
/// Host names that are resolved for one connection.
const LOOKUPS: usize = 3;

/// Serves one connection to its end.
pub fn handle(
    shard: Arc<Shard>,
    stream: TcpStream,
    source: SocketAddr,
) -> impl Future<Output = ()> + Send + 'static {
    let trace: u128 = rand::random();
    let span = tracing::debug_span!(target: ACCESS, "outbound", id = format_args!("{trace:032x}"));
    // Boxed is what goes away once the connection is open.
    let opened = Box::pin(open(shard, stream, Origin { source, trace })).map(OptionFuture::from);
    opened.flatten().map(|_over| ()).instrument(span)
}

/// Until bytes flow: the future that carries them.
async fn open(
    shard: Arc<Shard>,
    stream: TcpStream,
    origin: Origin,
) -> Option<impl Future<Output = ()> + Send> {
    let source = origin.source;
    let started = Instant::now();
    let destination = original_destination(&stream, shard.pod.node.capture).ok()?;
    let flow = Flow {
        protocol: Protocol::TCP,
        source,
        destination,
        seed: rand::random(),
        resolved: Resolved::default(),
    };
    match reach(&shard, flow, origin.trace).await {
        Ok((facts, upstream)) => {
            let near = Socket::new(stream);
            Some(match upstream {
                Upstream::Plain(far) => {
                    // Seldom, so it does not add to the size of the others.
                    Either::Left(Box::pin(relay(&shard, (facts, started), None, near, Socket::new(far))))
                }
                Upstream::Tunnel(far) | Upstream::Nested(far, _) => {
                    Either::Right(relay(&shard, (facts, started), None, near, *far))
                }
            })
        }
        Err(unreached) => {
            reset(&stream);
            let Unreached { facts, failure } = *unreached;
            match facts {
                Some(facts) => {
                    record::failed(&shard.pod.node.metrics, &facts, &failure, started, Instant::now());
                }
                None => record::turned_away(Reporter::Source, source, destination, &failure),
            }
            None
        }
    }
}

/// The application is told at once and cannot take it for an orderly end.
fn reset(stream: &TcpStream) {
    if let Err(error) = stream.set_zero_linger() {
        tracing::debug!(%error, "could not make the close a reset");
    }
}

struct Unreached {
    facts: Option<Box<Facts>>,
    failure: Failure,
}

impl From<Failure> for Box<Unreached> {
    fn from(failure: Failure) -> Self {
        Self::new(Unreached { facts: None, failure })
    }
}

async fn reach(shard: &Arc<Shard>, mut flow: Flow, trace: u128) -> Result<(Facts, Upstream), Box<Unreached>> {
    let node = &shard.pod.node;
    let origin = Origin { source: flow.source, trace };
    let mut failed = HashSet::new();
    let mut last: Option<Box<Unreached>> = None;
    for _attempt in 0..ATTEMPTS {
        let hop = match next(shard, &mut flow, &failed).await {
            Ok(Some(hop)) => hop,
            Ok(None) => break,
            Err(failure) => return Err(last.unwrap_or_else(|| failure.into())),
        };
        if last.is_some() {
            metrics::counter!("ambit_retries_total").increment(1);
        }
        let mut facts = facts(&hop, flow.source);
        let began = Instant::now();
        let outcome = dial(shard, &hop, origin).await;
        let endpoint = hop.endpoint();
        match outcome {
            Ok(upstream) => {
                match endpoint {
                    Some(endpoint) if began.elapsed() > SLOW => node.aside.strike(endpoint, Instant::now()),
                    Some(endpoint) => node.aside.forgive(endpoint),
                    None => {}
                }
                if let Upstream::Nested(_, beyond) = &upstream {
                    facts.destination = far_end(shard, &hop, beyond);
                }
                return Ok((facts, upstream));
            }
            Err(failure) => {
                let again = note(shard, endpoint, &failure, &mut failed);
                last = Some(Box::new(Unreached { facts: Some(Box::new(facts)), failure }));
                if !again {
                    break;
                }
            }
        }
    }
    Err(last.unwrap_or_else(|| Failure::from(What::NoHealthyUpstream(flow.destination)).into()))
}

/// Remembers a failure and says whether another attempt makes sense.
fn note(
    shard: &Shard,
    endpoint: Option<&WorkloadUid>,
    failure: &Failure,
    failed: &mut HashSet<WorkloadUid>,
) -> bool {
    match (failure.retry, endpoint) {
        (Retry::Never, _) | (Retry::Elsewhere, None) => false,
        (Retry::Elsewhere, Some(endpoint)) => {
            // An address that changed hands is no fault of the endpoint: the next decision knows better.
            if !matches!(failure.what, What::Moved(_)) {
                failed.insert(endpoint.clone());
                shard.pod.node.aside.strike(endpoint, Instant::now());
            }
            true
        }
    }
}

/// The next hop to try: an endpoint that nobody has set aside, else one that only other flows found wanting, never one
/// that this flow did. `None`: no other endpoint is worth trying.
async fn next(
    shard: &Arc<Shard>,
    flow: &mut Flow,
    failed: &HashSet<WorkloadUid>,
) -> Result<Option<Hop>, Failure> {
    let mut avoid = shard.pod.node.aside.held(Instant::now());
    avoid.extend(failed.iter().cloned());
    let hop = decide(shard, flow, &avoid).await?;
    if !hop.set_aside || failed.is_empty() {
        return Ok(Some(hop));
    }
    let hop = decide(shard, flow, failed).await?;
    Ok((!hop.set_aside).then_some(hop))
}

async fn decide(shard: &Arc<Shard>, flow: &mut Flow, avoid: &HashSet<WorkloadUid>) -> Result<Hop, Failure> {
    let node = &shard.pod.node;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    for _lookup in 0..=LOOKUPS {
        let answer = ask(&node.replica, deadline, |index| {
            plan::outbound::decide(index, shard.pod.local(), flow, avoid)
        });
        match answer.await {
            Ok(hop) => return hop,
            Err(Unanswered::Failed(failure)) => return Err(failure),
            Err(Unanswered::Host(name)) => {
                let addresses = lookup(shard, &name, deadline).await;
                flow.resolved.insert(name, addresses);
            }
        }
    }
    Err(What::NoHealthyUpstream(flow.destination).into())
}

async fn lookup(shard: &Shard, name: &Hostname, deadline: tokio::time::Instant) -> Vec<std::net::IpAddr> {
    metrics::counter!("istio_on_demand_dns_total", "hostname" => name.as_str().to_owned()).increment(1);
    match tokio::time::timeout_at(deadline, shard.pod.node.resolver.addresses(name.as_str())).await {
        Ok(addresses) => addresses,
        Err(_elapsed) => {
            let missing: Failure = Missing::Host(name.clone()).failure().into();
            tracing::debug!(error = %missing, "no answer from the resolvers");
            Vec::new()
        }
    }
}

fn facts(hop: &Hop, source: SocketAddr) -> Facts {
    let (authority, mutual_tls) = match &hop.transport {
        Transport::Passthrough(_) | Transport::Plain(_) => (None, false),
        Transport::Tunnel(tunnel) => (Some(tunnel.authority.to_string().into()), true),
        Transport::Nested { inner, .. } => (Some(inner.authority.to_string().into()), true),
    };
    let principal = |workload: Option<mesh::SpiffeId>| workload.filter(|_identity| mutual_tls);
    Facts {
        reporter: Reporter::Source,
        source: End {
            principal: principal(Some(hop.source.identity())),
            workload: Some(Arc::clone(&hop.source)),
            ..End::default()
        },
        source_address: source,
        destination: End {
            principal: principal(hop.destination.as_deref().map(mesh::Workload::identity)),
            workload: hop.destination.clone(),
            ..End::default()
        },
        destination_address: hop.address(),
        authority,
        service: hop.service.clone(),
        mutual_tls,
    }
}

/// Behind a gateway there is another workload than the one that discovery knows as the whole other network.
fn far_end(shard: &Shard, hop: &Hop, beyond: &Beyond) -> End {
    let node = &shard.pod.node;
    let hearsay = beyond.baggage.as_deref().and_then(|words| node.hear(words));
    End {
        workload: hop.destination.clone().filter(|_| hearsay.is_none()),
        hearsay,
        principal: Some(beyond.identity.clone()),
    }
}

#[cfg(test)]
mod tests;
