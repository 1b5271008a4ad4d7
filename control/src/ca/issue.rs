// SPDX-License-Identifier: Apache-2.0
//! Leaf certificates from signing requests. Whoever calls has decided that the identity may be certified.

use std::time::{Duration, SystemTime};

use mesh::SpiffeId;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use super::root::Root;

/// A request is a key, a name and a signature; no honest one is longer.
const LONGEST_REQUEST: usize = 16 * 1024;
/// Clocks of peers may be behind by this much, or by a tenth of the validity when that is less: certificates are renewed
/// at half their life, which the past counts to.
const LONGEST_BACKDATE: Duration = Duration::from_secs(120);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Leaf<'a> {
    /// PKCS#10 in PEM (RFC 7468).
    pub csr: &'a str,
    /// The identity to certify.
    pub identity: &'a SpiffeId,
    /// How long it shall be valid; `None`: as long as we allow.
    pub validity: Option<Duration>,
}

/// A certificate that was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// PEM: the leaf, intermediates one by one, then the roots in one.
    pub chain: Vec<String>,
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// When it ends.
    pub not_after: SystemTime,
}

/// Why nothing was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Far too long.
    #[error("the signing request is longer than {LONGEST_REQUEST} bytes")]
    TooLong,
    /// Not a signed request.
    #[error("the signing request cannot be read or its signature is wrong")]
    Request(#[source] rcgen::Error),
    /// Asks for other names.
    #[error("the signing request does not name {identity} and nothing else")]
    Names {
        /// The only name it may have.
        identity: SpiffeId,
    },
    /// A key that the mesh does not use.
    #[error("the key of the signing request is not ECDSA P-256 or P-384")]
    Key,
    /// The root has ended.
    #[error("the root certificate has expired")]
    RootExpired,
    /// Signing failed.
    #[error("cannot sign")]
    Sign(#[source] rcgen::Error),
}

impl IssueError {
    /// Whether the request is to blame.
    pub(super) fn is_callers(&self) -> bool {
        match self {
            Self::TooLong | Self::Request(_) | Self::Names { .. } | Self::Key => true,
            Self::RootExpired | Self::Sign(_) => false,
        }
    }
}

impl Root {
    /// Signs a certificate for an identity. Of the request only the public key is taken; that the requester has its
    /// private half is what the request's signature proves.
    ///
    /// # Errors
    /// When the request is not one for this identity, or the root cannot sign.
    pub fn issue(&self, leaf: &Leaf<'_>, longest: Duration, now: SystemTime) -> Result<Issued, IssueError> {
        let key = public_key(leaf.csr, leaf.identity)?;
        let name = SanType::URI(leaf.identity.to_string().try_into().map_err(IssueError::Sign)?);
        let validity =
            leaf.validity.filter(|wanted| !wanted.is_zero()).map_or(longest, |wanted| wanted.min(longest));
        let (params, not_after) = self.parameters(vec![name], validity, now)?;
        let serial = params.serial_number.as_ref().map(ToString::to_string).unwrap_or_default();
        let certificate = params.signed_by(&key, self.issuer()).map_err(IssueError::Sign)?;
        let chain = [certificate.pem()].into_iter().chain(self.path()).collect();
        Ok(Issued { chain, serial, not_after })
    }

    /// The fields of a new certificate, and its end.
    pub(super) fn parameters(
        &self,
        names: Vec<SanType>,
        validity: Duration,
        now: SystemTime,
    ) -> Result<(CertificateParams, SystemTime), IssueError> {
        if now >= self.not_after() {
            return Err(IssueError::RootExpired);
        }
        let wanted = now.checked_add(validity).unwrap_or_else(|| self.not_after());
        let not_after = wanted.min(self.not_after());
        let backdate = LONGEST_BACKDATE.min(validity / 10);
        let mut params = CertificateParams::default();
        // Without a subject the library marks the names critical, as RFC 5280 §4.2.1.6 wants it.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.serial_number = Some(serial());
        params.not_before = now.checked_sub(backdate).unwrap_or(now).into();
        params.not_after = not_after.into();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok((params, not_after))
    }
}

/// 127 random bits: unique, not to be guessed, positive (RFC 5280 §4.1.2.2).
pub(super) fn serial() -> SerialNumber {
    let number = rand::random::<u128>() >> 1;
    SerialNumber::from_slice(&number.to_be_bytes())
}

/// The public key of a request that is signed by its private half and names this identity alone.
fn public_key(csr: &str, identity: &SpiffeId) -> Result<SubjectPublicKeyInfo, IssueError> {
    if csr.len() > LONGEST_REQUEST {
        return Err(IssueError::TooLong);
    }
    let pem = x509_parser::pem::parse_x509_pem(csr.as_bytes());
    let Ok((_, pem)) = pem else {
        return Err(IssueError::Request(rcgen::Error::CouldNotParseCertificationRequest));
    };
    let request = CertificateSigningRequestParams::from_der(&pem.contents.as_slice().into());
    let names = request.map_err(IssueError::Request)?.params.subject_alt_names;
    let named = match names.as_slice() {
        [SanType::URI(only)] => only.as_str() == identity.to_string(),
        _ => false,
    };
    if !named {
        return Err(IssueError::Names { identity: identity.clone() });
    }
    // The library goes by the algorithm of the signature, which need not be that of the key.
    let Ok((_, request)) = X509CertificationRequest::from_der(&pem.contents) else {
        return Err(IssueError::Request(rcgen::Error::CouldNotParseCertificationRequest));
    };
    let raw = request.certification_request_info.subject_pki.raw;
    let key = SubjectPublicKeyInfo::from_der(raw).map_err(IssueError::Request)?;
    let allowed: [&SignatureAlgorithm; 2] = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384];
    if allowed.contains(&key.algorithm()) { Ok(key) } else { Err(IssueError::Key) }
}

#[cfg(test)]
mod tests;
