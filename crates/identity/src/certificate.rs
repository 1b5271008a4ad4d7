// SPDX-License-Identifier: Apache-2.0
//! A certificate with its key and the roots to believe in, checked once against what was asked for and trusted
//! afterwards. It does not know where it came from.

mod parse;
mod vouched;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh::SpiffeId;
use rustls::{
    RootCertStore,
    server::WebPkiClientVerifier,
    server::danger::{ClientCertVerified, ClientCertVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{
    key::{KeyError, PrivateKey},
    tls::mesh_provider,
};

pub use parse::Described;
pub(crate) use parse::{certificates, describe, identities, uris};
use vouched::Vouched;

/// A certificate of a workload that is ready to use.
pub struct Certificate {
    identity: SpiffeId,
    certified: Arc<CertifiedKey>,
    roots: Roots,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// Roots to believe in; cheap to clone.
#[derive(Clone)]
pub struct Roots {
    certificates: Arc<[CertificateDer<'static>]>,
    store: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    vouched: Arc<Vouched>,
}

/// Why what was issued cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM.
    #[error("the certificate chain is not PEM")]
    Pem(#[source] rustls_pki_types::pem::Error),
    /// The chain has no leaf, or no bundle of roots after it.
    #[error("the certificate chain has no {what}")]
    Missing {
        /// What it has not.
        what: &'static str,
    },
    /// Not X.509.
    #[error("a certificate of the chain cannot be read: {reason}")]
    Malformed {
        /// What the parser said.
        reason: String,
    },
    /// It is for somebody else.
    #[error("asked for a certificate of {requested}, got one of {}", Names(.issued))]
    Identity {
        /// Who was asked for.
        requested: SpiffeId,
        /// Whom it names.
        issued: Vec<SpiffeId>,
    },
    /// It is for another key.
    #[error("the certificate is not for the key that was sent")]
    PublicKey,
    /// The key cannot be used.
    #[error("the key of the certificate cannot be used")]
    Key(#[source] KeyError),
    /// It is not valid now, or not under its own roots.
    #[error("the certificate is not valid under the roots that came with it")]
    Untrusted(#[source] rustls::Error),
    /// None of the roots can be used.
    #[error("no root can be used")]
    Roots(#[source] rustls::server::VerifierBuilderError),
}

impl Certificate {
    /// Checks what an authority issued: the leaf names the identity and the key that were asked for, and is valid `now`
    /// under the roots that came along.
    ///
    /// # Errors
    /// When any of it is not so.
    pub fn issued(
        identity: &SpiffeId,
        key: &PrivateKey,
        chain: &[String],
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let (bundle, path) = chain.split_last().ok_or(CertificateError::Missing { what: "certificate" })?;
        let mut certificates = Vec::new();
        for text in path {
            certificates.extend(parse::certificates(text.as_bytes())?);
        }
        let (leaf, intermediates) =
            certificates.split_first().ok_or(CertificateError::Missing { what: "leaf" })?;
        let roots = Roots::from_pem(bundle.as_bytes())?;
        let facts = parse::facts(leaf)?;
        if facts.identities.as_slice() != std::slice::from_ref(identity) {
            return Err(CertificateError::Identity { requested: identity.clone(), issued: facts.identities });
        }
        if facts.public_key != key.public_key() {
            return Err(CertificateError::PublicKey);
        }
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        roots
            .clients
            .verify_client_cert(leaf, intermediates, UnixTime::since_unix_epoch(since_epoch))
            .map_err(CertificateError::Untrusted)?;
        let (not_before, not_after) = (facts.not_before, facts.not_after);
        let signer = key.signer().map_err(CertificateError::Key)?;
        let certified = Arc::new(CertifiedKey::new(certificates, signer));
        Ok(Self { identity: identity.clone(), certified, roots, not_before, not_after })
    }

    /// Whom it names.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// From when on it is valid.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether it can be shown to a peer now.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        now < self.not_after
    }

    /// How long it can still be used; zero when it has expired.
    pub fn remaining(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }

    /// The leaf and its intermediates, for people.
    pub fn chain(&self) -> Vec<Described> {
        self.certified.cert.iter().filter_map(|certificate| describe(certificate).ok()).collect()
    }

    /// Serial number of the leaf.
    pub fn serial(&self) -> Option<String> {
        Some(describe(self.certified.cert.first()?).ok()?.serial)
    }

    /// The roots that came with it.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.identity)
            .field("not_before", &self.not_before)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Roots {
    /// From one or several PEM certificates; those that no chain can be built on are left out and logged.
    ///
    /// # Errors
    /// When the text is not PEM, or no certificate of it can be used.
    pub fn from_pem(text: &[u8]) -> Result<Self, CertificateError> {
        Self::new(certificates(text)?)
    }

    pub(crate) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, CertificateError> {
        if certificates.is_empty() {
            return Err(CertificateError::Missing { what: "root" });
        }
        let mut store = RootCertStore::empty();
        let (_, ignored) = store.add_parsable_certificates(certificates.iter().cloned());
        if ignored > 0 {
            tracing::warn!(ignored, total = certificates.len(), "roots that cannot be used");
        }
        let store = Arc::new(store);
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), mesh_provider())
            .build()
            .map_err(CertificateError::Roots)?;
        Ok(Self { certificates: certificates.into(), store, clients, vouched: Arc::default() })
    }

    /// The certificates, for people.
    pub fn certificates(&self) -> Vec<Described> {
        self.certificates.iter().filter_map(|certificate| describe(certificate).ok()).collect()
    }

    pub(crate) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// Fails unless the chain of a client leads to one of them, and is valid now. Two signatures of a chain are checked once
    /// only: what is checked of each handshake is the client's own.
    pub(crate) fn vouch_for(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let certificates: Vec<_> = std::iter::once(leaf).chain(intermediates).collect();
        let chain = vouched::bytes(&certificates);
        if self.vouched.has(&chain, now) {
            return Ok(ClientCertVerified::assertion());
        }
        let verified = self.clients.verify_client_cert(leaf, intermediates, now)?;
        self.vouched.note(chain, &certificates);
        Ok(verified)
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("certificates", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// Identities between commas; `nobody` when there is none.
pub(crate) struct Names<'a>(pub(crate) &'a [SpiffeId]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return f.write_str("nobody") };
        write!(f, "{first}")?;
        rest.iter().try_for_each(|name| write!(f, ", {name}"))
    }
}

#[cfg(test)]
mod tests;
