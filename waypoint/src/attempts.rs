// SPDX-License-Identifier: Apache-2.0
//! Sends a request: picks an endpoint, waits for the head of its answer, and again where `plan::route::retry` says so.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use ::proxy::ends::End;
use http::{Method, Request, Response, StatusCode, header::RETRY_AFTER, request};
use hyper::body::Body as _;
use mesh::l7::{
    Traffic,
    route::{Retry, Timeouts},
};
use plan::{
    Fault,
    outbound::{Hop, Transport},
    route::retry::{self, Attempt, Outcome},
    upstream::health,
};

use crate::{
    body::Body,
    budget::{Most, Underway},
    exchange::Exchange,
    keys::key,
    pick::{self, Aim, pick},
    pools::Wire,
    replay::Original,
    route::Routed,
    session::Session,
    shard::Shard,
    upstream::{self, Held},
};

/// What a request carries, as often as it can be sent.
enum Payload {
    /// Nothing.
    Empty,
    /// Until it is taken.
    Once(Option<Box<Body>>),
    /// As long as it is kept.
    Kept(Original),
}

impl Payload {
    fn new(body: Body, kept: bool) -> Self {
        match (body.is_end_stream(), kept) {
            (true, _) => Self::Empty,
            (false, true) => Self::Kept(Original::new(body)),
            (false, false) => Self::Once(Some(Box::new(body))),
        }
    }

    fn take(&mut self) -> Option<Body> {
        match self {
            Self::Empty => Some(Body::default()),
            Self::Once(body) => body.take().map(|body| *body),
            Self::Kept(original) => original.is_whole().then(|| Body::replay(original.copy())),
        }
    }

    /// Nothing of it was sent.
    fn give_back(&mut self, body: Body) {
        if let Self::Once(slot) = self {
            *slot = Some(Box::new(body));
        }
    }

    fn is_repeatable(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(body) => body.is_some(),
            Self::Kept(original) => original.is_whole(),
        }
    }
}

/// A request, as often as it can be sent.
struct Outgoing {
    method: Method,
    wire: Wire,
    /// Not here while it is sent for the last time, unless it comes back.
    head: Option<request::Parts>,
    payload: Payload,
}

impl Outgoing {
    fn new(head: request::Parts, wire: Wire, payload: Payload) -> Self {
        Self { method: head.method.clone(), wire, head: Some(head), payload }
    }

    /// To be sent for the `made`th time: a copy only where it may have to be sent again.
    fn take(&mut self, policy: Option<&Retry>, made: u32) -> Option<Request<Body>> {
        let body = self.payload.take()?;
        // Without a word of the route HTTP/2 is repeated only where it comes back: no connection of it counts as rested.
        let lost = policy.is_none() && self.wire == Wire::Http2;
        let kept = !lost && self.payload.is_repeatable() && retry::is_kept(policy, made, &self.method);
        let head = if kept { self.head.clone() } else { self.head.take() };
        Some(Request::from_parts(head?, body))
    }

    /// Nothing of it was sent. What was done to its head for one server is done again for the next, to the same end.
    fn give_back(&mut self, request: Request<Body>) {
        let (head, body) = request.into_parts();
        self.head.get_or_insert(head);
        self.payload.give_back(body);
    }
}

/// The answer, and what is held until its end.
pub type Answered = (Response<Body>, Held);

/// Sends a request as often as its rule allows, within the time that it has.
///
/// # Errors
/// When there is no answer.
pub async fn send(
    shard: &Arc<Shard>,
    exchange: &mut Exchange,
    routed: &Routed,
    wire: Wire,
    request: Request<Body>,
) -> Result<Answered, Fault> {
    let timeouts = routed.rule.as_ref().map_or_else(Timeouts::default, |rule| rule.timeouts);
    let started = exchange.started;
    let sending = repeat(shard, exchange, (routed, timeouts.attempt), wire, request);
    match timeouts.request {
        None => sending.await,
        Some(limit) => {
            let until = started + limit;
            let sent = tokio::time::timeout_at(until.into(), sending).await;
            let (mut response, held) = sent.unwrap_or(Err(Fault::TimedOut(limit)))?;
            response.body_mut().until(until, limit);
            Ok((response, held))
        }
    }
}

async fn repeat(
    shard: &Arc<Shard>,
    exchange: &mut Exchange,
    (routed, limit): (&Routed, Option<Duration>),
    wire: Wire,
    request: Request<Body>,
) -> Result<Answered, Fault> {
    let policy = routed.rule.as_ref().and_then(|rule| rule.retry.clone());
    let (head, body) = request.into_parts();
    let traffic = pick::traffic(shard, &exchange.target);
    let most = most(shard, traffic.as_deref());
    let mut underway = match exchange.service() {
        Some(service) => Some(shard.waypoint.budgets.begin(&service.key(), most).await?),
        None => None,
    };
    let mut aim = aim(exchange, routed, traffic, &head);
    let mut outgoing = Outgoing::new(head, wire, Payload::new(body, policy.is_some()));
    let mut last = None;
    loop {
        let Some(mut request) = outgoing.take(policy.as_ref(), exchange.attempts + 1) else {
            return Err(last.unwrap_or(Fault::NoBackend));
        };
        let hop = match Box::pin(pick(shard, &aim)).await {
            Ok(hop) => hop,
            Err(failure) => return Err(last.unwrap_or_else(|| failure.into())),
        };
        // Without a word of the route, an endpoint that failed for this request is not asked again.
        if policy.is_none()
            && let (Some(uid), Some(_)) = (hop.endpoint(), &last)
            && aim.failed.contains(uid)
        {
            return Err(last.unwrap_or(Fault::NoBackend));
        }
        exchange.attempts += 1;
        exchange.aim_at(&hop);
        exchange.trail.sent(&hop, request.headers_mut());
        let outcome = once(shard, exchange, &hop, (wire, limit), request).await;
        let seen = match outcome {
            Ok(answered) => {
                exchange.trail.answered(answered.0.status().as_u16());
                Ok(answered)
            }
            Err(refused) => {
                let upstream::Refused { fault, request: unsent } = *refused;
                exchange.trail.failed(&fault);
                let unseen = unsent.is_some();
                if let Some(unsent) = unsent {
                    outgoing.give_back(unsent);
                }
                Err((fault, unseen))
            }
        };
        let attempt = attempt(exchange, &outgoing, underway.as_ref(), &seen);
        let wait = attempt.and_then(|attempt| retry::again(policy.as_ref(), &attempt));
        let Some(wait) = wait else { return seen.map_err(|(fault, _unseen)| fault) };
        metrics::counter!("ambit_retries_total").increment(1);
        last = seen.err().map(|(fault, _unseen)| fault);
        if last.as_ref().is_some_and(|fault| !matches!(fault, Fault::Rested(_))) {
            aim.failed.extend(hop.endpoint().cloned());
        }
        aim.seed = aim.seed.wrapping_add(1);
        if let Some(underway) = &mut underway {
            underway.repeat();
        }
        tokio::time::sleep(wait).await;
    }
}

fn aim(exchange: &Exchange, routed: &Routed, traffic: Option<Arc<Traffic>>, head: &request::Parts) -> Aim {
    Aim {
        target: exchange.target.clone(),
        asked: exchange.asked,
        source: exchange.link.peer,
        seed: exchange.seed,
        key: traffic.as_ref().and_then(|traffic| key(traffic, exchange.link.peer, head)),
        session: routed.session.as_ref().and_then(Session::mark),
        traffic,
        failed: HashSet::new(),
    }
}

/// What is known of an attempt; nothing where no other can do better.
fn attempt(
    exchange: &Exchange,
    outgoing: &Outgoing,
    underway: Option<&Underway>,
    seen: &Result<Answered, (Fault, bool)>,
) -> Option<Attempt> {
    let outcome = match seen {
        Ok((response, _held)) => Outcome::Answered(response.status()),
        Err((fault, true)) if fault.meaning().unsent => Outcome::Unseen,
        Err((Fault::Unreached(_), _)) => return None,
        Err((Fault::TimedOut(_), _)) => Outcome::TooLong,
        Err((Fault::Rested(_), _)) => Outcome::Rested,
        Err(_) => Outcome::Broken,
    };
    let (active, repeating) = underway.map_or((1, 0), Underway::numbers);
    Some(Attempt {
        made: exchange.attempts,
        outcome,
        repeatable: outgoing.payload.is_repeatable(),
        idempotent: retry::is_idempotent(&outgoing.method),
        active,
        repeating,
        seed: exchange.seed,
    })
}

async fn once(
    shard: &Arc<Shard>,
    exchange: &Exchange,
    hop: &Hop,
    (wire, limit): (Wire, Option<Duration>),
    request: Request<Body>,
) -> Result<Answered, Box<upstream::Refused>> {
    let endpoints = &shard.waypoint.endpoints;
    let uid = hop.endpoint();
    let in_flight = uid.map(|uid| endpoints.begin(uid, shard.waypoint.now()));
    let began = Instant::now();
    let sending = upstream::send(shard, &exchange.link, hop, wire, request);
    let outcome = match limit {
        None => sending.await,
        Some(limit) => match tokio::time::timeout(limit, sending).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => {
                Err(Box::new(upstream::Refused { fault: Fault::TimedOut(limit), request: None }))
            }
        },
    };
    if let Some(uid) = uid {
        let shown = match &outcome {
            Ok(_) => Some(health::Outcome::Answered),
            Err(refused) => failure_of_endpoint(&refused.fault),
        };
        if let Some(shown) = shown {
            endpoints.note(uid, shown, began.elapsed(), shard.waypoint.now());
        }
        if let Some(wish) = outcome.as_ref().ok().and_then(|(response, _lease)| rest(response)) {
            endpoints.rest(uid, wish, shard.waypoint.now());
        }
    }
    let (response, lease) = outcome?;
    Ok((response, Held { lease: Some(lease), in_flight, room: None }))
}

/// How long a server that cannot serve now wants to be left alone (RFC 9110 §10.2.3); a date is not read, as it is of another
/// clock.
fn rest(response: &Response<Body>) -> Option<Duration> {
    let unavailable = response.status() == StatusCode::SERVICE_UNAVAILABLE;
    let seconds = response.headers().get(RETRY_AFTER).filter(|_| unavailable)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

/// What may be under way to a service: what is said of it, else what this proxy is configured for.
pub fn most(shard: &Shard, traffic: Option<&Traffic>) -> Most {
    let bounds = &shard.waypoint.config.bounds;
    let said = |limit: Option<u32>, or: usize| limit.map_or(or, |limit| limit as usize);
    let limits = traffic.map(|traffic| traffic.limits).unwrap_or_default();
    Most { active: said(limits.active, bounds.service), waiting: said(limits.waiting, bounds.pending) }
}

/// Whether a fault is the endpoint's.
fn failure_of_endpoint(fault: &Fault) -> Option<health::Outcome> {
    match fault {
        Fault::Unreached(_) | Fault::Reset(_) | Fault::Protocol(_) | Fault::TimedOut(_) => {
            Some(health::Outcome::Failed)
        }
        // It says nothing of how the endpoint fares.
        Fault::Rested(_)
        | Fault::Malformed(_)
        | Fault::Stalled(_)
        | Fault::Cancelled
        | Fault::HeaderTooLarge
        | Fault::NoRoute
        | Fault::NoBackend
        | Fault::Unfit(_)
        | Fault::Denied(_)
        | Fault::Unauthenticated(_)
        | Fault::Injected(_)
        | Fault::Overloaded(_)
        | Fault::Unsupported(_) => None,
    }
}

impl Exchange {
    /// Notes the endpoint that the request is sent to.
    fn aim_at(&mut self, hop: &Hop) {
        let tunnelled = match &hop.transport {
            Transport::Passthrough(_) | Transport::Plain(_) => false,
            Transport::Tunnel(_) | Transport::Nested { .. } => true,
        };
        let principal = hop.destination.as_deref().map(mesh::Workload::identity).filter(|_| tunnelled);
        self.destination = End { workload: hop.destination.clone(), hearsay: None, principal };
        self.address = Some(hop.address());
    }
}
