// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask`: every command of a developer. Each command is a module; this file only chooses.

mod bench;
mod check;
mod demo;
mod ebpf;
mod lab;
mod packages;
mod step;
mod test;
mod tidy;

use clap::Parser;

/// Build, check, test and run Ambit.
#[derive(Parser)]
#[command(name = "cargo xtask")]
enum Command {
    Check(check::Check),
    Tidy(tidy::Tidy),
    Test(test::Test),
    #[command(subcommand)]
    Lab(lab::Lab),
    Demo(demo::Demo),
    Bench(bench::Bench),
    Ebpf(step::Ebpf),
}

fn main() -> anyhow::Result<()> {
    match Command::parse() {
        Command::Check(check) => check.run(),
        Command::Tidy(tidy) => tidy.run(),
        Command::Test(test) => test.run(),
        Command::Lab(lab) => lab.run(),
        Command::Demo(demo) => demo.run(),
        Command::Bench(bench) => bench.run(),
        Command::Ebpf(ebpf) => ebpf::run(ebpf.check),
    }
}
