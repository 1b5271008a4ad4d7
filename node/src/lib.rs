// SPDX-License-Identifier: Apache-2.0
//! The node agent: which pods of this node are captured, and which ztunnel serves them. It never touches a packet (the
//! programs of `ebpf` do) and knows no mesh (ztunnel does).
//!
//! ```text
//!  api ──► enrol ──► netns, routes, sysctl   inside the pod's namespace
//!            │  └──► capture                 the programs
//!            │  └──► record                  what the next agent must know
//!            └─────► zds                     every connected ztunnel
//! ```

pub mod admission;
pub mod agent;
pub mod api;
pub mod capture;
pub mod chain;
pub mod checks;
pub mod config;
pub mod conflist;
pub mod enrol;
pub mod install;
pub mod ledger;
pub(crate) mod mark;
pub mod metrics;
pub mod netns;
pub mod pod;
pub mod probes;
pub mod record;
pub(crate) mod rights;
pub mod routes;
pub(crate) mod selection;
pub mod standing;
pub mod sysctl;
pub mod uninstall;
pub mod watcher;
pub mod zds;

pub use membership::{bypass, objects, rules};
