// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask tidy`: the architecture as a test. Which package may import which, what may be
//! depended on, what pure packages may not touch, how long files may be, how they begin, which names are not used.

mod arrows;
mod charts;
mod dependencies;
mod sources;

use std::fmt;

use anyhow::{Result, ensure};
use clap::Args;

use crate::step::say;

/// Hold the code to the architecture.
#[derive(Args)]
pub(crate) struct Tidy {}

impl Tidy {
    pub(crate) fn run(&self) -> Result<()> {
        report()
    }
}

/// One breach of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Breach {
    /// File, and line where one can be told, or package.
    place: String,
    /// What is wrong and what would be right.
    what: String,
}

impl Breach {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Prints every breach.
///
/// # Errors
/// When there is one.
pub(crate) fn report() -> Result<()> {
    let breaches = breaches()?;
    for breach in &breaches {
        say(format!("   {breach}"));
    }
    ensure!(breaches.is_empty(), "{} breaches of the architecture's rules", breaches.len());
    Ok(())
}

/// Every breach in the repository, sorted.
///
/// # Errors
/// When the repository cannot be read.
fn breaches() -> Result<Vec<Breach>> {
    let mut breaches = arrows::breaches()?;
    breaches.extend(charts::breaches()?);
    breaches.extend(dependencies::breaches()?);
    breaches.extend(sources::breaches()?);
    breaches.sort();
    Ok(breaches)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_keeps_the_architectures_rules() {
        let breaches: Vec<String> = super::breaches().unwrap().iter().map(ToString::to_string).collect();
        assert!(breaches.is_empty(), "{}", breaches.join("\n"));
    }
}
