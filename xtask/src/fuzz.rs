// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask fuzz`: looks for bytes that break a parser of outside bytes. libFuzzer on the stable toolchain: LLVM's
//! coverage pass is in every rustc. What breaks a target becomes a file of its corpus, so every later test run tries it.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    num::NonZero,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    packages,
    step::{output, root, run, say, seconds, step},
};

/// How long one target is tried.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);
/// Everything that is built for fuzzing, and what fuzzing has learned so far.
const FOLDER: &str = "target/fuzz";
/// Makes the compiler count edges and report comparisons, in all crates.
const FLAGS: [&str; 6] = [
    "--cfg=ambit_fuzz",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// One input may take this long and this much memory.
const LIMITS: [&str; 3] = ["-timeout=10", "-rss_limit_mb=2048", "-max_len=8192"];

/// Look for bytes that break a parser: 60 seconds for each.
#[derive(Args)]
pub(crate) struct Fuzz {
    /// Only these parsers; the folders of fuzz/corpus are their names.
    targets: Vec<String>,
    /// Ten minutes for each.
    #[arg(long)]
    long: bool,
}

impl Fuzz {
    pub(crate) fn run(&self) -> Result<()> {
        let all = targets()?;
        if let Some(unknown) = self.targets.iter().find(|wanted| !all.contains(wanted)) {
            bail!("no target {unknown}; there are {}", all.join(", "));
        }
        let chosen = if self.targets.is_empty() { all } else { self.targets.clone() };
        packages::ensure_installed(&[packages::CPP])?;
        let program = step("instrumented build", build)?;
        let each = if self.long { LONG } else { SHORT };
        step(&format!("{} targets, {} each", chosen.len(), seconds(each)), || {
            fuzz_all(&program, &chosen, each)
        })
    }
}

/// Every target has a corpus.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("fuzz/corpus")).context("listing the corpora")? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Builds in a folder of its own, for a named target: then build scripts and macros are not instrumented.
fn build() -> Result<String> {
    let version = output("rustc", &["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say what machine this is")?;
    let flags = FLAGS.map(|flag| format!("{flag:?}")).join(",");
    let config = format!("build.rustflags=[{flags}]");
    let arguments =
        ["build", "--package", "fuzz", "--bin", "fuzz", "--locked", "--target", host, "--config", &config];
    run("cargo", &[arguments.as_slice(), &["--target-dir", FOLDER]].concat())?;
    Ok(format!("{FOLDER}/{host}/debug/fuzz"))
}

/// As many targets at a time as there are processors.
fn fuzz_all(program: &str, chosen: &[String], each: Duration) -> Result<()> {
    let rows = thread::available_parallelism().map_or(1, NonZero::get);
    let row = |first| chosen.iter().skip(first).step_by(rows).filter(|target| !holds(program, target, each));
    let broken: Vec<&String> = thread::scope(|scope| {
        let running: Vec<_> =
            (0..rows).map(|first| scope.spawn(move || row(first).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|row| row.join().unwrap_or_default()).collect()
    });
    ensure!(broken.is_empty(), "{} targets are broken", broken.len());
    Ok(())
}

/// Whether nothing was found; says what was.
fn holds(program: &str, target: &str, each: Duration) -> bool {
    match fuzz(program, target, each) {
        Ok(()) => true,
        Err(error) => {
            say(format!("   {target}: {error:#}"));
            false
        }
    }
}

/// Tries one target. What is new to it is kept in the build folder, what breaks it goes into its corpus.
fn fuzz(program: &str, target: &str, each: Duration) -> Result<()> {
    let (learned, corpus) = (format!("{FOLDER}/learned/{target}"), format!("fuzz/corpus/{target}"));
    let log = format!("{FOLDER}/{target}.log");
    fs::create_dir_all(root().join(&learned)).with_context(|| format!("making {learned}"))?;
    let known = files(&corpus)?;
    let file = File::create(root().join(&log)).with_context(|| format!("making {log}"))?;
    let status = Command::new(root().join(program))
        .args(LIMITS)
        .arg(format!("-max_total_time={}", each.as_secs()))
        .arg(format!("-artifact_prefix={corpus}/"))
        .args(["-print_final_stats=1", &learned, &corpus, "-ignore_remaining_args=1", target])
        .current_dir(root())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| format!("executing {program}"))?;
    let told = fs::read(root().join(&log)).with_context(|| format!("reading {log}"))?;
    let told = String::from_utf8_lossy(&told);
    let found: Vec<String> = files(&corpus)?.difference(&known).cloned().collect();
    if status.success() && found.is_empty() {
        say(format!("   {target:<15} {}", summary(&told)));
        return Ok(());
    }
    let mut again = String::new();
    for file in &found {
        again.push_str(&format!(
            "\n     again: cargo test --workspace --locked --test corpus -- {target}/{file}"
        ));
    }
    bail!("BROKEN ({status}), the log is {log}{again}")
}

fn files(folder: &str) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(root().join(folder)).with_context(|| format!("listing {folder}"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// How much was tried and reached, of what libFuzzer prints.
fn summary(log: &str) -> String {
    let number = |name: &str| {
        let line = log.lines().rev().find_map(|line| line.strip_prefix(name));
        line.map_or("?", str::trim).to_owned()
    };
    // A dictionary that it recommends comes after the last line of progress.
    let last = log.lines().rev().find(|line| line.contains(" cov: ")).unwrap_or_default();
    let reached = last.split_whitespace().skip_while(|word| *word != "cov:").nth(1).unwrap_or("?");
    format!("{} tries, {reached} edges", number("stat::number_of_executed_units:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libfuzzer_prints_becomes_one_line() {
        let log = "#2\tINITED cov: 10 ft: 11 corp: 1/1b\n#99\tDONE   cov: 345 ft: 600 corp: 30/1Kb\n\
                   ###### Recommended dictionary. ######\nstat::number_of_executed_units: 99\n";
        assert_eq!(summary(log), "99 tries, 345 edges");
        assert_eq!(summary(""), "? tries, ? edges");
    }
}
