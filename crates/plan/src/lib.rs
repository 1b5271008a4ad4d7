// SPDX-License-Identifier: Apache-2.0
//! The decisions of the proxies about flows and requests: where an outbound connection goes ([`outbound`]), whether and
//! where an inbound one is let in ([`inbound`]), what a DNS question is answered ([`dns`]), what a waypoint is asked for
//! ([`waypoint`]), who may send it ([`guard`]), which rule a request falls under ([`route`]), which endpoint is the better one ([`upstream`]), and what
//! every failure means ([`failure`] of flows, [`fault`] of requests).
//!
//! Pure functions over `mesh::Index`: no IO, clock, runtime or randomness. What a decision lacks is a value,
//! [`Answer::Needs`]; the shell fetches it and asks again.

pub mod answer;
pub mod authority;
pub mod baggage;
pub mod dns;
pub mod failure;
pub mod fault;
#[cfg(test)]
mod fixtures;
pub mod flow;
pub mod forwarded;
pub mod guard;
pub mod inbound;
pub mod outbound;
pub mod route;
pub mod trace;
pub mod upstream;
pub mod waypoint;

pub use answer::{Answer, Missing};
pub use authority::Authority;
pub use failure::{Failure, ResponseFlag, Retry, What, Whose};
pub use fault::Fault;
pub use flow::{Flow, Local, Protocol, Resolved};

/// Port of tunnels (HBONE).
pub const HBONE_PORT: u16 = 15008;
/// Ports of the proxy itself in a pod: a destination that ends there would call ourselves.
pub const OWN_PORTS: [u16; 3] = [15001, 15006, HBONE_PORT];
