// SPDX-License-Identifier: Apache-2.0
//! ztunnel: carries the connections of a node's pods in mutual TLS under their identities.
//!
//! ```text
//!  node agent ─ zds ─► pods ─► pod ─ shard ─┬ outbound ─ dial ─┐
//!                                           ├ inbound ─ deliver┼─ relay ─ record
//!  control ─ xds ─► Replica ◄─ ask ─ plan   ├ passthrough ─────┘
//!  control ─ CA ──► Identities              └ dns ─ resolver
//! ```
//!
//! A thin shell: where a flow goes and whether it may is decided in `plan`; this asks, dials, copies and records.

pub mod admin;
pub mod again;
pub mod app;
pub mod config;
pub mod deliver;
pub mod dial;
pub mod dns;
pub mod explain;
pub mod inbound;
pub mod live;
pub mod metrics;
pub mod netns;
pub mod node;
pub mod outbound;
pub mod passthrough;
pub mod pod;
pub mod pods;
pub mod ports;
pub mod record;
pub mod relay;
pub mod resolver;
pub mod socket;
#[cfg(test)]
mod testing;
pub mod zds;

use proxy::{aside, ask, dump, hearsay};
