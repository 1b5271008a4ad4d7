// SPDX-License-Identifier: Apache-2.0
//! Private keys and what is asked to be certified with them.

use std::{fmt, sync::Arc};

use mesh::SpiffeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType};
use rustls::{crypto::aws_lc_rs::sign::any_ecdsa_type, sign::SigningKey};
use rustls_pki_types::PrivatePkcs8KeyDer;

/// An ECDSA P-256 key; a new one for every certificate.
pub struct PrivateKey {
    pair: KeyPair,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// No key or no request could be made.
    #[error("cannot make a key or a signing request")]
    Make(#[source] rcgen::Error),
    /// The TLS library cannot sign with it.
    #[error("cannot sign with the key")]
    Sign(#[source] rustls::Error),
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Make)? })
    }

    /// The request for a certificate of an identity, in PEM: an empty subject and one critical URI name
    /// (X509-SVID §2, RFC 5280 §4.2.1.6).
    ///
    /// # Errors
    /// When the identity cannot be written as an IA5 string.
    pub fn csr(&self, identity: &SpiffeId) -> Result<String, KeyError> {
        let mut params = CertificateParams::default();
        // The library marks the alternative names critical because the subject is empty.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(identity.to_string().try_into().map_err(KeyError::Make)?)];
        params.serialize_request(&self.pair).and_then(|csr| csr.pem()).map_err(KeyError::Make)
    }

    /// The public half as a `SubjectPublicKeyInfo` in DER.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    pub(crate) fn signer(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        any_ecdsa_type(&PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()).map_err(KeyError::Sign)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").finish_non_exhaustive()
    }
}
