// SPDX-License-Identifier: Apache-2.0
//! The command line `ambit`: what a person or a script asks a mesh on Kubernetes.
//!
//! ```text
//!  arguments ──► a command ──► gather ──► facts ──► check, status, tables    (pure)
//!                                 │                        │
//!                     API server, ports of pods       output: table, JSON, YAML
//! ```
//! What becomes of facts is decided by functions over values; only `gather` and what a command writes touch a cluster.

mod arguments;
mod bypass;
mod chart;
mod check;
mod control;
mod dump;
mod exit;
mod explain;
mod facts;
mod gather;
mod install;
mod kinds;
mod output;
mod reach;
mod report;
mod say;
mod status;
mod tree;
mod version;
mod waypoint;
mod ztunnel;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use arguments::{Arguments, Command};
use exit::Outcome;

/// The version of this program, and of the chart inside it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs the command of this process's arguments. Wrong usage ends it with the code 2.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(outcome) => outcome.code(),
        Err(error) => {
            say::error(&error);
            exit::code_of(&error)
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<Outcome> {
    let Arguments { to, command } = arguments;
    if let Command::Completion(completion) = command {
        completion.print();
        return Ok(Outcome::Well);
    }
    let workers = tokio::runtime::Builder::new_current_thread().enable_all().build();
    workers.context("cannot start")?.block_on(async {
        match command {
            Command::Version(version) => version.run(&to).await,
            Command::Check(check) => check.run(&to).await,
            Command::Status(status) => status.run(&to).await,
            Command::Install(install) => install.run(&to).await,
            Command::Uninstall(uninstall) => uninstall.run(&to).await,
            Command::Bypass(bypass) => bypass.run(&to).await,
            Command::BugReport(report) => report.run(&to).await,
            Command::Explain(explain) => explain.run(&to).await,
            Command::Ztunnel(ztunnel) => ztunnel.run(&to).await,
            Command::Waypoint(waypoint) => waypoint.run(&to).await,
            Command::Completion(_) => Ok(Outcome::Well),
        }
    })
}
