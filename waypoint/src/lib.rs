// SPDX-License-Identifier: Apache-2.0
//! The waypoint: an L7 proxy in front of the services and workloads that name it.
//!
//! ```text
//!  client's ztunnel ══ HBONE ══► inbound ─ link ─ detect ─┬ http1 ─┐
//!                                                         ├ http2 ─┼ serve ─ route ─ pick ─ send ─ upstream (h1, h2 pools) ─┐
//!  control ─ xds ─► Replica ◄─ ask ─ plan                 └ tcp ───┴──────────────── dial ◄──────────────────────────┘
//!  control ─ CA ──► Identities                                            ╚══ HBONE ══► server's ztunnel
//! ```
//!
//! A thin shell: what is addressed, which endpoint it is and what a failure means is decided in `plan`; this carries heads,
//! bodies and bytes, and records what became of them.

pub mod admin;
pub mod app;
pub mod attempts;
pub mod attributes;
pub mod body;
pub mod budget;
pub mod config;
pub mod detect;
pub mod dial;
pub mod dump;
pub mod endpoints;
pub mod exchange;
pub mod expect;
pub mod explain;
pub mod frames;
pub mod framing;
pub mod guard;
pub mod headers;
pub mod hello;
pub mod http1;
pub mod http2;
pub mod inbound;
pub mod jwt;
pub mod keys;
pub mod labels;
pub mod lineups;
pub mod link;
pub mod messages;
pub mod metrics;
pub mod mirror;
pub mod names;
pub mod observed;
pub mod open;
pub mod outside;
pub mod patience;
pub mod pick;
pub mod pools;
pub mod record;
pub mod replay;
pub mod respond;
pub mod roots;
pub mod route;
pub mod serve;
pub mod session;
pub mod shard;
pub mod spans;
pub mod switch;
pub mod tap;
pub mod tcp;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod trail;
pub mod upstream;
pub mod waypoint;
