// SPDX-License-Identifier: Apache-2.0
//! Runs the two sides of a tunnel's handshake, and says in our words why one failed.

use std::{io, net::Ipv4Addr, sync::Arc};

use mesh::SpiffeId;
use rustls::{CertificateError, ClientConfig, Error, OtherError, ServerConfig};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::{ALPN, PeerRejected, peer_identity};

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// We reject the peer.
    #[error(transparent)]
    Rejected(#[from] PeerRejected),
    /// TLS did not come about: the peer rejects us, or its certificate is not valid.
    #[error("TLS handshake failed")]
    Tls(#[source] Error),
    /// The connection broke.
    #[error("connection lost during the TLS handshake")]
    Lost(#[source] io::Error),
    /// It speaks TLS but not HTTP/2.
    #[error("peer does not speak h2")]
    Protocol,
    /// It has a valid certificate without a SPIFFE identity.
    #[error("peer has no SPIFFE identity")]
    NoIdentity,
}

/// The client's side, with a configuration of [`super::Profile::client_config`]; gives the server's identity too.
///
/// # Errors
/// When the server is not an expected one or TLS does not come about.
pub async fn connect<S>(
    config: Arc<ClientConfig>,
    stream: S,
) -> Result<(client::TlsStream<S>, SpiffeId), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // The verifier looks at identities only, and SNI is off: any name will do.
    let name = ServerName::from(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(explain)?;
    let identity = agreed(stream.get_ref().1)?;
    Ok((stream, identity))
}

/// The server's side, with a configuration of [`super::Profile::server_config`]; gives the client's identity too.
///
/// # Errors
/// When the client is not let in or TLS does not come about.
pub async fn accept<S>(
    config: Arc<ServerConfig>,
    stream: S,
) -> Result<(server::TlsStream<S>, SpiffeId), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(explain)?;
    let identity = agreed(stream.get_ref().1)?;
    Ok((stream, identity))
}

fn agreed<D>(connection: &rustls::ConnectionCommon<D>) -> Result<SpiffeId, HandshakeError> {
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(HandshakeError::Protocol);
    }
    let chain: &[CertificateDer<'_>] = connection.peer_certificates().unwrap_or_default();
    peer_identity(chain).ok_or(HandshakeError::NoIdentity)
}

pub(super) fn explain(error: io::Error) -> HandshakeError {
    match error.downcast::<Error>() {
        Ok(Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))) => {
            match reason.downcast_ref::<PeerRejected>() {
                Some(rejected) => HandshakeError::Rejected(rejected.clone()),
                None => HandshakeError::Tls(Error::InvalidCertificate(CertificateError::Other(OtherError(
                    reason,
                )))),
            }
        }
        Ok(error) => HandshakeError::Tls(error),
        Err(error) => HandshakeError::Lost(error),
    }
}
