// SPDX-License-Identifier: Apache-2.0
//! The node proxy's process.

use std::process::ExitCode;

fn main() -> ExitCode {
    match ztunnel::app::run(std::env::vars()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
