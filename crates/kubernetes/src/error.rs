// SPDX-License-Identifier: Apache-2.0
//! What can go wrong between us and the API server.

use std::{error::Error, time::Duration};

use kube::core::Status;

/// The cause of a refusal to make something in a namespace that is being deleted.
const TERMINATING: &str = "NamespaceTerminating";

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
        /// Its words for why, of which there may be none.
        causes: Vec<String>,
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

    /// Whether its namespace is about to go: nothing new is made there.
    pub fn is_terminating(&self) -> bool {
        match self {
            Self::Refused { causes, .. } => causes.iter().any(|cause| cause == TERMINATING),
            Self::Unreachable(_)
            | Self::TooLate(_)
            | Self::Answer { .. }
            | Self::TooLong { .. }
            | Self::Question { .. } => false,
        }
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
            return Self::Refused { code, reason: String::new(), causes: Vec::new(), message };
        };
        Self::of(if status.code == 0 { code } else { status.code }, status)
    }

    fn of(code: u16, status: Status) -> Self {
        let causes = status.details.into_iter().flat_map(|details| details.causes);
        let causes = causes.map(|cause| cause.reason).collect();
        Self::Refused { code, reason: status.reason, causes, message: status.message }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::of(status.code, *status),
            other => Self::Unreachable(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_is_about_to_go_is_told_from_a_role_that_lacks_something() {
        let refused = |details: &str| {
            let body = format!(
                r#"{{"kind":"Status","apiVersion":"v1","status":"Failure","message":"configmaps \"a\" is forbidden","reason":"Forbidden",{details}"code":403}}"#
            );
            ApiError::refused(403, body.as_bytes())
        };
        let going = refused(
            r#""details":{"name":"a","kind":"configmaps","causes":[{"reason":"NamespaceTerminating","message":"namespace shop is being terminated","field":"metadata.namespace"}]},"#,
        );
        assert!(going.is_terminating() && !going.is_absent());
        assert!(!refused("").is_terminating());
        assert!(!refused(r#""details":{"name":"a","kind":"configmaps"},"#).is_terminating());
    }
}
