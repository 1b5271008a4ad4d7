// SPDX-License-Identifier: Apache-2.0
//! Whether a peer is who it must be: its chain leads to a root that may vouch for the trust domain of its identity, and
//! the identity is an expected one (of a server) or of a trust domain that is let in (of a client).

use std::{fmt, sync::Arc};

use mesh::{SpiffeId, TrustDomain};
use rustls::{
    CertificateError, DistinguishedName, Error, OtherError,
    crypto::CryptoProvider,
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use super::{
    Profile, Trust,
    judge::{Judge, Shown, signatures_of_provider},
};
use crate::{
    certificate::{Names, Roots, identities},
    identities::Current,
};

/// A peer with a certificate that it should not be here with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerRejected {
    /// A server that is somebody else.
    #[error("peer did not present the expected SAN ({}), got {}", Names(.expected), Names(.presented))]
    Identity {
        /// Who would have been accepted.
        expected: Vec<SpiffeId>,
        /// Whom its certificate names.
        presented: Vec<SpiffeId>,
    },
    /// A client of a trust domain that is not let in.
    #[error("peer did not present the expected trust domain ({}), got {}", Domains(.expected), Names(.presented))]
    TrustDomain {
        /// Trust domains that are let in.
        expected: Vec<TrustDomain>,
        /// Whom its certificate names.
        presented: Vec<SpiffeId>,
    },
    /// There is no certificate of our own, and so no roots to judge it by.
    #[error("no certificate of our own to judge the peer by")]
    NoRoots,
}

impl PeerRejected {
    fn into_tls(self) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

/// Trust domains between commas.
struct Domains<'a>(&'a [TrustDomain]);

impl fmt::Display for Domains<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, domain) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(f, "{separator}{domain}")?;
        }
        Ok(())
    }
}

impl Trust {
    /// The roots that may vouch for a trust domain, if there are any but the own ones.
    fn bundle(&self, domain: &TrustDomain) -> Option<&Roots> {
        self.bundles.iter().find(|(known, _)| known == domain).map(|(_, roots)| roots)
    }

    fn accepted(&self, own: &TrustDomain) -> Vec<TrustDomain> {
        let bundles = self.bundles.iter().map(|(domain, _)| domain);
        std::iter::once(own).chain(&self.aliases).chain(bundles).cloned().collect()
    }
}

/// Judges servers, for one tunnel.
#[derive(Debug)]
pub(super) struct Servers {
    pub(super) trust: Arc<Trust>,
    pub(super) own: TrustDomain,
    pub(super) roots: Roots,
    pub(super) expected: Vec<SpiffeId>,
}

impl Judge for Servers {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error> {
        let presented = identities(shown.leaf);
        let matched = presented.iter().find(|identity| self.expected.contains(identity));
        let bundle = matched
            .map(SpiffeId::trust_domain)
            .filter(|domain| **domain != self.own)
            .and_then(|domain| self.trust.bundle(domain));
        shown.leads_to(bundle.unwrap_or(&self.roots).store())?;
        if matched.is_none() {
            let expected = self.expected.clone();
            return Err(PeerRejected::Identity { expected, presented }.into_tls());
        }
        Ok(())
    }
}

/// Judges clients by what is current at the time of the handshake.
#[derive(Debug)]
pub(super) struct Clients {
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
    current: Current,
}

impl Clients {
    pub(super) fn new(profile: &Profile, current: Current) -> Self {
        Self { provider: Arc::clone(profile.provider()), trust: Arc::clone(profile.trust()), current }
    }
}

impl ClientCertVerifier for Clients {
    /// No hints: every client of the mesh has one certificate only, and they would name our roots to anybody.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let Some(certificate) = self.current.certificate() else {
            return Err(PeerRejected::NoRoots.into_tls());
        };
        let own = certificate.identity().trust_domain();
        let presented = identities(leaf);
        // The first one is the one that policies judge, see `peer_identity`.
        let domain = presented.first().map(SpiffeId::trust_domain);
        let roots = match domain {
            Some(domain) if domain == own || self.trust.aliases.contains(domain) => Some(certificate.roots()),
            Some(domain) => self.trust.bundle(domain),
            None => None,
        };
        let Some(roots) = roots else {
            let expected = self.trust.accepted(own);
            return Err(PeerRejected::TrustDomain { expected, presented }.into_tls());
        };
        roots.vouch_for(leaf, intermediates, now)
    }

    signatures_of_provider!();
}
