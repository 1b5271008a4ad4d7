// SPDX-License-Identifier: Apache-2.0
//! `ambit`, the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
