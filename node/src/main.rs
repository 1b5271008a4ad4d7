// SPDX-License-Identifier: Apache-2.0
//! `node-agent`: serves pods until a signal. `node-agent detach --all`: gives every pod back and removes all pins.
//! `node-agent uninstall`: ends all agents of the cluster.

use std::process::ExitCode;

use anyhow::{Context, bail};
use node::{agent, config::Config, uninstall};

/// The agent waits more than it works.
const WORKERS: usize = 2;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let config = Config::from_process()?;
    let _log = runtime::log::init(config.log.clone())?;
    let workers = tokio::runtime::Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    let workers = workers.context("cannot start threads")?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => workers.block_on(agent::run(config)),
        ["detach", "--all"] => workers.block_on(agent::detach_all(config)),
        ["uninstall"] => {
            let cluster = config.cluster.context("AMBIT_KUBERNETES is not set")?;
            workers.block_on(uninstall::run(&cluster))
        }
        _ => bail!("unknown arguments; usage: node-agent [detach --all | uninstall]"),
    }
}
