// SPDX-License-Identifier: Apache-2.0
//! The node proxy's process.

use std::process::ExitCode;

use tikv_jemallocator::Jemalloc;

/// Frames come and go in sizes for which glibc's allocator asks the kernel again and again.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    match ztunnel::again::run(std::env::vars()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
