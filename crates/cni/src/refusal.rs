// SPDX-License-Identifier: Apache-2.0
//! An error as CNI wants it: a code for machines, a message and details for the person who reads the pod's events.

use std::time::Duration;

use serde_json::json;

/// CNI's codes, as far as they fit, and one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The configuration is of a version that is not spoken.
    Version,
    /// A variable of the environment.
    Environment,
    /// Reading, writing.
    Io,
    /// Not JSON.
    Decode,
    /// JSON, but not a configuration for this plugin.
    Config,
    /// It may go well later.
    TryAgain,
    /// The plugin cannot serve an ADD now.
    Unavailable,
    /// The agent said no.
    Refused,
}

impl Code {
    fn number(self) -> u32 {
        match self {
            Self::Version => 1,
            Self::Environment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::Config => 7,
            Self::TryAgain => 11,
            Self::Unavailable => 50,
            Self::Refused => 100,
        }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    message: String,
    details: String,
}

impl Refusal {
    /// The message says what failed and names the object; the details say why, and what to do.
    pub(super) fn new(code: Code, message: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: details.into() }
    }

    pub(super) fn late(patience: Duration) -> Self {
        let message = format!("no answer within {} s", patience.as_secs());
        let details = "the runtime did not close stdin or the node agent hangs: see the agent's log; the runtime tries again";
        Self::new(Code::TryAgain, message, details)
    }

    pub(super) fn crashed() -> Self {
        Self::new(
            Code::Refused,
            "the plugin crashed",
            "this is a fault of ambit-cni: report it with its configuration",
        )
    }

    pub(super) fn json(&self, version: &str) -> Vec<u8> {
        let json = json!({
            "cniVersion": version,
            "code": self.code.number(),
            "msg": self.message,
            "details": self.details,
        });
        json.to_string().into_bytes()
    }
}
