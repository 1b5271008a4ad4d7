// SPDX-License-Identifier: Apache-2.0
//! One request and what becomes of it: the facts that every stage reads or adds.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use ::proxy::ends::End;
use arcstr::ArcStr;
use http::{Method, Version, header::CONTENT_TYPE, request};
use mesh::{Service, service::AppProtocol};
use plan::{Fault, waypoint::Target};

use crate::{body::Count, headers, link::Link, trail::Trail};

/// What a request speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// HTTP, but not gRPC.
    Http,
    /// gRPC.
    Grpc,
}

impl Spoken {
    /// The label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    /// Whose connection it came by.
    pub link: Arc<Link>,
    /// When it came.
    pub started: Instant,
    /// Method.
    pub method: Method,
    /// Path, and what of the query may be shown: nothing before it is known whether a token is in it.
    pub path: ArcStr,
    /// `Host` or `:authority`.
    pub host: ArcStr,
    /// As the client has it.
    pub version: Version,
    /// What it speaks.
    pub spoken: Spoken,
    /// Source of chance.
    pub seed: u64,
    /// What the client sent.
    pub request: Arc<Count>,
    /// What it got.
    pub response: Arc<Count>,
    /// Where the route leads.
    pub target: Target,
    /// The address that was asked for; carries the port.
    pub asked: SocketAddr,
    /// The rule that matched.
    pub route: Option<ArcStr>,
    /// The policy that decided.
    pub policy: Option<ArcStr>,
    /// Who answered, or was to.
    pub destination: End,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// How often it was sent.
    pub attempts: u32,
    /// The answer's status.
    pub status: u16,
    /// The status of gRPC, once known.
    pub grpc_status: Option<ArcStr>,
    /// Why there is no answer of a server.
    pub fault: Option<Fault>,
    /// By what it is found again.
    pub trail: Trail,
}

impl Exchange {
    /// One that begins.
    pub fn new(link: &Arc<Link>, head: &request::Parts) -> Self {
        let grpc = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        Self {
            link: Arc::clone(link),
            started: Instant::now(),
            method: head.method.clone(),
            path: head.uri.path().into(),
            host: headers::host(&head.uri, &head.headers).into(),
            version: head.version,
            spoken: if grpc { Spoken::Grpc } else { Spoken::Http },
            seed: rand::random(),
            request: Arc::default(),
            response: Arc::default(),
            target: link.addressed.target.clone(),
            asked: link.addressed.asked,
            route: None,
            policy: None,
            destination: End::default(),
            address: None,
            attempts: 0,
            status: 0,
            grpc_status: None,
            fault: None,
            trail: Trail::default(),
        }
    }

    /// What is declared to be spoken where the request goes.
    pub fn declared(&self) -> AppProtocol {
        match self.service() {
            Some(service) => {
                service.ports.get(&self.asked.port()).map_or(AppProtocol::Unknown, |port| port.protocol)
            }
            None => self.link.addressed.protocol,
        }
    }

    /// The service that the request is for.
    pub fn service(&self) -> Option<&Arc<Service>> {
        self.target.service()
    }
}
