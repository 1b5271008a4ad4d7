// SPDX-License-Identifier: Apache-2.0
//! Reads what stands in certificates. These are bytes from outside: nothing here may panic, whatever they are.

use std::time::{Duration, SystemTime};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mesh::SpiffeId;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, time::ASN1Time};

use super::CertificateError;

/// What people want to see of one certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// In DER.
    pub der: CertificateDer<'static>,
    /// Serial number, decimal.
    pub serial: String,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

/// What decides whether a leaf is the one that was asked for.
pub(super) struct Facts {
    pub(super) identities: Vec<SpiffeId>,
    /// `SubjectPublicKeyInfo` in DER.
    pub(super) public_key: Vec<u8>,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

/// Every certificate in a PEM text; other sections are skipped.
pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(CertificateError::Pem)
}

/// The SPIFFE ids among the URI names of a certificate, in their order; what is no SPIFFE id of ours is skipped.
pub(crate) fn identities(certificate: &CertificateDer<'_>) -> Vec<SpiffeId> {
    parsed(certificate).map(|certificate| uri_names(&certificate)).unwrap_or_default()
}

/// The URI names of a certificate as they are.
pub(crate) fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    parsed(certificate).map(|certificate| names(&certificate, |uri| Some(uri.to_owned()))).unwrap_or_default()
}

pub(crate) fn describe(certificate: &CertificateDer<'_>) -> Result<Described, CertificateError> {
    let parsed = parsed(certificate)?;
    Ok(Described {
        der: certificate.clone().into_owned(),
        serial: parsed.serial.to_string(),
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
    })
}

pub(super) fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, CertificateError> {
    let parsed = parsed(certificate)?;
    Ok(Facts {
        identities: uri_names(&parsed),
        public_key: parsed.public_key().raw.to_vec(),
        not_before: time(parsed.validity().not_before),
        not_after: time(parsed.validity().not_after),
    })
}

fn parsed<'der>(certificate: &'der CertificateDer<'_>) -> Result<X509Certificate<'der>, CertificateError> {
    match x509_parser::parse_x509_certificate(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(CertificateError::Malformed { reason: error.to_string() }),
    }
}

fn uri_names(certificate: &X509Certificate<'_>) -> Vec<SpiffeId> {
    names(certificate, |uri| uri.parse().ok())
}

fn names<T>(certificate: &X509Certificate<'_>, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => read(uri),
        _ => None,
    });
    uris.collect()
}

/// Times before 1970 become 1970: no certificate of a mesh was valid then.
fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

impl Described {
    /// In PEM (RFC 7468).
    pub fn pem(&self) -> String {
        let encoded = STANDARD.encode(&self.der);
        let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
        for (position, character) in encoded.chars().enumerate() {
            if position > 0 && position % 64 == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push_str("\n-----END CERTIFICATE-----\n");
        text
    }

    /// In PEM, and that once more in base64, as dumps carry it.
    pub fn pem_base64(&self) -> String {
        STANDARD.encode(self.pem())
    }
}
