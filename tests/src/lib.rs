// SPDX-License-Identifier: Apache-2.0
//! The lab: a mesh of network namespaces on one machine, and the harness of its tests.
//!
//! It starts the product's binaries by path, as a person would, and links none of them: what a scenario shows is
//! what the binaries do. `Cluster` is the entrance; `net` and `process` are the ground it stands on; `observe` reads
//! what the running parts say about themselves.

pub mod clean;
pub mod cluster;
pub mod collectors;
pub mod config;
pub mod dns;
pub mod echo;
pub mod envoy;
pub mod http;
pub mod image;
pub mod kube;
pub mod net;
pub mod observe;
pub mod process;
pub mod record;
pub mod strangers;
pub mod wait;

pub use cluster::{Cluster, Node, Pod};
pub use config::Settings;
pub use wait::eventually;
