// SPDX-License-Identifier: Apache-2.0
//! The root: made once, kept in a folder, used again after a restart. A root that changes under the mesh would cut every
//! connection, so what is found is checked and never overwritten.

mod store;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime},
};

use base64::Engine as _;
use mesh::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::time::ASN1Time;

use super::issue::{IssueError, Leaf, serial};

const KEY_FILE: &str = "root-key.pem";
const CERTIFICATE_FILE: &str = "root-cert.pem";
/// Ten years, as istiod's own root.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long our own serving certificate is valid; it is renewed at half of it.
const SERVING_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// What signs, with its key and what vouches for it.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    /// Between a leaf and the roots, what signs first; none when the root itself signs.
    intermediates: Vec<CertificateDer<'static>>,
    bundle: String,
    not_after: SystemTime,
}

/// A certificate authority as text, all of it PEM.
pub struct Material {
    /// Where it comes from, for errors.
    pub origin: String,
    /// The certificate that signs.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// From that certificate to the roots; may be empty.
    pub chain: String,
    /// The roots; empty when the certificate is one.
    pub roots: String,
}

/// Why there is no root.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// A file cannot be read or written.
    #[error("cannot {what} {}", .path.display())]
    File {
        /// `read`, `write` ...
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A private key for everybody.
    #[error("{} can be read by others (mode {mode:o}): chmod 600 it", .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// A certificate whose key is lost.
    #[error("{} is there but its key {} is not: restore the key, or remove the certificate to begin a new mesh", .certificate.display(), .key.display())]
    KeyMissing {
        /// The certificate.
        certificate: PathBuf,
        /// The missing key.
        key: PathBuf,
    },
    /// Not what it should be.
    #[error("{} is not usable: {reason}", .path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No key or certificate could be made.
    #[error("cannot make a root")]
    Make(#[source] rcgen::Error),
}

impl Root {
    /// The root of a folder; made when the folder has none.
    ///
    /// # Errors
    /// When what is there cannot be used, or nothing can be written.
    pub fn open(folder: &Path, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, RootError> {
        store::prepare(folder)?;
        let (key_path, certificate_path) = (folder.join(KEY_FILE), folder.join(CERTIFICATE_FILE));
        let key = store::read_secret(&key_path)?;
        let certificate = store::read(&certificate_path)?;
        let key = match (key, &certificate) {
            (Some(text), _) => KeyPair::from_pem(&text).map_err(|error| unusable(&key_path, error))?,
            (None, Some(_)) => {
                return Err(RootError::KeyMissing { certificate: certificate_path, key: key_path });
            }
            (None, None) => {
                let key = KeyPair::generate().map_err(RootError::Make)?;
                store::write(&key_path, &key.serialize_pem(), store::Secrecy::Secret)?;
                key
            }
        };
        let bundle = match certificate {
            Some(bundle) => bundle,
            // Also when the last start was cut short between the two files.
            None => {
                let bundle = self_signed(&key, trust_domain, now)?;
                store::write(&certificate_path, &bundle, store::Secrecy::Public)?;
                bundle
            }
        };
        let not_after = check(&bundle, &key, now).map_err(|reason| unusable(&certificate_path, reason))?;
        let issuer =
            Issuer::from_ca_cert_pem(&bundle, key).map_err(|error| unusable(&certificate_path, error))?;
        Ok(Self { issuer, intermediates: Vec::new(), bundle, not_after })
    }

    /// A new root, as text.
    ///
    /// # Errors
    /// When no key or certificate can be made.
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Material, RootError> {
        let key = KeyPair::generate().map_err(RootError::Make)?;
        let certificate = self_signed(&key, trust_domain, now)?;
        Ok(Material {
            origin: "a new root".to_owned(),
            key: key.serialize_pem(),
            roots: certificate.clone(),
            chain: String::new(),
            certificate,
        })
    }

    /// An authority from text. What it issues is checked once as a proxy would check it.
    ///
    /// # Errors
    /// When it cannot sign, or what it signs leads to none of its roots.
    pub fn of(material: &Material, trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, RootError> {
        let origin = PathBuf::from(&material.origin);
        let failed = |reason: String| RootError::Unusable { path: origin.clone(), reason };
        let key = KeyPair::from_pem(&material.key).map_err(|error| failed(format!("the key: {error}")))?;
        let own = certificates(&material.certificate).map_err(failed)?;
        let signing = own.first().ok_or_else(|| failed("it has no certificate".to_owned()))?;
        let mut not_after = check_signing(signing, &key, now).map_err(failed)?;
        let bundle = if material.roots.trim().is_empty() { &material.certificate } else { &material.roots };
        let roots = certificates(bundle).map_err(failed)?;
        let mut intermediates: Vec<CertificateDer<'static>> = Vec::new();
        for der in own.iter().cloned().chain(certificates(&material.chain).map_err(failed)?) {
            if !roots.contains(&der) && !intermediates.contains(&der) {
                not_after = not_after.min(end(&der).map_err(failed)?);
                intermediates.push(der);
            }
        }
        let issuer = Issuer::from_ca_cert_der(signing, key).map_err(|error| failed(error.to_string()))?;
        let root = Self { issuer, intermediates, bundle: bundle.clone(), not_after };
        root.try_out(trust_domain, now).map_err(failed)?;
        Ok(root)
    }

    /// Whether what it issues is believed by who believes its roots.
    fn try_out(&self, trust_domain: &TrustDomain, now: SystemTime) -> Result<(), String> {
        let identity = SpiffeId::new(trust_domain.clone(), "control".into(), "control".into());
        let key = identity::PrivateKey::generate().map_err(|error| error.to_string())?;
        let csr = key.csr(&identity).map_err(|error| error.to_string())?;
        let leaf = Leaf { csr: &csr, identity: &identity, validity: None };
        let issued = self.issue(&leaf, SERVING_VALIDITY, now).map_err(|error| error.to_string())?;
        identity::Certificate::issued(&identity, &key, &issued.chain, now)
            .map(drop)
            .map_err(|error| format!("what it signs is not believed: {error}"))
    }

    /// The roots to believe in, in PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Whether a certificate has less than a fifth of its life left.
    pub(crate) fn is_old(pem: &str, now: SystemTime) -> bool {
        let Ok(certificates) = certificates(pem) else { return false };
        let parsed = certificates.first().map(|der| x509_parser::parse_x509_certificate(der));
        let Some(Ok((_, certificate))) = parsed else { return false };
        let (start, end) = (time(certificate.validity().not_before), time(certificate.validity().not_after));
        let left = end.duration_since(now).unwrap_or_default();
        left < end.duration_since(start).unwrap_or_default() / 5
    }

    /// Whether another would issue the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.bundle == other.bundle
            && self.intermediates == other.intermediates
            && self.issuer.key().public_key_raw() == other.issuer.key().public_key_raw()
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
    }

    /// What comes after a leaf, in PEM: intermediates one by one, then all roots in one.
    pub(super) fn path(&self) -> impl Iterator<Item = String> {
        let intermediates = self.intermediates.iter().map(|der| encode(der));
        intermediates.chain([self.bundle.clone()])
    }

    /// A certificate for this process's own server, with a new key.
    ///
    /// # Errors
    /// When the root cannot sign.
    pub fn serving(&self, names: &[ServingName], now: SystemTime) -> Result<Serving, IssueError> {
        let names = names.iter().map(ServingName::alternative).collect::<Result<_, _>>()?;
        let (params, not_after) = self.parameters(names, SERVING_VALIDITY, now)?;
        let key = KeyPair::generate().map_err(IssueError::Sign)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(IssueError::Sign)?;
        let half_life = not_after.duration_since(now).unwrap_or_default() / 2;
        Ok(Serving {
            chain: [certificate.der().clone()].into_iter().chain(self.intermediates.clone()).collect(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            half_life,
        })
    }
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Root").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A certificate of this process, with its key.
#[derive(Debug)]
pub struct Serving {
    /// The leaf.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// When to make the next one.
    pub half_life: Duration,
}

/// A name under which clients reach this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServingName {
    /// A DNS name.
    Dns(mesh::Hostname),
    /// An address.
    Ip(IpAddr),
}

impl ServingName {
    fn alternative(&self) -> Result<SanType, IssueError> {
        Ok(match self {
            Self::Dns(name) => SanType::DnsName(name.as_str().try_into().map_err(IssueError::Sign)?),
            Self::Ip(ip) => SanType::IpAddress(*ip),
        })
    }
}

impl FromStr for ServingName {
    type Err = mesh::InvalidName;

    fn from_str(text: &str) -> Result<Self, mesh::InvalidName> {
        text.parse::<IpAddr>().map(Self::Ip).or_else(|_| mesh::Hostname::parse(text).map(Self::Dns))
    }
}

fn self_signed(key: &KeyPair, trust_domain: &TrustDomain, now: SystemTime) -> Result<String, RootError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain.as_str());
    params.distinguished_name.push(DnType::CommonName, "Ambit root");
    params.serial_number = Some(serial());
    params.not_before = now.into();
    params.not_after = now.checked_add(VALIDITY).unwrap_or(now).into();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.self_signed(key).map(|certificate| certificate.pem()).map_err(RootError::Make)
}

/// Whether a bundle is a root with this key that is valid now; gives its end.
fn check(bundle: &str, key: &KeyPair, now: SystemTime) -> Result<SystemTime, String> {
    let certificates = certificates(bundle)?;
    let [der] = certificates.as_slice() else {
        return Err("it does not hold exactly one certificate".to_owned());
    };
    check_signing(der, key, now)
}

/// Whether a certificate may sign with this key now; gives its end.
fn check_signing(der: &CertificateDer<'_>, key: &KeyPair, now: SystemTime) -> Result<SystemTime, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    if certificate.public_key().raw != key.subject_public_key_info() {
        return Err(format!("it does not belong to the key in {KEY_FILE}"));
    }
    if !certificate.is_ca() {
        return Err("it may not sign certificates".to_owned());
    }
    let end = time(certificate.validity().not_after);
    if now >= end {
        return Err("it has expired: remove it and its key to begin a new mesh".to_owned());
    }
    Ok(end)
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<_, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    certificates.map_err(|error: rustls_pki_types::pem::Error| error.to_string())
}

fn end(der: &CertificateDer<'_>) -> Result<SystemTime, String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
    Ok(time(certificate.validity().not_after))
}

/// RFC 7468.
fn encode(der: &CertificateDer<'_>) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn unusable(path: &Path, reason: impl ToString) -> RootError {
    RootError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
