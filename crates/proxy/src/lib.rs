// SPDX-License-Identifier: Apache-2.0
//! What ztunnel and the waypoint share around the decisions of `plan`: putting a question until it is answered, the way
//! to the control plane, what a failed dial means, labels of both ends, which connections are open, what the admin
//! interface shows, the frame of the process.
//!
//! It knows no listener and carries no payload: what a connection is, and what it carries, each proxy knows itself.

pub mod aside;
pub mod ask;
pub mod chain;
pub mod control;
pub mod dialling;
pub mod dump;
pub mod ends;
pub mod explain;
pub mod hearsay;
pub mod open;
pub mod process;
pub mod settings;
pub mod shown;

pub use chain::chain;
