// SPDX-License-Identifier: Apache-2.0
//! What every judgement of a server has in common: the library asks about the certificate and about signatures, and only
//! the certificate is for a [`Judge`]. Signatures are the provider's.

use std::{fmt, sync::Arc};

use rustls::{
    Error, RootCertStore,
    client::{
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms},
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

/// What every verifier says of signatures: the same as its `provider`.
macro_rules! signatures_of_provider {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            leaf: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, leaf, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            leaf: &rustls_pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, leaf, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}

pub(super) use signatures_of_provider;

/// Decides whether a server is the one that was wanted, by its certificate alone.
pub(super) trait Judge: fmt::Debug + Send + Sync {
    /// Fails for any other server.
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error>;
}

/// What a server shows of itself.
pub(super) struct Shown<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    /// The name that was dialled.
    pub(super) name: &'a ServerName<'a>,
    parsed: ParsedCertificate<'a>,
    intermediates: &'a [CertificateDer<'a>],
    algorithms: WebPkiSupportedAlgorithms,
    now: UnixTime,
}

impl Shown<'_> {
    /// Fails unless the chain leads to one of these roots, and is valid now.
    pub(super) fn leads_to(&self, roots: &RootCertStore) -> Result<(), Error> {
        let Self { parsed, intermediates, algorithms, now, .. } = self;
        verify_server_cert_signed_by_trust_anchor(parsed, roots, intermediates, *now, algorithms.all)
    }

    /// Fails unless the certificate has this name of a server.
    pub(super) fn has(&self, name: &ServerName<'_>) -> Result<(), Error> {
        verify_server_name(&self.parsed, name)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Verifier<J> {
    provider: Arc<CryptoProvider>,
    judge: J,
}

impl<J> Verifier<J> {
    pub(super) fn new(provider: &Arc<CryptoProvider>, judge: J) -> Self {
        Self { provider: Arc::clone(provider), judge }
    }
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms;
        self.judge.judge(&Shown { leaf, name, parsed, intermediates, algorithms, now })?;
        Ok(ServerCertVerified::assertion())
    }

    signatures_of_provider!();
}
