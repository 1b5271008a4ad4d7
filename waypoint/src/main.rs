// SPDX-License-Identifier: Apache-2.0
//! The waypoint's process.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Heads and frames come and go in sizes for which glibc's allocator asks the kernel again and again.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match waypoint::app::run(std::env::vars()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
