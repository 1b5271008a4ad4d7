// SPDX-License-Identifier: Apache-2.0
//! The waypoint: an L7 proxy in front of the services and workloads that name it.
//!
//! ```text
//!  client's ztunnel ══ HBONE ══► inbound ─ link ─ detect ─┬ http1 ─┐
//!                                                         ├ http2 ─┼ serve ─ pick ─ send ─ upstream (h1, h2 pools) ─┐
//!  control ─ xds ─► Replica ◄─ ask ─ plan                 └ tcp ───┴──────────────── dial ◄──────────────────────────┘
//!  control ─ CA ──► Identities                                            ╚══ HBONE ══► server's ztunnel
//! ```
//!
//! A thin shell: what is addressed, which endpoint it is and what a failure means is decided in `plan`; this carries heads,
//! bodies and bytes, and records what became of them.

pub mod admin;
pub mod app;
pub mod body;
pub mod config;
pub mod detect;
pub mod dial;
pub mod endpoints;
pub mod exchange;
pub mod headers;
pub mod http1;
pub mod http2;
pub mod inbound;
pub mod link;
pub mod messages;
pub mod metrics;
pub mod pick;
pub mod pools;
pub mod record;
pub mod respond;
pub mod serve;
pub mod shard;
pub mod tcp;
pub mod upstream;
pub mod waypoint;
