// SPDX-License-Identifier: Apache-2.0
//! Puts a request to the routes of its service, and carries out what the rule's filters say. Which rule it is and what a
//! filter means is decided in `plan::route`.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header, request, response};
use mesh::{
    Index, WorkloadUid,
    l7::{
        route::{Backend, HttpRule, Target as Reference},
        view::{Matched, Request},
    },
};
use plan::{
    Fault,
    route::{
        self, Found,
        filter::{self, Arrived},
    },
    waypoint::{Target, address_of},
};

use crate::{exchange::Exchange, session::Session, shard::Shard, waypoint::Waypoint};

/// What the routes say of a request.
#[derive(Debug, Default)]
pub struct Routed {
    /// The rule that it falls under; none where nothing is attached.
    pub rule: Option<Arc<HttpRule>>,
    /// The backend that was drawn.
    backend: Option<Backend>,
    /// The `origin` that the request came with.
    origin: Option<HeaderValue>,
    /// Where copies of it go.
    pub mirrors: Vec<Target>,
    /// The client's session.
    pub session: Option<Session>,
}

/// Where a request goes.
pub enum Way {
    /// To a server.
    On(Box<Routed>),
    /// Nowhere: this is the answer.
    Back(Box<Routed>, Box<response::Parts>),
}

/// Finds the rule of a request, applies its filters to the head, and draws a backend.
///
/// # Errors
/// When no rule fits, or the one that does leads nowhere.
pub fn route(shard: &Shard, exchange: &mut Exchange, head: &mut request::Parts) -> Result<Way, Fault> {
    let mut way = find(shard, exchange, head)?;
    if let Way::On(routed) = &mut way {
        if routed.session.is_none() {
            routed.session = of_service(shard, exchange, head);
        }
        if let Some(session) = &routed.session {
            session.hide(&mut head.headers);
        }
    }
    Ok(way)
}

/// The session that the service itself keeps, where no route says anything of one.
fn of_service(shard: &Shard, exchange: &Exchange, head: &request::Parts) -> Option<Session> {
    let service = exchange.service()?.key();
    let rule = shard.waypoint.replica.read(|index| index.traffic(&service)?.persistence.clone())?;
    Some(Session::new(&rule, "/", &head.headers))
}

/// The backend that a session is with, whatever its weight.
fn kept<'a>(shard: &Shard, session: &Session, backends: &'a [Backend]) -> Option<&'a Backend> {
    let mark = session.mark()?;
    shard.waypoint.replica.read(|index| {
        let own = shard.waypoint.local().own(index).ok()?;
        backends.iter().find(|backend| match &backend.target {
            Reference::Service { name, port } => index.service(name).is_some_and(|service| {
                shard.waypoint.lineups.of(index, service, own, *port).marked(mark).is_some()
            }),
            Reference::Refused(_) => false,
        })
    })
}

fn find(shard: &Shard, exchange: &mut Exchange, head: &mut request::Parts) -> Result<Way, Fault> {
    let Some(service) = exchange.service().cloned() else { return Ok(Way::On(Box::default())) };
    let (name, port) = (service.key(), exchange.asked.port());
    let namespace = exchange.link.identity.namespace().clone();
    let asked = Request {
        method: &head.method,
        path: head.uri.path(),
        query: head.uri.query(),
        headers: &head.headers,
    };
    let found = shard.waypoint.replica.read(|index| route::find(index, &name, port, &namespace, &asked));
    match found {
        Found::Unrouted => Ok(Way::On(Box::default())),
        Found::Nowhere(_kind) => Err(Fault::NoRoute),
        Found::Rule(matched) => follow(shard, exchange, head, &matched),
    }
}

fn follow(
    shard: &Shard,
    exchange: &mut Exchange,
    head: &mut request::Parts,
    matched: &Matched<HttpRule>,
) -> Result<Way, Fault> {
    let rule = &matched.rule;
    exchange.route = Some(matched.label.clone());
    let mut routed = Routed {
        rule: Some(Arc::clone(rule)),
        origin: head.headers.get(header::ORIGIN).cloned(),
        ..Routed::default()
    };
    let arrived = Arrived { port: exchange.asked.port(), scheme: "http", prefix: &matched.prefix };
    let unfit = |error: filter::Unfit| Fault::Unfit(error.to_string());
    if let Some(answer) = filter::before(&rule.filters, arrived, head).map_err(unfit)? {
        return Ok(Way::Back(Box::new(routed), Box::new(answer)));
    }
    routed.session = rule.persistence.as_ref().map(|rule| Session::new(rule, &matched.prefix, &head.headers));
    let kept = routed.session.as_ref().and_then(|session| kept(shard, session, &rule.backends));
    let backend = kept.or_else(|| route::choose(&rule.backends, exchange.seed)).ok_or(Fault::NoBackend)?;
    if let Some(answer) = filter::before(&backend.filters, arrived, head).map_err(unfit)? {
        return Ok(Way::Back(Box::new(routed), Box::new(answer)));
    }
    let mirrors = filter::mirrors(&rule.filters, exchange.seed);
    let mirrors = mirrors.chain(filter::mirrors(&backend.filters, exchange.seed));
    shard.waypoint.replica.read(|index| {
        (exchange.target, exchange.asked) = at(&shard.waypoint, index, &backend.target)?;
        routed.mirrors =
            mirrors.filter_map(|target| Some(at(&shard.waypoint, index, target).ok()?.0)).collect();
        Ok::<(), Fault>(())
    })?;
    routed.backend = Some(backend.clone());
    Ok(Way::On(Box::new(routed)))
}

/// The service that a reference names, and its address.
///
/// # Errors
/// When it is none.
pub fn at(
    waypoint: &Waypoint,
    index: &Index,
    target: &Reference,
) -> Result<(Target, std::net::SocketAddr), Fault> {
    match target {
        Reference::Service { name, port } => {
            let service = index.service(name).filter(|service| service.ports.contains_key(port));
            let service = service.ok_or(Fault::NoBackend)?;
            let ip = address_of(service, waypoint.local());
            Ok((Target::Service(Arc::clone(service)), std::net::SocketAddr::new(ip, *port)))
        }
        Reference::Refused(_reason) => Err(Fault::NoBackend),
    }
}

impl Routed {
    /// Applies the filters to the head of the answer; a session is told its endpoint.
    pub fn answered(&self, by: Option<&WorkloadUid>, headers: &mut HeaderMap) {
        if let Some(backend) = &self.backend {
            filter::after(&backend.filters, self.origin.as_ref(), headers);
        }
        if let Some(rule) = &self.rule {
            filter::after(&rule.filters, self.origin.as_ref(), headers);
        }
        if let (Some(session), Some(uid)) = (&self.session, by) {
            session.answered(uid, headers);
        }
    }
}
