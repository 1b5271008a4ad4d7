// SPDX-License-Identifier: Apache-2.0
//! The authority of a cluster, and whom it certifies: the API server, its clients, the kubelets.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

/// The root of a cluster. Its key is in a file too, because the controller manager signs with it.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Who somebody is to the API server.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// User name.
    pub user: &'a str,
    /// Group.
    pub group: Option<&'a str>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a root and writes `ca.crt` and `ca.key`.
    ///
    /// # Errors
    /// When it cannot be made or written.
    pub fn create(folder: &Path) -> Result<Self> {
        let key = KeyPair::generate().context("a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ambit-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).context("the cluster's root")?.pem();
        write(folder, "ca", &Identity { certificate: certificate.clone(), key: key.serialize_pem() })?;
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// The root's certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Certifies a client.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn client(&self, subject: Subject<'_>) -> Result<Identity> {
        self.certify(subject, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// Certifies a server by all its names and addresses.
    ///
    /// # Errors
    /// When it cannot be made, for example because a name is none.
    pub fn server(&self, user: &str, names: &[&str], addresses: &[IpAddr]) -> Result<Identity> {
        let mut sans = Vec::new();
        for name in names {
            sans.push(SanType::DnsName((*name).try_into().with_context(|| format!("the name {name}"))?));
        }
        sans.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.certify(Subject { user, group: None }, &sans, ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn certify(
        &self,
        subject: Subject<'_>,
        sans: &[SanType],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<Identity> {
        let key = KeyPair::generate().context("a key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if let Some(group) = subject.group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.distinguished_name.push(DnType::CommonName, subject.user);
        params.subject_alt_names = sans.to_vec();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let certificate = params
            .signed_by(&key, &self.issuer)
            .with_context(|| format!("the certificate of {}", subject.user))?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Writes `<name>.crt` and `<name>.key`, the key for the owner's eyes only.
///
/// # Errors
/// When they cannot be written.
pub fn write(folder: &Path, name: &str, identity: &Identity) -> Result<()> {
    fs::write(folder.join(format!("{name}.crt")), &identity.certificate)
        .with_context(|| format!("writing the certificate of {name}"))?;
    write_secret(&folder.join(format!("{name}.key")), &identity.key)
}

/// A key by which service account tokens are signed.
///
/// # Errors
/// When it cannot be made or written.
pub fn write_token_key(folder: &Path) -> Result<()> {
    let key = KeyPair::generate().context("a key")?;
    fs::write(folder.join("tokens.pub"), key.public_key_pem()).context("writing the key of tokens")?;
    write_secret(&folder.join("tokens.key"), &key.serialize_pem())
}

/// Writes a kubeconfig that needs no other file.
///
/// # Errors
/// When it cannot be written.
pub fn write_kubeconfig(
    path: &Path,
    cluster: &str,
    server: &str,
    authority: &Authority,
    identity: &Identity,
) -> Result<()> {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": cluster,
        "clusters": [{"name": cluster, "cluster": {
            "server": server,
            "certificate-authority-data": base64(authority.certificate()),
        }}],
        "users": [{"name": cluster, "user": {
            "client-certificate-data": base64(&identity.certificate),
            "client-key-data": base64(&identity.key),
        }}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
    });
    write_secret(path, &serde_json::to_string_pretty(&config)?)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_holds_all_that_a_client_needs() {
        let folder = std::env::temp_dir().join(format!("kubeconfig-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let authority = Authority::create(&folder).unwrap();
        let admin = authority.client(Subject { user: "admin", group: Some("system:masters") }).unwrap();
        let path = folder.join("kubeconfig");
        write_kubeconfig(&path, "dev", "https://10.64.0.254:6443", &authority, &admin).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            config.pointer("/clusters/0/cluster/certificate-authority-data").unwrap(),
            &base64(authority.certificate())
        );
        fs::remove_dir_all(&folder).unwrap();
    }
}
