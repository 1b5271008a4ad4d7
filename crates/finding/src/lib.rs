// SPDX-License-Identifier: Apache-2.0
//! What a check has found: how bad it is, and what to do about it. The node agent says it of its node, the command line
//! of the cluster, in the same words.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// As it should be.
    Ok,
    /// It works, and should be looked at.
    Warning,
    /// It does not work.
    Failure,
}

/// What a check has found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was checked, in a word or two.
    pub check: Cow<'static, str>,
    /// How bad it is.
    pub grade: Grade,
    /// What was found.
    pub found: String,
    /// What to do; empty when all is well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Grade {
    /// All of them, the best first.
    pub const ALL: [Self; 3] = [Self::Ok, Self::Warning, Self::Failure];

    /// In a word.
    pub fn text(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

impl Finding {
    /// All is well.
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check: check.into(), grade: Grade::Ok, found: found.into(), fix: String::new() }
    }

    /// It works, and should be looked at.
    pub fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), grade: Grade::Warning, found: found.into(), fix: fix.into() }
    }

    /// It does not work.
    pub fn failure(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check: check.into(), grade: Grade::Failure, found: found.into(), fix: fix.into() }
    }
}
