// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench instructions`: how many instructions the hot paths take, under callgrind, beside what is on record. Unlike
//! time it is the same on a busy machine, so a change that makes a path longer is found by the tests.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::{
    packages::{self, VALGRIND},
    step::{root, run, say, step},
};

/// What is on record.
const RECORD: &str = "crates/hot/instructions.toml";
/// How many more there may be than on record, in percent.
const SLACK: u64 = 5;
/// What `hot` calls its paths. Not `bulk`: it is copies of memory, and how many instructions those are is the processor's.
const PATHS: [&str; 5] = ["authorize", "outbound", "exchange", "crowd", "open"];
/// The function that is counted with all that it calls.
const COUNTED: &str = "hot::path::measured";
/// libc has several ways to copy memory, and takes the one that the processor is best at: this one most have.
const PLAIN: (&str, &str) = ("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2,-AVX512F,-AVX512VL,-ERMS,-FSRM");

/// Instructions of the hot paths, beside what is on record.
#[derive(Args, Default)]
pub(crate) struct Instructions {
    /// Put what is counted on record.
    #[arg(long)]
    update: bool,
}

impl Instructions {
    pub(crate) fn run(&self) -> Result<()> {
        packages::ensure_installed(&[VALGRIND])?;
        step("hot paths", || run("cargo", &["build", "--profile", "hot", "--package", "hot", "--locked"]))?;
        let program = super::released()?.with_file_name("hot").join("hot");
        let mut counted = BTreeMap::new();
        for path in PATHS {
            counted.insert(path.to_owned(), count(&program, path)?);
        }
        let record = root().join(RECORD);
        if self.update {
            let lines = counted.iter().map(|(path, count)| format!("{path} = {count}\n"));
            let text = format!(
                "# Written by `cargo xtask bench instructions --update`.\n{}",
                lines.collect::<String>()
            );
            return fs::write(&record, text).with_context(|| format!("writing {}", record.display()));
        }
        let text = fs::read_to_string(&record).with_context(|| format!("reading {}", record.display()))?;
        let known = toml::from_str(&text).with_context(|| format!("reading {}", record.display()))?;
        judge(&counted, &known)
    }
}

fn count(program: &Path, path: &str) -> Result<u64> {
    let out = program.with_file_name(format!("{path}.callgrind"));
    let mut command = Command::new(VALGRIND.program);
    command.args(["--tool=callgrind", &format!("--toggle-collect={COUNTED}")]);
    command.arg(format!("--callgrind-out-file={}", out.display())).arg(program).arg(path);
    let output = command.env(PLAIN.0, PLAIN.1).output().context("executing valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{path}: {}: {said}", output.status);
    said.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .filter(|count| *count > 0)
        .with_context(|| format!("{path}: callgrind has counted nothing of {COUNTED}: {said}"))
}

/// Says what was counted, and fails when a path has become longer.
fn judge(counted: &BTreeMap<String, u64>, known: &BTreeMap<String, u64>) -> Result<()> {
    let mut longer = Vec::new();
    say(format!("{:<12}{:>16}{:>16}{:>8}", "path", "on record", "counted", "ratio"));
    for (path, count) in counted {
        let before =
            *known.get(path).with_context(|| format!("{RECORD} has no {path}: --update writes it"))?;
        let ratio = *count as f64 / before.max(1) as f64;
        say(format!("{path:<12}{before:>16}{count:>16}{ratio:>8.3}"));
        if count * 100 > before * (100 + SLACK) {
            longer.push(path.as_str());
        }
    }
    if !longer.is_empty() {
        bail!(
            "more instructions than on record by over {SLACK}%: {}; `callgrind_annotate target/hot/<path>.callgrind` says \
             where; if that is meant, `cargo xtask bench instructions --update` puts it on record",
            longer.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_longer_by_more_than_the_slack_is_named() {
        let of =
            |crowd: u64, open: u64| BTreeMap::from([("crowd".to_owned(), crowd), ("open".to_owned(), open)]);
        assert!(judge(&of(1050, 10), &of(1000, 1000)).is_ok());
        let text = judge(&of(1051, 10), &of(1000, 1000)).unwrap_err().to_string();
        assert!(text.contains("crowd;") && !text.contains("open"), "{text}");
        let unknown = judge(&of(1, 1), &BTreeMap::new()).unwrap_err().to_string();
        assert!(unknown.contains("has no crowd"), "{unknown}");
    }
}
