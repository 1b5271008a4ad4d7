// SPDX-License-Identifier: Apache-2.0
//! The control plane: from objects to what proxies are told, and certificates for those who may have them.
//!
//! ```text
//!   manifests ──events──► World ──changes──► Catalogue ──► xDS  ┐
//!                           │ who runs where                    ├ :15012, callers shown by authenticate
//!                           └──────────────► ca ─────► certificates ┘
//! ```
//!
//! `objects` are what users write, `translate` says what proxies are told because of them, `world` keeps both in step.
//! Sources feed `live`; today that is a folder of manifests.

pub mod app;
pub mod authenticate;
pub mod ca;
pub mod config;
pub mod live;
pub mod manifests;
mod metrics;
pub mod objects;
pub mod report;
mod serve;
#[cfg(test)]
mod testing;
mod translate;
pub mod world;
