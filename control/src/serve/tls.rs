// SPDX-License-Identifier: Apache-2.0
//! The handshake that every port with TLS begins with.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use runtime::Shutdown;
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

const DEADLINE: Duration = Duration::from_secs(10);

/// Shakes hands; nothing when that fails, takes too long, or the process is asked to finish.
pub(super) async fn accept(
    stream: TcpStream,
    peer: SocketAddr,
    config: Arc<ServerConfig>,
    shutdown: &Shutdown,
) -> Option<TlsStream<TcpStream>> {
    let handshake = TlsAcceptor::from(config).accept(stream);
    let shaken = tokio::select! {
        () = shutdown.requested() => return None,
        shaken = tokio::time::timeout(DEADLINE, handshake) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "TLS handshake took too long");
            None
        }
    }
}
