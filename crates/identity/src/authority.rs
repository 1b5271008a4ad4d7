// SPDX-License-Identifier: Apache-2.0
//! Who signs certificates, as its clients see it. What comes back is not trusted here: `certificate` checks it.

use std::{error::Error, time::Duration};

use futures_util::future::BoxFuture;
use mesh::SpiffeId;

/// Something that signs certificates.
pub trait Authority: Send + Sync {
    /// Signs: PEM texts, the leaf first, then its intermediates, and last the bundle of roots to believe in.
    /// Cancel-safe: a dropped request has no effect on later ones.
    fn sign(&self, request: SigningRequest) -> BoxFuture<'_, Result<Vec<String>, AuthorityError>>;
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SigningRequest {
    /// PKCS#10 in PEM.
    pub csr: String,
    /// The identity that the certificate shall have; the same as in the request.
    pub identity: SpiffeId,
    /// How long it shall be valid.
    pub validity: Duration,
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It did not answer.
    #[error("the certificate authority cannot be reached")]
    Unreachable {
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// It answered, and will not sign.
    #[error("the certificate authority refuses: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// There is nothing to ask with: roots, token or address cannot be used.
    #[error("the certificate authority cannot be asked")]
    Unusable {
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}
