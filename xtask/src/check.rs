// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask check`: what must hold before every commit. Needs neither root nor network namespaces.

use anyhow::Result;
use clap::Args;

use crate::{
    step::{run, step},
    tidy,
};

/// Formatting, lints, tidiness and unit tests.
#[derive(Args)]
pub(crate) struct Check {}

impl Check {
    pub(crate) fn run(&self) -> Result<()> {
        check()
    }
}

/// All steps, the quickest first.
///
/// # Errors
/// At the first step that fails.
pub(crate) fn check() -> Result<()> {
    step("format", || run("cargo", &["fmt", "--all", "--", "--check"]))?;
    step("tidy", tidy::report)?;
    step("lints", || {
        // With all features the tests that need root are compiled and linted too, though not run.
        run(
            "cargo",
            &["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--", "-D", "warnings"],
        )
    })?;
    step("unit tests", || run("cargo", &["test", "--workspace", "--locked", "--quiet"]))
}
