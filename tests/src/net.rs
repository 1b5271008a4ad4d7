// SPDX-License-Identifier: Apache-2.0
//! Network namespaces, the links between them, and what goes over those links. Nothing here shells out, and nothing
//! here knows a mesh: the same pieces serve any test that needs two hosts.

pub mod addresses;
pub mod link;
pub mod namespace;
pub mod packet;
pub mod sniffer;

pub use namespace::Namespace;
pub use sniffer::{Capture, Sniffer};
