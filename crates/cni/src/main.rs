// SPDX-License-Identifier: Apache-2.0
//! `cni`: the plugin that a container runtime runs for every pod, installed as `ambit-cni`. See the library.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use cni::Outcome;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let Outcome { output, note, success } = cni::run_in_time(environment, io::stdin());
    if let Some(note) = note {
        eprintln!("ambit-cni: {note}");
    }
    let mut stdout = io::stdout();
    let written = stdout.write_all(&output).and_then(|()| stdout.flush());
    if success && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
