// SPDX-License-Identifier: Apache-2.0
//! Tunnels as their users see them: over pipes and loopback TCP, with real peers at both ends.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on shall stop")]

mod copying;
mod pooling;
mod serving;
mod support;
mod traffic;
