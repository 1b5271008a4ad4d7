// SPDX-License-Identifier: Apache-2.0
//! What needs a kernel and root: `cargo test -p node --features root-tests`. Namespaces are called `node-…` and go with
//! the test.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, also in its helpers"
)]

mod agent;
mod namespace;
mod plugin;
mod routes;
