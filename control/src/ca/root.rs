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

use mesh::TrustDomain;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use x509_parser::time::ASN1Time;

use super::issue::{IssueError, serial};

const KEY_FILE: &str = "root-key.pem";
const CERTIFICATE_FILE: &str = "root-cert.pem";
/// Ten years, as istiod's own root.
const VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long our own serving certificate is valid; it is renewed at half of it.
const SERVING_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The root with its key.
pub struct Root {
    issuer: Issuer<'static, KeyPair>,
    bundle: String,
    not_after: SystemTime,
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
        Ok(Self { issuer, bundle, not_after })
    }

    /// The roots to believe in, in PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// When it ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub(super) fn issuer(&self) -> &Issuer<'static, KeyPair> {
        &self.issuer
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
            chain: vec![certificate.der().clone()],
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            half_life,
        })
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

/// Whether a certificate is a root with this key that is valid now; gives its end.
fn check(bundle: &str, key: &KeyPair, now: SystemTime) -> Result<SystemTime, String> {
    let certificates: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(bundle.as_bytes()).collect();
    let certificates = certificates.map_err(|error| error.to_string())?;
    let [der] = certificates.as_slice() else {
        return Err("it does not hold exactly one certificate".to_owned());
    };
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

fn time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn unusable(path: &Path, reason: impl ToString) -> RootError {
    RootError::Unusable { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests;
