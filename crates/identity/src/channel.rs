// SPDX-License-Identifier: Apache-2.0
//! Connections to the control plane: TCP, TLS by server name against roots that may change under us, HTTP/2 on top.

use std::{
    fs, io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;
use tonic::transport::{Channel, Endpoint};

use crate::{
    certificate::{CertificateError, Roots},
    tls::{Profile, TlsError},
};

/// TCP, and TLS on it.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// TCP keepalive: first probe, pause between probes, and how many.
const TCP_KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(300), Duration::from_secs(75), 9);
/// HTTP/2 PING: pause, and how long an answer may take.
const HTTP2_KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// HTTP/2 windows of a stream and of the connection, in bytes: a first push of everything is large.
const WINDOWS: (u32, u32) = (4 << 20, 8 << 20);

/// Where Debian, Fedora, SUSE and Alpine keep the roots of the system.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Where the roots of the control plane are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSource {
    /// In a file, read again for each connection.
    File(PathBuf),
    /// Here, in PEM.
    Pem(String),
    /// Those that the system believes in.
    System,
}

impl From<&str> for RootSource {
    /// `SYSTEM`, PEM itself, or a path.
    fn from(text: &str) -> Self {
        if text == "SYSTEM" {
            Self::System
        } else if text.contains("-----BEGIN") {
            Self::Pem(text.to_owned())
        } else {
            Self::File(text.into())
        }
    }
}

/// An address of the control plane that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Not a URI with a host.
    #[error("invalid control plane address {address:?}: must be https://<host>:<port>")]
    Invalid {
        /// What was given.
        address: String,
    },
    /// Tokens would cross the network in the clear.
    #[error("control plane address {address:?} is not https and not on this host")]
    Plaintext {
        /// What was given.
        address: String,
    },
    /// Not a host name.
    #[error("invalid server name {name:?}")]
    Name {
        /// What was given.
        name: String,
    },
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The roots cannot be read.
    #[error("cannot read the roots of the control plane from {}", .path.display())]
    ReadRoots {
        /// Where they should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The roots cannot be used.
    #[error("cannot use the roots of the control plane")]
    Roots(#[source] CertificateError),
    /// No configuration.
    #[error(transparent)]
    Config(#[from] TlsError),
    /// No TCP connection.
    #[error("cannot connect to {host}:{port}")]
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No TLS.
    #[error("TLS with {host}:{port} failed")]
    Tls {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("no connection to {host}:{port} within {CONNECT_DEADLINE:?}")]
    Deadline {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Opens connections to one server of the control plane; a `tower` service that ignores the URI it is called with, as
/// gRPC clients take them.
#[derive(Clone, Debug)]
pub struct Connector {
    uri: Uri,
    host: String,
    port: u16,
    roots: RootSource,
    encrypted: bool,
    alternatives: Vec<ServerName<'static>>,
    profile: Profile,
}

/// A connection.
pub type Connection = TokioIo<Either<TcpStream, TlsStream<TcpStream>>>;

impl Connector {
    /// To `https://<host>:<port>` (the scheme may be missing), whose certificate may also have another name. Plain
    /// `http` only to this host itself.
    ///
    /// # Errors
    /// When the address or the other name cannot be used.
    pub fn new(
        address: &str,
        roots: RootSource,
        alternative: Option<&str>,
        profile: Profile,
    ) -> Result<Self, AddressError> {
        let invalid = || AddressError::Invalid { address: address.to_owned() };
        let text = if address.contains("://") { address.to_owned() } else { format!("https://{address}") };
        let Ok(uri) = text.parse::<Uri>() else { return Err(invalid()) };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(invalid)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let (encrypted, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") if is_local(&host) => (false, 80),
            Some("http") => return Err(AddressError::Plaintext { address: address.to_owned() }),
            _ => return Err(invalid()),
        };
        server_name(&host)?;
        let alternatives = alternative.map(server_name).transpose()?.into_iter().collect();
        Ok(Self { port: uri.port_u16().unwrap_or(port), uri, host, roots, encrypted, alternatives, profile })
    }

    /// Whether there is TLS: always, but to this host itself by `http`.
    pub(crate) fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// The TLS configuration for a new connection, under the roots as they are now.
    fn tls_config(&self) -> Result<Arc<ClientConfig>, ConnectError> {
        let roots = Roots::from_pem(&self.read_roots()?).map_err(ConnectError::Roots)?;
        Ok(self.profile.control_config(roots, self.alternatives.clone())?)
    }

    /// A gRPC channel over these connections: it connects when it is first used, and again after a connection is lost.
    pub fn channel(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.clone())
    }

    /// A gRPC channel over a connection that is made now, under the roots as they are now.
    ///
    /// # Errors
    /// When there is no connection within 5 s.
    pub async fn open(&self) -> Result<Channel, tonic::transport::Error> {
        self.endpoint().connect_with_connector(self.clone()).await
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.uri.clone())
            .http2_keep_alive_interval(HTTP2_KEEPALIVE.0)
            .keep_alive_timeout(HTTP2_KEEPALIVE.1)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
    }

    /// A connection, within 5 s.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        let (host, port) = (self.host.clone(), self.port);
        match tokio::time::timeout(CONNECT_DEADLINE, self.dial()).await {
            Ok(dialled) => dialled.map(TokioIo::new),
            Err(_) => Err(ConnectError::Deadline { host, port }),
        }
    }

    /// The roots as they are now, to see whether they changed.
    pub(crate) fn read_roots(&self) -> Result<Vec<u8>, ConnectError> {
        match &self.roots {
            RootSource::Pem(text) => Ok(text.clone().into_bytes()),
            RootSource::File(path) => read(path.clone()),
            RootSource::System => {
                let mut found = SYSTEM_BUNDLES.iter().filter_map(|path| fs::read(path).ok());
                found.next().map_or_else(|| read(PathBuf::from(SYSTEM_BUNDLES[0])), Ok)
            }
        }
    }

    async fn dial(&self) -> Result<Either<TcpStream, TlsStream<TcpStream>>, ConnectError> {
        let (host, port) = (self.host.clone(), self.port);
        let config = if self.encrypted { Some(self.tls_config()?) } else { None };
        let stream = match TcpStream::connect((host.as_str(), port)).await {
            Ok(stream) => stream,
            Err(source) => return Err(ConnectError::Tcp { host, port, source }),
        };
        if let Err(error) = keep_alive(&stream) {
            tracing::debug!(%error, "no keepalive towards the control plane");
        }
        let Some(config) = config else { return Ok(Either::Left(stream)) };
        let Ok(name) = ServerName::try_from(host.clone()) else {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(ConnectError::Tls { host, port, source });
        };
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(stream) => Ok(Either::Right(stream)),
            Err(source) => Err(ConnectError::Tls { host, port, source }),
        }
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Connection;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Connection, ConnectError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect().await }) as Pin<Box<_>>
    }
}

fn read(path: PathBuf) -> Result<Vec<u8>, ConnectError> {
    fs::read(&path).map_err(|source| ConnectError::ReadRoots { path, source })
}

fn server_name(name: &str) -> Result<ServerName<'static>, AddressError> {
    match ServerName::try_from(name.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) => Err(AddressError::Name { name: name.to_owned() }),
    }
}

fn is_local(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (time, interval, retries) = TCP_KEEPALIVE;
    let keepalive = TcpKeepalive::new().with_time(time).with_interval(interval).with_retries(retries);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests;
