// SPDX-License-Identifier: Apache-2.0
//! Steps: what is being done, how long it took, and programs that are run for it.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;

/// Rebuild the capture programs from source, with the pinned toolchain.
#[derive(Args)]
pub(crate) struct Ebpf {
    /// Write nothing; fail when the committed object differs.
    #[arg(long)]
    pub(crate) check: bool,
}

/// Prints a line.
#[expect(clippy::print_stdout, reason = "the terminal is where this program reports")]
pub(crate) fn say(line: impl AsRef<str>) {
    println!("{}", line.as_ref());
}

/// Does `work` and says how long it took.
///
/// # Errors
/// Those of `work`.
pub(crate) fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    say(format!("── {name}"));
    let started = Instant::now();
    let outcome = work().with_context(|| name.to_owned());
    let word = if outcome.is_ok() { "done" } else { "failed" };
    say(format!("   {word} in {}", seconds(started.elapsed())));
    outcome
}

/// Runs a program from the root of the repository, with this terminal.
///
/// # Errors
/// When it cannot be executed or fails; the message is the command, to be tried by hand.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Result<()> {
    run_in(&root(), program, arguments)
}

/// As [`run`], with one more variable.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_with((name, value): (&str, &Path), program: &str, arguments: &[&str]) -> Result<()> {
    let line = format!("{name}={} {program} {}", value.display(), arguments.join(" "));
    let status = Command::new(program).args(arguments).env(name, value).current_dir(root()).status();
    let status = status.with_context(|| format!("executing `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// As [`run`], from another folder.
///
/// # Errors
/// As [`run`].
pub(crate) fn run_in(folder: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let line = format!("{program} {}", arguments.join(" "));
    let status = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .status()
        .with_context(|| format!("executing `{line}`"))?;
    ensure!(status.success(), "`{line}` failed: {status}");
    Ok(())
}

/// Runs a program from the root of the repository; its standard output.
///
/// # Errors
/// When it cannot be executed or fails.
pub(crate) fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let line = format!("{program} {}", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .with_context(|| format!("executing `{line}`"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed: {}\n{}", output.status, error.trim());
    String::from_utf8(output.stdout).with_context(|| format!("reading what `{line}` wrote"))
}

/// The root of the repository that this program was built from.
pub(crate) fn root() -> PathBuf {
    lab::kube::mesh::repository()
}

/// A duration for people.
pub(crate) fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}
