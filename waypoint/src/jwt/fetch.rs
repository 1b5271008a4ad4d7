// SPDX-License-Identifier: Apache-2.0
//! Gets a small document by HTTP or HTTPS, within a time and a size. It follows no redirection.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Request, StatusCode, Uri,
    header::{ACCEPT, HOST, USER_AGENT},
    uri::Scheme,
};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::app::VERSION;

/// The largest document that is taken.
pub const LARGEST: usize = 256 << 10;

/// What gets documents.
#[derive(Clone)]
pub struct Fetcher {
    tls: Option<Arc<ClientConfig>>,
}

impl std::fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher").field("tls", &self.tls.is_some()).finish()
    }
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is none.
    #[error("{uri:?} is no address of http or https")]
    Address {
        /// It.
        uri: String,
    },
    /// The TLS library refuses every version.
    #[error("no version of TLS can be spoken")]
    NoTls,
    /// It took too long.
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// The server cannot be reached.
    #[error("connecting to {authority}")]
    Unreached {
        /// It.
        authority: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server says nothing that is HTTP.
    #[error("asking")]
    Http(#[source] hyper::Error),
    /// The server says no.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// The document is too large, or broke off.
    #[error("reading the document")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Fetcher {
    /// One that believes the servers that these roots vouch for.
    pub fn new(roots: Arc<RootCertStore>) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.map(|config| config.with_root_certificates(roots).with_no_client_auth());
        Self { tls: config.ok().map(Arc::new) }
    }

    /// Gets a document.
    ///
    /// # Errors
    /// When there is none, or none in time.
    pub async fn get(&self, uri: &str, timeout: Duration) -> Result<Bytes, FetchError> {
        let asked = self.ask(uri);
        tokio::time::timeout(timeout, Box::pin(asked)).await.map_err(|_late| FetchError::Late(timeout))?
    }

    async fn ask(&self, text: &str) -> Result<Bytes, FetchError> {
        let wrong = || FetchError::Address { uri: text.to_owned() };
        let uri: Uri = text.parse().map_err(|_invalid| wrong())?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(wrong()) };
        let secure = *scheme == Scheme::HTTPS;
        if !secure && *scheme != Scheme::HTTP {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let unreached = |source| FetchError::Unreached { authority: authority.to_string(), source };
        let tls = if secure { Some(self.tls.clone().ok_or(FetchError::NoTls)?) } else { None };
        let stream = TcpStream::connect((host.as_str(), port)).await.map_err(unreached)?;
        match tls {
            None => exchange(stream, &uri, authority.as_str()).await,
            Some(config) => {
                let name = ServerName::try_from(host).map_err(|_invalid| wrong())?;
                let stream = TlsConnector::from(config).connect(name, stream).await.map_err(unreached)?;
                exchange(stream, &uri, authority.as_str()).await
            }
        }
    }
}

async fn exchange<S>(stream: S, uri: &Uri, authority: &str) -> Result<Bytes, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat_version())
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|_invalid| FetchError::Address { uri: uri.to_string() })?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        Ok(body.map_err(FetchError::Body)?.to_bytes())
    };
    // The connection is driven here and ends with the answer.
    tokio::pin!(asked);
    tokio::select! {
        document = &mut asked => document,
        ended = connection => match ended {
            Ok(()) => asked.await,
            Err(error) => Err(FetchError::Http(error)),
        },
    }
}

fn concat_version() -> String {
    format!("ambit-waypoint/{VERSION}")
}
