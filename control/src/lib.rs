// SPDX-License-Identifier: Apache-2.0
//! The control plane: from objects to what proxies are told, and certificates for those who may have them.
//!
//! ```text
//!   manifests ──events──► World ──changes──► publish ──► xDS :15012
//!                           │ who runs where
//!                           └──────────────► ca ───────► certificates :15012
//! ```

pub mod manifests;
pub mod objects;
pub mod report;
mod translate;
pub mod world;
