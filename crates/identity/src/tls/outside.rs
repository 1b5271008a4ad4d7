// SPDX-License-Identifier: Apache-2.0
//! TLS with servers outside the mesh, as a client that shows nothing of its own: 1.2 and 1.3, by the names and roots that
//! are given. Nothing is sent to a server that has not proven itself.

use std::sync::Arc;

use mesh::{
    Hostname,
    l7::tls::{Root, Roots, ServerTls, SubjectName},
};
use rustls::{
    CertificateError, ClientConfig, Error, OtherError, RootCertStore, crypto::aws_lc_rs::default_provider,
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    handshake::{HandshakeError, explain},
    judge::{Judge, Shown, Verifier},
};
use crate::certificate::uris;

/// Why a server cannot be spoken to, whatever it shows.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// No certificate could have it.
    #[error("{name} is no name of a server")]
    Name {
        /// It.
        name: Hostname,
    },
    /// Nobody could vouch for it.
    #[error("no authority is believed: none of the certificates that are named for it can be used")]
    NoRoots,
    /// One who is to vouch for it has no certificate that can be read.
    #[error("the certificate of an authority cannot be used")]
    Root(#[source] Error),
    /// The library refuses every version.
    #[error("no version of TLS can be spoken")]
    Versions(#[source] Error),
}

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Inside {
    /// HTTP/1.1; a server that says nothing of it speaks it.
    Http1,
    /// HTTP/2; a server must agree to it (RFC 9113 §3.3).
    Http2,
    /// Anything: nothing is said.
    Bytes,
}

impl Inside {
    fn name(self) -> Option<&'static [u8]> {
        match self {
            Self::Http1 => Some(b"http/1.1"),
            Self::Http2 => Some(b"h2"),
            Self::Bytes => None,
        }
    }
}

/// A way to speak with servers; cheap to clone.
#[derive(Clone, Debug)]
pub struct Outside {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    inside: Inside,
}

impl Outside {
    /// By a setting; `machine` is whom this machine believes.
    ///
    /// # Errors
    /// When no server could prove itself.
    pub fn new(
        tls: &ServerTls,
        inside: Inside,
        machine: impl FnOnce() -> Arc<RootCertStore>,
    ) -> Result<Self, OutsideError> {
        let roots = match &tls.roots {
            Roots::System => machine(),
            Roots::Only(roots) => Arc::new(only(roots)?),
        };
        if roots.is_empty() {
            return Err(OutsideError::NoRoots);
        }
        let name = server_name(&tls.hostname)?;
        let names = tls.names.iter().map(Expected::new).collect::<Result<Vec<_>, _>>()?;
        let names = if names.is_empty() { vec![Expected::Dns(name.clone())] } else { names };
        let provider = Arc::new(default_provider());
        let verifier = Verifier::new(&provider, Proof { roots, names });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(OutsideError::Versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = inside.name().into_iter().map(<[u8]>::to_vec).collect();
        Ok(Self { config: Arc::new(config), name, inside })
    }

    /// The handshake.
    ///
    /// # Errors
    /// When the server proves to be another one, or speaks otherwise.
    pub async fn connect<S>(&self, stream: S) -> Result<TlsStream<S>, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let stream = connector.connect(self.name.clone(), stream).await.map_err(explain)?;
        let agreed = stream.get_ref().1.alpn_protocol();
        if self.inside == Inside::Http2 && agreed != Inside::Http2.name() {
            return Err(HandshakeError::Protocol);
        }
        Ok(stream)
    }
}

fn only(roots: &[Root]) -> Result<RootCertStore, OutsideError> {
    let mut store = RootCertStore::empty();
    for Root(der) in roots {
        store.add(CertificateDer::from(der.to_vec())).map_err(OutsideError::Root)?;
    }
    Ok(store)
}

fn server_name(name: &Hostname) -> Result<ServerName<'static>, OutsideError> {
    ServerName::try_from(name.as_str().to_owned())
        .map_err(|_invalid| OutsideError::Name { name: name.clone() })
}

/// A name that a certificate may have.
#[derive(Debug)]
enum Expected {
    Dns(ServerName<'static>),
    Uri(String),
}

impl Expected {
    fn new(name: &SubjectName) -> Result<Self, OutsideError> {
        Ok(match name {
            SubjectName::Dns(name) => Self::Dns(server_name(name)?),
            SubjectName::Uri(uri) => Self::Uri(uri.to_string()),
        })
    }
}

/// A certificate has none of several names.
#[derive(Debug, thiserror::Error)]
#[error("it has none of the names {expected:?}")]
struct OtherNames {
    expected: Vec<String>,
}

/// Believes a server whose chain leads to the roots and that has one of the names.
#[derive(Debug)]
struct Proof {
    roots: Arc<RootCertStore>,
    names: Vec<Expected>,
}

impl Proof {
    fn named(&self, shown: &Shown<'_>) -> Result<(), Error> {
        // What the library says of one name is better than what we could.
        if let [Expected::Dns(name)] = self.names.as_slice() {
            return shown.has(name);
        }
        let has = |name: &Expected| match name {
            Expected::Dns(name) => shown.has(name).is_ok(),
            Expected::Uri(uri) => uris(shown.leaf).iter().any(|known| known == uri),
        };
        if self.names.iter().any(has) {
            return Ok(());
        }
        let text = |name: &Expected| match name {
            Expected::Dns(name) => name.to_str().into_owned(),
            Expected::Uri(uri) => uri.clone(),
        };
        let other = OtherNames { expected: self.names.iter().map(text).collect() };
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(other)))))
    }
}

impl Judge for Proof {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), Error> {
        shown.leads_to(&self.roots)?;
        self.named(shown)
    }
}

#[cfg(test)]
mod tests;
