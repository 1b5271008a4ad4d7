// SPDX-License-Identifier: Apache-2.0
//! `control`: the control plane, until a signal. `control uninstall`: removes what it has made in the cluster, with
//! `--keep-status` all but what it has said in the status of objects.

use std::process::ExitCode;

use anyhow::{Context, bail};
use control::{
    app::{self, Statuses},
    config::Config,
};
use tikv_jemallocator::Jemalloc;

/// A push to every proxy is many small pieces at once, for which glibc's allocator asks the kernel each time.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("control: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let config = Config::from_process()?;
    let _log = runtime::log::init(config.log.clone())?;
    let workers = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let workers = workers.context("cannot start threads")?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => workers.block_on(app::run(config)),
        ["uninstall"] => workers.block_on(app::uninstall(config, Statuses::Withdrawn)),
        ["uninstall", "--keep-status"] => workers.block_on(app::uninstall(config, Statuses::Kept)),
        _ => bail!("unknown arguments; usage: control [uninstall [--keep-status]]"),
    }
}
