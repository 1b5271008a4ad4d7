// SPDX-License-Identifier: Apache-2.0
//! The control plane's process.

use std::process::ExitCode;

use anyhow::Context;
use control::{app, config::Config};

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
    let config = Config::from_process()?;
    let _log = runtime::log::init(config.log.clone())?;
    let workers = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    workers.context("cannot start threads")?.block_on(app::run(config))
}
