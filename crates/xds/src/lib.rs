// SPDX-License-Identifier: Apache-2.0
//! Discovery on both ends: how `mesh` looks on the wire, and how two ends agree on it over delta ADS.
//!
//! ```text
//!  control                                                     ztunnel
//!  Catalogue ── Publisher ── Session ══ DeltaDiscovery* ══ Subscriber ── Writer ─► Replica
//!  └ server (tonic) ┘  └────── delta: no IO, no clock ──────┘  └─ client (tonic) ┘  (Index)
//! ```
//!
//! [`codec`] turns resources into messages and back, [`delta`] is the protocol without a network, [`client`] and
//! [`server`] put it on gRPC, [`replica`] is what readers see. It decides nothing about a connection: `plan` does.

#[cfg(test)]
mod arbitrary;
pub mod client;
pub mod codec;
pub mod delta;
mod jitter;
pub mod kind;
pub mod replica;
pub mod server;

pub use client::{Client, ClientConfig};
pub use codec::Resource;
pub use kind::Kind;
pub use replica::{Replica, Writer};
pub use server::{Catalogue, Server, Update};
