// SPDX-License-Identifier: Apache-2.0
//! What becomes of a request: which rule it falls under, what the rule's filters do to it, where it goes.
//!
//! A waypoint asks in this order: [`find`], [`filter::before`], [`choose`], the filters of the backend, send, and
//! [`filter::after`] for the answer; [`retry`] says whether it is sent once more.

pub mod cors;
pub mod filter;
pub mod retry;

use mesh::{
    Index, ServiceName,
    chance::Chance,
    l7::{
        RouteKind,
        route::{Backend, HttpRule, TcpRule, TlsRule},
        view::{Matched, Request},
    },
};

/// So that a share is not drawn as an endpoint is.
const SHARES: u64 = 0x0073_6861_7265;

/// The rule of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is attached: it goes to the service that it was sent to.
    Unrouted,
    /// Routes are attached and none of their rules fits: 404, or `UNIMPLEMENTED` where they are for gRPC.
    Nowhere(RouteKind),
    /// This rule.
    Rule(Matched<HttpRule>),
}

/// Finds the rule of a request to a port of a service from a client of a namespace.
pub fn find(
    index: &Index,
    service: &ServiceName,
    port: u16,
    namespace: &str,
    request: &Request<'_>,
) -> Found {
    let view = index.routes_for(service, port, namespace);
    let Some((view, kind)) = view.and_then(|view| Some((view, view.requests()?))) else {
        return Found::Unrouted;
    };
    view.request(request).map_or(Found::Nowhere(kind), Found::Rule)
}

/// The rule of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Nothing is attached: it goes to the service that it was sent to.
    Unrouted,
    /// Only TLS connections to other names are routed.
    Nowhere,
    /// Of a `TLSRoute`.
    Tls(Matched<TlsRule>),
    /// Of a `TCPRoute`.
    Tcp(Matched<TcpRule>),
}

/// Finds the rule of a connection; `server` is the name in its TLS handshake, where it has one.
pub fn connection(
    index: &Index,
    service: &ServiceName,
    port: u16,
    namespace: &str,
    server: Option<&str>,
) -> Connection {
    let Some(view) = index.routes_for(service, port, namespace) else { return Connection::Unrouted };
    if let Some(found) = server.and_then(|server| view.tls(server)) {
        return Connection::Tls(found);
    }
    match view.tcp() {
        Some(found) => Connection::Tcp(found),
        None if view.has_tls() => Connection::Nowhere,
        None => Connection::Unrouted,
    }
}

/// One of several backends by weight; `None` where none has any.
pub fn choose(backends: &[Backend], seed: u64) -> Option<&Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut left = if total == 0 { return None } else { Chance::new(seed, SHARES).below(total) };
    backends.iter().find(|backend| match left.checked_sub(u64::from(backend.weight)) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    })
}

#[cfg(test)]
mod tests;
