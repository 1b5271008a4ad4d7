// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between us and the API server.

use std::{error::Error, time::Duration};

use kube::core::Status;

/// A call that gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It could not be sent, or the answer broke off.
    #[error("the API server cannot be reached")]
    Unreachable(#[source] Box<dyn Error + Send + Sync>),
    /// No answer in time.
    #[error("the API server did not answer within {0:?}")]
    TooLate(Duration),
    /// The server has answered that it will not.
    #[error("the API server refuses it: {message} ({code} {reason})")]
    Refused {
        /// HTTP status.
        code: u16,
        /// Kubernetes' word for it.
        reason: String,
        /// In words.
        message: String,
    },
    /// The answer is not what was asked for.
    #[error("the API server's answer to {path} cannot be read")]
    Answer {
        /// What was asked for.
        path: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The answer is longer than anything that was asked for.
    #[error("the API server's answer to {path} is too long")]
    TooLong {
        /// What was asked for.
        path: String,
    },
    /// The question itself is none.
    #[error("cannot ask for {path}")]
    Question {
        /// What was to be asked for.
        path: String,
        /// Why not.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl ApiError {
    /// The HTTP status of a refusal.
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unreachable(_)
            | Self::TooLate(_)
            | Self::Answer { .. }
            | Self::TooLong { .. }
            | Self::Question { .. } => None,
        }
    }

    /// Whether there is no such thing, object or kind.
    pub fn is_absent(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether somebody else was faster.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether nobody has decided anything: the same call may succeed later.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::TooLate(_) => true,
            Self::Refused { code, .. } => *code == 429 || *code >= 500,
            Self::Answer { .. } | Self::TooLong { .. } | Self::Question { .. } => false,
        }
    }

    /// Of a `Status` object; `code` is that of the response.
    pub(crate) fn refused(code: u16, body: &[u8]) -> Self {
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let Some(status) = status.filter(|status| !status.message.is_empty() || !status.reason.is_empty())
        else {
            let text = String::from_utf8_lossy(body);
            let message = text.chars().take(200).collect();
            return Self::Refused { code, reason: String::new(), message };
        };
        let code = if status.code == 0 { code } else { status.code };
        Self::Refused { code, reason: status.reason, message: status.message }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => {
                Self::Refused { code: status.code, reason: status.reason, message: status.message }
            }
            other => Self::Unreachable(other.into()),
        }
    }
}
