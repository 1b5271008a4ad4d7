// SPDX-License-Identifier: Apache-2.0
//! Hot paths, each to be run by itself: by `cargo xtask bench instructions`, which counts what [`path::measured`] executes,
//! by `perf`, or by hand for the time that it takes.

mod decisions;
mod path;
mod tunnels;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    path::Arguments::parse().run()
}
