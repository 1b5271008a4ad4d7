// SPDX-License-Identifier: Apache-2.0
//! The control plane: from objects to what proxies are told, and certificates for those who may have them.
//!
//! ```text
//!   manifests or cluster ──events──► World ──changes──► Catalogue ──► xDS  ┐
//!                                      │ who runs where                    ├ :15012, callers shown by authenticate
//!                                      └──────────────► ca ─────► certificates ┘
//! ```
//!
//! `objects` are what users write, `translate` says what proxies are told because of them, `world` keeps both in step.
//! Sources feed `live`: a folder of manifests, or a Kubernetes API server.

mod admission;
pub mod app;
pub mod authenticate;
pub mod ca;
mod cluster;
pub mod config;
pub mod deploy;
pub mod live;
pub mod manifests;
mod metrics;
pub mod objects;
pub mod report;
mod serve;
#[cfg(test)]
mod testing;
mod translate;
mod tree;
pub mod world;
