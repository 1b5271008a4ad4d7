// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: every command of a developer. Each command is a module; `command` only chooses.

mod alerts;
mod bench;
mod check;
mod cluster;
mod command;
mod crds;
mod demo;
mod ebpf;
mod fuzz;
mod image;
mod lab;
mod packages;
mod plugin;
mod step;
mod test;
mod tidy;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    command::Command::parse().run()
}
