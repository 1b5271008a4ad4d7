// SPDX-License-Identifier: Apache-2.0
//! Capture in real network namespaces, on this kernel: two pods and peers on a bridge, a stand-in for the proxy.
//! Needs root; touches only namespaces and pins that it made, all named `ebpf-PID-*`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on says so and ends"
)]

mod app;
#[expect(
    unreachable_pub,
    reason = "the source of the claim crate, which must not be a dependency of its sibling"
)]
#[path = "../../../claim/src/lib.rs"]
mod claim;
mod cost;
mod hostile;
mod life;
mod older;
mod proxy;
mod traffic;
mod wire;
mod world;

/// The proxy's process, started by the tests.
#[test]
#[ignore = "a process of the other tests"]
fn proxy_process() {
    proxy::process();
}
