// SPDX-License-Identifier: Apache-2.0
//! The stages of one request: look at the head, find the route, pick an endpoint, send, and pass the answer on. Every
//! request is answered and recorded, whatever happens.

use std::{collections::HashSet, sync::Arc, time::Instant};

use ::proxy::ends::End;
use hbone::{Plain, Socket, abort_pair, copy};
use http::{Method, Request, Response, StatusCode, Version, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use mesh::service::AppProtocol;
use plan::{
    Fault,
    outbound::{Hop, Transport},
    upstream::health::Outcome,
};

use crate::{
    body::Body,
    exchange::{Exchange, Spoken},
    headers::{self, Client, Upgrade},
    link::Link,
    pick::{Aim, pick},
    pools::Wire,
    record::Ending,
    respond,
    shard::Shard,
    upstream::{self, Held},
};

/// Endpoints that are tried for one request, of which nothing was sent to those before.
const ATTEMPTS: u32 = 4;

/// Answers one request.
pub async fn answer(shard: &Arc<Shard>, link: &Arc<Link>, request: Request<Body>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let mut ending = Ending::new(&shard.waypoint, Exchange::new(link, &head));
    let outcome = Box::pin(stages(shard, &mut ending.exchange, head, body)).await;
    let (mut response, held) = outcome.unwrap_or_else(|fault| {
        let response = respond::fault(&fault, ending.exchange.spoken);
        ending.exchange.fault = Some(fault);
        (response, Held::default())
    });
    let exchange = &mut ending.exchange;
    exchange.status = response.status().as_u16();
    exchange.note_grpc_status(response.headers());
    let (count, grpc) = (Arc::clone(&exchange.response), exchange.spoken == Spoken::Grpc);
    response.body_mut().counted(count, grpc);
    response.body_mut().followed(Box::new(ending), Some(held));
    response
}

async fn stages(
    shard: &Arc<Shard>,
    exchange: &mut Exchange,
    head: request::Parts,
    mut body: Body,
) -> Result<(Response<Body>, Held), Fault> {
    if let Some(flaw) = headers::flaw(&head.method, &head.uri, head.version, &head.headers) {
        return Err(Fault::Malformed(flaw));
    }
    let room = Arc::clone(&shard.requests).try_acquire_owned();
    let room = room.map_err(|_full| Fault::Overloaded("requests"))?;
    body.counted(Arc::clone(&exchange.request), exchange.spoken == Spoken::Grpc);
    let mut request = Request::from_parts(head, body);
    route(exchange, &mut request)?;
    let wish = prepare(shard, exchange, &mut request)?;
    let (mut response, mut held) = attempts(shard, exchange, wish.wire, request).await?;
    held.room = Some(room);
    if let Some(switch) = wish.switch {
        switch.follow(shard, &exchange.method, &mut response);
    } else if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(Fault::Protocol("it switches protocols unasked".to_owned()));
    }
    let kept =
        if response.status() == StatusCode::SWITCHING_PROTOCOLS { upgrade_of(&response) } else { None };
    headers::strip(response.headers_mut());
    if let Some(upgrade) = kept {
        headers::ask_upgrade(response.headers_mut(), &upgrade);
    }
    Ok((response, held))
}

fn upgrade_of(response: &Response<Body>) -> Option<Upgrade> {
    response.headers().get(http::header::UPGRADE).cloned().map(Upgrade)
}

/// Decides where a request goes: what was addressed, as no route says otherwise.
fn route(_exchange: &mut Exchange, _request: &mut Request<Body>) -> Result<(), Fault> {
    Ok(())
}

/// What the client wishes of the connection to the server.
struct Wish {
    wire: Wire,
    switch: Option<Switch>,
}

/// Makes the head that the server gets.
fn prepare(shard: &Shard, exchange: &Exchange, request: &mut Request<Body>) -> Result<Wish, Fault> {
    let upgrade = headers::strip(request.headers_mut());
    let link = &exchange.link;
    let client = Client {
        ip: link.peer.ip(),
        identity: &link.identity,
        own: &link.own,
        told: shard.waypoint.config.forward_client,
    };
    headers::forward(request.headers_mut(), client);
    let wire = wire(exchange);
    let connect = exchange.method == Method::CONNECT;
    if connect && (wire == Wire::Http2) != (exchange.version == Version::HTTP_2) {
        return Err(Fault::Unsupported("CONNECT between versions of HTTP"));
    }
    let switch = match upgrade {
        Some(upgrade) if wire == Wire::Http1 && exchange.version == Version::HTTP_11 => {
            headers::ask_upgrade(request.headers_mut(), &upgrade);
            Some(Switch { client: hyper::upgrade::on(&mut *request) })
        }
        // A server may ignore the wish; one that speaks HTTP/2 could not grant it.
        Some(_) | None if connect && wire == Wire::Http1 => {
            Some(Switch { client: hyper::upgrade::on(&mut *request) })
        }
        Some(_) | None => None,
    };
    Ok(Wish { wire, switch })
}

/// The version that the port declares, else that of the client.
fn wire(exchange: &Exchange) -> Wire {
    match exchange.protocol() {
        AppProtocol::Http11 => Wire::Http1,
        AppProtocol::Http2 | AppProtocol::Grpc => Wire::Http2,
        AppProtocol::Unknown | AppProtocol::Tcp | AppProtocol::Tls => {
            if exchange.version == Version::HTTP_2 {
                Wire::Http2
            } else {
                Wire::Http1
            }
        }
    }
}

/// Sends the request, to other endpoints as long as nothing of it was sent.
async fn attempts(
    shard: &Arc<Shard>,
    exchange: &mut Exchange,
    wire: Wire,
    mut request: Request<Body>,
) -> Result<(Response<Body>, Held), Fault> {
    let mut aim = Aim {
        target: exchange.target.clone(),
        asked: exchange.asked,
        source: exchange.link.peer,
        seed: exchange.seed,
        failed: HashSet::new(),
    };
    let mut last = None;
    for attempt in 1..=ATTEMPTS {
        let hop = match Box::pin(pick(shard, &aim)).await {
            Ok(hop) => hop,
            Err(failure) => return Err(last.unwrap_or_else(|| failure.into())),
        };
        exchange.attempts = attempt;
        exchange.aim_at(&hop);
        if attempt > 1 {
            metrics::counter!("ambit_retries_total").increment(1);
        }
        match attempt_at(shard, exchange, &hop, wire, request).await {
            Ok(answered) => return Ok(answered),
            Err(refused) => {
                let upstream::Refused { fault, request: unsent } = *refused;
                let Some(unsent) = unsent.filter(|_| fault.meaning().unsent) else { return Err(fault) };
                let Some(uid) = hop.endpoint() else { return Err(fault) };
                aim.failed.insert(uid.clone());
                (request, last) = (unsent, Some(fault));
            }
        }
    }
    Err(last.unwrap_or(Fault::NoBackend))
}

async fn attempt_at(
    shard: &Arc<Shard>,
    exchange: &Exchange,
    hop: &Hop,
    wire: Wire,
    request: Request<Body>,
) -> Result<(Response<Body>, Held), Box<upstream::Refused>> {
    let endpoints = &shard.waypoint.endpoints;
    let uid = hop.endpoint();
    let in_flight = uid.map(|uid| endpoints.begin(uid, shard.waypoint.now()));
    let began = Instant::now();
    let outcome = upstream::send(shard, &exchange.link, hop, wire, request).await;
    if let Some(uid) = uid {
        let shown = match &outcome {
            Ok(_) => Some(Outcome::Answered),
            Err(refused) => failure_of_endpoint(&refused.fault),
        };
        if let Some(shown) = shown {
            endpoints.note(uid, shown, began.elapsed(), shard.waypoint.now());
        }
    }
    let (response, lease) = outcome?;
    Ok((response, Held { lease: Some(lease), in_flight, room: None }))
}

/// Whether a fault is the endpoint's.
fn failure_of_endpoint(fault: &Fault) -> Option<Outcome> {
    match fault {
        Fault::Unreached(_) | Fault::Reset(_) | Fault::Protocol(_) | Fault::TimedOut(_) => {
            Some(Outcome::Failed)
        }
        Fault::Malformed(_)
        | Fault::Stalled(_)
        | Fault::Cancelled
        | Fault::HeaderTooLarge
        | Fault::NoRoute
        | Fault::NoBackend
        | Fault::Denied(_)
        | Fault::Unauthenticated(_)
        | Fault::Injected(_)
        | Fault::Overloaded(_)
        | Fault::Unsupported(_) => None,
    }
}

/// A client that wishes to go on in another protocol, or without one.
struct Switch {
    client: OnUpgrade,
}

impl Switch {
    /// When the server grants it, bytes are carried from here on.
    fn follow(self, shard: &Shard, method: &Method, response: &mut Response<Body>) {
        let granted = match *method {
            Method::CONNECT => response.status().is_success(),
            _ => response.status() == StatusCode::SWITCHING_PROTOCOLS,
        };
        if !granted {
            return;
        }
        let server = hyper::upgrade::on(response);
        let client = self.client;
        drop(shard.tasks.spawn("upgrade", async move {
            match tokio::try_join!(client, server) {
                Ok((near, far)) => carry(near, far).await,
                Err(error) => tracing::debug!(%error, "a switch of protocols did not come about"),
            }
        }));
    }
}

async fn carry(near: Upgraded, far: Upgraded) {
    let socket = |stream| Socket::new(Plain(TokioIo::new(stream)));
    let (_aborter, abort) = abort_pair();
    let copied = copy(socket(near), socket(far), Arc::default(), abort).await;
    metrics::counter!("ambit_upgraded_bytes_total").increment(copied.sent + copied.received);
}

impl Exchange {
    /// What is declared to be spoken where the request goes.
    fn protocol(&self) -> AppProtocol {
        match self.service() {
            Some(service) => {
                service.ports.get(&self.asked.port()).map_or(AppProtocol::Unknown, |port| port.protocol)
            }
            None => self.link.addressed.protocol,
        }
    }

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
