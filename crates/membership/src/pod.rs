// SPDX-License-Identifier: Apache-2.0
//! What identifies a pod, what is captured of it, and what is wrong with a field of it.

use std::fmt;

use crate::exclusions::Exclusions;

/// A UUID has 36 characters, a static pod's hash 32; with a pod's names a ZDS packet stays below its 1024 bytes.
const MAX_UID: usize = 128;

/// A pod's uid, safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uid(String);

impl Uid {
    /// Parses a uid.
    ///
    /// # Errors
    /// When it is empty, too long, or holds what cannot be part of a file name.
    pub fn parse(text: &str) -> Result<Self, PodError> {
        let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if text.is_empty() || text.len() > MAX_UID || text.starts_with('.') || !text.chars().all(safe) {
            return Err(PodError {
                field: "uid",
                problem: format!("{text:?} is not a pod uid"),
                fix: "give the pod's metadata.uid: 1 to 128 letters, digits, '-', '_' or '.'",
            });
        }
        Ok(Self(text.to_owned()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is captured of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Its DNS.
    pub dns: Capturing,
    /// Connections to it.
    pub inbound: Capturing,
    /// What of both is left alone.
    pub exclusions: Exclusions,
}

/// Whether something is captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Capturing {
    /// It goes to ztunnel.
    #[default]
    On,
    /// It goes where the application says.
    Off,
}

impl From<bool> for Capturing {
    fn from(on: bool) -> Self {
        if on { Self::On } else { Self::Off }
    }
}

/// A field that cannot be accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {fix}")]
pub struct PodError {
    /// Which one, as JSON spells it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// What to write instead.
    pub fix: &'static str,
}
