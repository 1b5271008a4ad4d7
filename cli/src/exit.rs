// SPDX-License-Identifier: Apache-2.0
//! The exit codes, for scripts. `arguments.rs` has them for people.

use std::process::ExitCode;

use kubernetes::{AccessError, ApiError};

/// How a command ended that could be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All is well.
    Well,
    /// It has found something wrong.
    Wrong,
}

/// A program that a command runs is not there.
#[derive(Debug, thiserror::Error)]
#[error("{program} is not on PATH; {fix}")]
pub(crate) struct Missing {
    pub(crate) program: &'static str,
    pub(crate) fix: &'static str,
}

impl Outcome {
    pub(crate) fn code(self) -> ExitCode {
        match self {
            Self::Well => ExitCode::SUCCESS,
            Self::Wrong => ExitCode::from(1),
        }
    }
}

/// For a command that could not be carried out.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(number(error))
}

fn number(error: &anyhow::Error) -> u8 {
    for cause in error.chain() {
        if cause.is::<Missing>() {
            return 4;
        }
        if cause.is::<AccessError>() {
            return 3;
        }
        if let Some(error) = cause.downcast_ref::<ApiError>() {
            return if error.is_outage() || matches!(error.code(), Some(401 | 403)) { 3 } else { 1 };
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    #[test]
    fn a_script_can_tell_what_is_wrong_from_what_cannot_be_known() {
        let refused = |code| ApiError::Refused {
            code,
            reason: String::new(),
            causes: Vec::new(),
            message: String::new(),
        };
        for (error, code) in [
            (anyhow!("anything"), 1),
            (anyhow::Error::new(refused(403)), 3),
            (anyhow::Error::new(refused(500)), 3),
            (anyhow::Error::new(refused(422)), 1),
            (anyhow::Error::new(Missing { program: "helm", fix: "get it" }), 4),
        ] {
            assert_eq!(number(&error), code, "{error}");
            let wrapped = Err::<(), _>(error).context("while doing something").unwrap_err();
            assert_eq!(number(&wrapped), code, "{wrapped:#}");
        }
    }
}
