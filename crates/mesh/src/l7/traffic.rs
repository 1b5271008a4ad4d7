// SPDX-License-Identifier: Apache-2.0
//! How the traffic of one service is handled behind its waypoint, whatever route it comes by.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use arcstr::ArcStr;
use http::HeaderName;

use super::{route::Persistence, tls::ServerTls};
use crate::name::ServiceName;

/// What is said of one service; of a service of which nothing is said there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// The service.
    pub service: ServiceName,
    /// How an endpoint is chosen.
    pub balancer: Balancer,
    /// Whether a client stays with its endpoint, where the route says nothing.
    pub persistence: Option<Persistence>,
    /// How much may be sent again.
    pub budget: Option<Budget>,
    /// What may be under way at a time.
    pub limits: Limits,
    /// By port of the service: TLS to endpoints that have no tunnel.
    pub tls: BTreeMap<u16, Arc<ServerTls>>,
}

impl Traffic {
    /// Of a service of which nothing is said.
    pub fn plain(service: ServiceName) -> Self {
        Self {
            service,
            balancer: Balancer::default(),
            persistence: None,
            budget: None,
            limits: Limits::default(),
            tls: BTreeMap::new(),
        }
    }
}

/// How an endpoint is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// Of two at random the one with the lower product of latency and requests under way.
    #[default]
    PeakEwma,
    /// Of two at random the one with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// By a key on a ring.
    RingHash(HashOn),
    /// By a key in a table.
    Maglev(HashOn),
}

/// Where the key of a request is found; a request without one goes anywhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HashOn {
    /// The client's address.
    #[default]
    SourceIp,
    /// A header.
    Header(HeaderName),
    /// A cookie.
    Cookie(ArcStr),
    /// A query parameter.
    Query(ArcStr),
}

/// How much may be sent again (`retryConstraint` of `XBackendTrafficPolicy`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Share of the requests of an interval that may be repetitions.
    pub percent: u8,
    /// See `percent`.
    pub interval: Duration,
    /// So many may be repetitions in any case …
    pub least: u32,
    /// … in this time.
    pub least_interval: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            percent: 20,
            interval: Duration::from_secs(10),
            least: 10,
            least_interval: Duration::from_secs(1),
        }
    }
}

/// Of one waypoint instance; nothing said is what its configuration says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests and connections under way to the service.
    pub active: Option<u32>,
    /// Those that may wait for their turn.
    pub waiting: Option<u32>,
}
