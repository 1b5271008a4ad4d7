// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask ebpf`: rebuilds the capture programs and compares them with the committed object, byte for byte.

/// Rebuilds `ebpf/capture.bpf.o` and its lock; with `check_only` nothing is written and a difference is an error.
pub fn run(check_only: bool) -> anyhow::Result<()> {
    anyhow::bail!("not built yet (check_only: {check_only})")
}
