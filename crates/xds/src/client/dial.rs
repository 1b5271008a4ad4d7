// SPDX-License-Identifier: Apache-2.0
//! A connection to the server: TCP, TLS, HTTP/2 with keepalive, within five seconds.

use std::{io, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::config::{BoxError, ClientConfig, TlsSource};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
// The pings are the deadline of every wait on an open stream: a server that is gone is noticed after both together.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
// A push of the whole mesh must not wait for a round trip per 64 KiB.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 2 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// It took too long.
    #[error("no connection within {} s", CONNECT_TIMEOUT.as_secs())]
    Timeout,
    /// It failed.
    #[error("no connection")]
    Failed(#[source] tonic::transport::Error),
}

/// Why there is no TLS or TCP below it.
#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error("the TLS configuration is not available")]
    Configuration(#[source] BoxError),
    #[error("{host:?} is no name that a certificate can have")]
    Name { host: String },
    #[error("TCP to {host}:{port}")]
    Tcp { host: String, port: u16, source: io::Error },
    #[error("TLS with {host}")]
    Tls { host: String, source: io::Error },
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects.
pub(super) async fn dial(config: &ClientConfig) -> Result<Channel, DialError> {
    let tls = config.tls.clone();
    let connector = tower::service_fn(move |uri: Uri| {
        let tls = tls.clone();
        async move { connect(&uri, tls.as_ref()).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from(config.server.clone())
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await {
        Ok(connected) => connected.map_err(DialError::Failed),
        Err(_elapsed) => Err(DialError::Timeout),
    }
}

async fn connect(uri: &Uri, tls: Option<&TlsSource>) -> Result<Box<dyn Stream>, ConnectError> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or_else(|| if tls.is_some() { 443 } else { 80 });
    let tcp = match TcpStream::connect((host.as_str(), port)).await.and_then(|tcp| {
        tcp.set_nodelay(true)?;
        Ok(tcp)
    }) {
        Ok(tcp) => tcp,
        Err(source) => return Err(ConnectError::Tcp { host, port, source }),
    };
    let Some(tls) = tls else { return Ok(Box::new(tcp)) };
    let config = tls().map_err(ConnectError::Configuration)?;
    let Ok(name) = ServerName::try_from(host.clone()) else { return Err(ConnectError::Name { host }) };
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(source) => Err(ConnectError::Tls { host, source }),
    }
}
