// SPDX-License-Identifier: Apache-2.0
//! The stages of one request: look at the head, find the route, send, and pass the answer on. Every request is answered and
//! recorded, whatever happens.

use std::sync::Arc;

use http::{Method, Request, Response, StatusCode, Version, header::WWW_AUTHENTICATE, request};
use mesh::service::AppProtocol;
use plan::Fault;

use crate::{
    attempts::{self, Answered},
    body::Body,
    exchange::{Exchange, Spoken},
    guard,
    headers::{self, Client},
    jwt,
    link::Link,
    mirror,
    open::{Began, Carried},
    pools::Wire,
    record::Ending,
    respond,
    route::{Way, route},
    shard::Shard,
    switch::{self, Switch},
    trail::Trail,
    upstream::Held,
};

/// Answers one request.
pub async fn answer(shard: &Arc<Shard>, link: &Arc<Link>, request: Request<Body>) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    let mut ending = Ending::new(&shard.waypoint, Exchange::new(link, &head));
    ending.exchange.trail = Trail::begin(&shard.waypoint, &ending.exchange, &mut head.headers);
    let outcome = Box::pin(stages(shard, &mut ending.exchange, head, body)).await;
    let (mut response, held) = outcome.unwrap_or_else(|fault| {
        let mut response = respond::fault(&fault, ending.exchange.spoken);
        if matches!(fault, Fault::Unauthenticated(_)) {
            let fields = response.headers_mut();
            fields.extend(jwt::challenge(&ending.exchange).map(|value| (WWW_AUTHENTICATE, value)));
        }
        ending.exchange.fault = Some(fault);
        (response, Held::default())
    });
    let exchange = &mut ending.exchange;
    exchange.status = response.status().as_u16();
    exchange.note_grpc_status(response.headers());
    exchange.trail.keep(response.headers());
    let (count, grpc) = (Arc::clone(&exchange.response), exchange.spoken == Spoken::Grpc);
    response.body_mut().counted(count, grpc);
    response.body_mut().followed(Box::new(ending), Some(held));
    response
}

async fn stages(
    shard: &Arc<Shard>,
    exchange: &mut Exchange,
    mut head: request::Parts,
    mut body: Body,
) -> Result<Answered, Fault> {
    if let Some(flaw) = headers::flaw(&head.method, &head.uri, head.version, &head.headers) {
        return Err(Fault::Malformed(flaw));
    }
    let room = Arc::clone(&shard.requests).try_acquire_owned();
    let room = room.map_err(|_full| Fault::Overloaded("requests"))?;
    body.counted(Arc::clone(&exchange.request), exchange.spoken == Spoken::Grpc);
    guard::normalise(&shard.waypoint, &mut head)?;
    let claims = jwt::authenticate(shard, exchange, &mut head).await?;
    guard::request(shard, exchange, &head, claims.as_deref())?;
    let began = switch::is_wished(&head).then(|| Began::of(exchange, &head, claims));
    let mut routed = match route(shard, exchange, &mut head)? {
        Way::On(routed) => routed,
        Way::Back(routed, answer) => {
            let mut response = Response::from_parts(*answer, Body::default());
            routed.answered(None, response.headers_mut());
            return Ok((response, Held::default()));
        }
    };
    let mut request = Request::from_parts(head, body);
    let wish = prepare(shard, exchange, &mut request)?;
    let targets = std::mem::take(&mut routed.mirrors);
    if !targets.is_empty() {
        let (head, mut body) = request.into_parts();
        mirror::copies(shard, exchange, targets, wish.wire, (&head, &mut body));
        request = Request::from_parts(head, body);
    }
    let sent = attempts::send(shard, exchange, &routed, wish.wire, request).await;
    let (mut response, mut held) = sent?;
    held.room = Some(room);
    let kept = match wish.switch {
        Some(switch) => {
            let carried = Carried { link: Arc::clone(&exchange.link), server: None, request: began };
            switch.follow(shard, carried, &exchange.method, &mut response)
        }
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            return Err(Fault::Protocol("it switches protocols unasked".to_owned()));
        }
        None => None,
    };
    headers::strip(response.headers_mut());
    if let Some(upgrade) = kept {
        headers::ask_upgrade(response.headers_mut(), &upgrade);
    }
    let by = exchange.destination.workload.as_ref().map(|workload| &workload.uid);
    routed.answered(by, response.headers_mut());
    Ok((response, held))
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
            Some(Switch::of(request))
        }
        Some(_) | None if connect && wire == Wire::Http1 => Some(Switch::of(request)),
        // A server may ignore the wish; one that speaks HTTP/2 could not grant it.
        Some(_) | None => None,
    };
    Ok(Wish { wire, switch })
}

/// The version that the port declares, else that of the client.
fn wire(exchange: &Exchange) -> Wire {
    match exchange.declared() {
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
