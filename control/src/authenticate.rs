// SPDX-License-Identifier: Apache-2.0
//! Who calls: from a bearer token to a service account and, for what runs on a node, its node.
//!
//! Standalone mode has a file of tokens; in a cluster the API server reviews them (`TokenReview`). What a caller may then do
//! is decided elsewhere.

mod reviews;
mod tokens;

use std::{fmt, future::Future, net::SocketAddr, sync::Arc};

use arcstr::ArcStr;
use mesh::{SpiffeId, TrustDomain};
use tonic::{Code, Status, metadata::MetadataMap};

pub(crate) use self::reviews::Reviews;
pub use self::tokens::{StaticTokens, TokensError};
use crate::metrics;

/// Somebody who has shown a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of its service account.
    pub namespace: ArcStr,
    /// Its service account.
    pub service_account: ArcStr,
    /// The node that the token is bound to.
    pub node: Option<ArcStr>,
}

impl Caller {
    /// Its own identity.
    pub fn identity(&self, trust_domain: &TrustDomain) -> SpiffeId {
        SpiffeId::new(trust_domain.clone(), self.namespace.clone(), self.service_account.clone())
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)?;
        match &self.node {
            Some(node) => write!(f, " on {node}"),
            None => Ok(()),
        }
    }
}

/// Why somebody is nobody to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No header, or another scheme.
    #[error("the call has no bearer token: send authorization: Bearer <token>")]
    NoToken,
    /// Not a token of ours.
    #[error("the bearer token is not known here")]
    UnknownToken,
    /// A token that somebody else has judged.
    #[error("the bearer token is refused: {reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Nobody can say now.
    #[error("the bearer token cannot be judged now: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl Unauthenticated {
    fn status(&self) -> Status {
        match self {
            Self::NoToken | Self::UnknownToken | Self::Refused { .. } => {
                Status::unauthenticated(self.to_string())
            }
            Self::Unavailable { .. } => Status::unavailable(self.to_string()),
        }
    }
}

/// Knows tokens.
pub trait Authenticate: Send + Sync + 'static {
    /// Whose token it is. Implementations that ask somebody else set their own deadline.
    fn authenticate(&self, token: &str) -> impl Future<Output = Result<Caller, Unauthenticated>> + Send;

    /// Whose token it was when somebody could be asked: enough to read what this replica last knew, never for more.
    fn recall(&self, token: &str) -> Option<Caller>;
}

/// Who is asked about tokens.
#[derive(Debug)]
pub(crate) enum Authenticator {
    /// A file.
    Tokens(StaticTokens),
    /// The API server.
    Reviews(Reviews),
}

impl Authenticate for Authenticator {
    async fn authenticate(&self, token: &str) -> Result<Caller, Unauthenticated> {
        match self {
            Self::Tokens(tokens) => tokens.authenticate(token).await,
            Self::Reviews(reviews) => reviews.authenticate(token).await,
        }
    }

    fn recall(&self, token: &str) -> Option<Caller> {
        match self {
            Self::Tokens(tokens) => tokens.recall(token),
            Self::Reviews(reviews) => reviews.recall(token),
        }
    }
}

/// The caller of a gRPC method.
///
/// # Errors
/// `Unauthenticated`, with what is missing.
pub(crate) async fn caller(
    authenticator: &impl Authenticate,
    headers: &MetadataMap,
) -> Result<Caller, Status> {
    let answer = match bearer(headers) {
        Some(token) => authenticator.authenticate(token).await,
        None => Err(Unauthenticated::NoToken),
    };
    answer.map_err(|error| {
        metrics::authentication_failed();
        error.status()
    })
}

/// The caller of a method that only tells what this replica knows.
///
/// # Errors
/// `Unauthenticated`, with what is missing.
async fn reader(authenticator: &impl Authenticate, headers: &MetadataMap) -> Result<Caller, Status> {
    let refused = match caller(authenticator, headers).await {
        Ok(caller) => return Ok(caller),
        Err(status) => status,
    };
    if refused.code() != Code::Unavailable {
        return Err(refused);
    }
    let recalled = bearer(headers).and_then(|token| authenticator.recall(token));
    let recalled = recalled.ok_or(refused)?;
    tracing::info!(caller = %recalled, "token could not be judged now, its last judgement counts for reading");
    Ok(recalled)
}

/// RFC 6750 §2.1; the scheme's case does not matter (RFC 9110 §11.1).
fn bearer(headers: &MetadataMap) -> Option<&str> {
    let (scheme, token) = headers.get("authorization")?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Lets every caller with a token read discovery.
#[derive(Debug)]
pub(crate) struct Discovery<A> {
    pub(crate) authenticator: Arc<A>,
    pub(crate) trust_domain: TrustDomain,
}

impl<A: Authenticate> xds::server::Authenticator for Discovery<A> {
    async fn authenticate(
        &self,
        headers: &MetadataMap,
        peer: Option<SocketAddr>,
    ) -> Result<SpiffeId, Status> {
        match reader(&*self.authenticator, headers).await {
            Ok(caller) => Ok(caller.identity(&self.trust_domain)),
            Err(status) => {
                tracing::warn!(?peer, reason = status.message(), "discovery stream refused");
                Err(status)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bearer_header_carries_a_token() {
        for (header, expected) in [
            (Some("Bearer abc"), Some("abc")),
            (Some("bearer  abc "), Some("abc")),
            (Some("Basic abc"), None),
            (Some("Bearer "), None),
            (Some("abc"), None),
            (None, None),
        ] {
            let mut headers = MetadataMap::new();
            if let Some(header) = header {
                headers.insert("authorization", header.parse().unwrap());
            }
            assert_eq!(bearer(&headers), expected, "{header:?}");
        }
    }
}
