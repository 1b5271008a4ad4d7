// SPDX-License-Identifier: Apache-2.0
//! TLS of the mesh (mutual, TLS 1.3, by SPIFFE identity), of the control plane (server only, by name) and with servers
//! outside (the same, as they are told), always on an explicit provider. It opens no connection: it is given streams and
//! deadlines are the caller's.

mod handshake;
mod judge;
mod outside;
mod server_name;
mod verify;

use std::{fmt, str::FromStr, sync::Arc};

use mesh::{SpiffeId, TrustDomain};
use rustls::{
    ClientConfig, ConfigBuilder, ConfigSide, ServerConfig, WantsVerifier,
    client::{ResolvesClientCert, Resumption},
    crypto::{
        CryptoProvider,
        aws_lc_rs::{cipher_suite, default_provider, kx_group},
    },
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use self::judge::Verifier;
use crate::{
    certificate::{Certificate, Roots, identities},
    identities::Current,
};

pub use handshake::{HandshakeError, accept, connect};
pub use outside::{Inside, Outside, OutsideError};
pub use verify::PeerRejected;

/// The one protocol that is spoken inside.
const ALPN: &[u8] = b"h2";

/// What a handshake may agree on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compliance {
    /// The post-quantum hybrid X25519MLKEM768 first, elliptic curves for peers that do not know it.
    #[default]
    Preferred,
    /// X25519MLKEM768 or nothing.
    PostQuantum,
}

/// A policy that we do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown compliance policy {policy:?}: must be pqc or empty")]
pub struct UnknownCompliance {
    /// What was given.
    pub policy: String,
}

impl FromStr for Compliance {
    type Err = UnknownCompliance;

    fn from_str(policy: &str) -> Result<Self, UnknownCompliance> {
        match policy {
            "" => Ok(Self::Preferred),
            "pqc" => Ok(Self::PostQuantum),
            _ => Err(UnknownCompliance { policy: policy.to_owned() }),
        }
    }
}

/// Who is believed besides one's own trust domain.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Trust domains that the own roots vouch for too.
    pub aliases: Vec<TrustDomain>,
    /// Trust domains with roots of their own, which vouch for nobody else.
    pub bundles: Vec<(TrustDomain, Roots)>,
}

/// Makes TLS configurations; cheap to clone.
#[derive(Clone)]
pub struct Profile {
    provider: Arc<CryptoProvider>,
    trust: Arc<Trust>,
}

/// A configuration that cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a TLS configuration")]
pub struct TlsError(#[from] pub rustls::Error);

impl Profile {
    /// With a compliance policy, and whom to believe.
    pub fn new(compliance: Compliance, trust: Trust) -> Self {
        let mut provider = mesh_provider();
        if compliance == Compliance::PostQuantum {
            let provider = Arc::make_mut(&mut provider);
            provider.kx_groups = vec![kx_group::X25519MLKEM768];
            // Halving a key's strength, as quantum computers might, leaves enough of 256 bits.
            provider.cipher_suites.reverse();
        }
        Self { provider, trust: Arc::new(trust) }
    }

    /// The client's side of a tunnel: shows the certificate, and accepts a server only under one of the expected
    /// identities. Use it with [`connect`].
    ///
    /// # Errors
    /// When the provider cannot do TLS 1.3.
    pub fn client_config(
        &self,
        certificate: &Certificate,
        expected: Vec<SpiffeId>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let own = certificate.identity().trust_domain().clone();
        let (trust, roots) = (Arc::clone(&self.trust), certificate.roots().clone());
        let servers = verify::Servers { trust, own, roots, expected };
        let verifier = Verifier::new(&self.provider, servers);
        let shown = SingleCertAndKey::from(Arc::clone(certificate.certified()));
        let mut config = self
            .builder(ClientConfig::builder_with_provider(Arc::clone(&self.provider)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(shown) as Arc<dyn ResolvesClientCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // Names would tell an observer who talks to whom, and nobody looks at them.
        config.enable_sni = false;
        // A resumed session would carry an identity past its certificate's end.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    /// The server's side of a tunnel: shows what is current at each handshake, and wants a client of the own trust
    /// domain or one that [`Trust`] names. Use it with [`accept`].
    ///
    /// # Errors
    /// When the provider cannot do TLS 1.3.
    pub fn server_config(&self, current: Current) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = self
            .builder(ServerConfig::builder_with_provider(Arc::clone(&self.provider)))?
            .with_client_cert_verifier(Arc::new(verify::Clients::new(self, current.clone())))
            .with_cert_resolver(Arc::new(Rotating(current)));
        without_sessions(&mut config);
        Ok(Arc::new(config))
    }

    /// A server of the control plane: shows a fixed certificate and asks the client for none.
    ///
    /// # Errors
    /// When the key does not fit the certificate.
    pub fn serving_config(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = self
            .builder(ServerConfig::builder_with_provider(Arc::clone(&self.provider)))?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        without_sessions(&mut config);
        Ok(Arc::new(config))
    }

    /// A client of the control plane: accepts a server under the name that is dialled or one of the alternatives.
    ///
    /// # Errors
    /// When the provider cannot do TLS 1.3.
    pub(crate) fn control_config(
        &self,
        roots: Roots,
        alternatives: Vec<rustls_pki_types::ServerName<'static>>,
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = Verifier::new(&self.provider, server_name::AnyName { roots, alternatives });
        let mut config = self
            .builder(ClientConfig::builder_with_provider(Arc::clone(&self.provider)))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }

    pub(crate) fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    fn builder<S: ConfigSide>(
        &self,
        builder: ConfigBuilder<S, rustls::WantsVersions>,
    ) -> Result<ConfigBuilder<S, WantsVerifier>, TlsError> {
        Ok(builder.with_protocol_versions(&[&TLS13])?)
    }
}

fn without_sessions(config: &mut ServerConfig) {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<_> = self.provider.kx_groups.iter().map(|group| group.name()).collect();
        f.debug_struct("Profile").field("groups", &groups).field("trust", &self.trust).finish()
    }
}

/// aws-lc-rs with what Istio's ztunnel offers: AES-GCM of TLS 1.3, here the cheaper key length first; the post-quantum
/// hybrid first.
pub(crate) fn mesh_provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256, cipher_suite::TLS13_AES_256_GCM_SHA384];
    Arc::new(CryptoProvider { cipher_suites, ..default_provider() })
}

/// The identity of a peer by the chain that it showed: the first SPIFFE id among the URI names of its leaf. Only of
/// meaning after a handshake that verified the chain.
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Option<SpiffeId> {
    identities(chain.first()?).into_iter().next()
}

/// Shows the certificate that is valid at the time of the handshake.
#[derive(Debug)]
struct Rotating(Current);

impl ResolvesServerCert for Rotating {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.certificate().map(|certificate| Arc::clone(certificate.certified()))
    }
}

#[cfg(test)]
mod tests;
