// SPDX-License-Identifier: Apache-2.0
//! Questions and changes to an API server over HTTPS, as JSON. One connection per request, or with a `Session` one for
//! many: it serves a harness, not a controller, and knows no kind of object.

use std::{
    fs,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore, client::WantsClientCert};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::http::exchange;

/// Longest time for one exchange, the connection included.
const DEADLINE: Duration = Duration::from_secs(30);
/// Longest line of a watch: an object is at most 1.5 MiB.
const LONGEST_EVENT: usize = 4 << 20;

/// An API server and who asks it.
#[derive(Clone)]
pub struct Api {
    address: SocketAddr,
    tls: TlsConnector,
    token: Option<String>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Api({})", self.address)
    }
}

impl Api {
    /// The server at `address`, certified by `<folder>/ca.crt`, asked by the owner of `<folder>/<user>.{crt,key}`.
    ///
    /// # Errors
    /// When a file is missing or holds something else.
    pub fn new(address: SocketAddr, folder: &Path, user: &str) -> Result<Self> {
        let read = |file: String| fs::read(folder.join(&file)).with_context(|| format!("reading {file}"));
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(&read(format!("{user}.crt"))?)
                .collect::<Result<_, _>>()
                .context("the client's certificate")?;
        let key = PrivateKeyDer::from_pem_slice(&read(format!("{user}.key"))?).context("the client's key")?;
        let config = believing(folder)?
            .with_client_auth_cert(chain, key)
            .context("the client's certificate and key")?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), token: None })
    }

    /// The same server, asked by the owner of a token.
    ///
    /// # Errors
    /// When `<folder>/ca.crt` is missing or holds something else.
    pub fn with_token(address: SocketAddr, folder: &Path, token: String) -> Result<Self> {
        let config = believing(folder)?.with_no_client_auth();
        Ok(Self { address, tls: TlsConnector::from(Arc::new(config)), token: Some(token) })
    }

    /// The answer to `GET path`.
    ///
    /// # Errors
    /// When the server does not answer with 200 and JSON within 30 s.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None).await
    }

    /// The text that `GET path` gives, for what is no JSON.
    ///
    /// # Errors
    /// When the server does not answer with 200 within 30 s.
    pub async fn text(&self, path: &str) -> Result<String> {
        let bytes = self.send("GET", path, None).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Makes an object.
    ///
    /// # Errors
    /// When the server refuses it, or does not answer within 30 s.
    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("POST", path, Some(("application/json", object))).await
    }

    /// Changes the fields of an object that `change` has (a JSON merge patch, RFC 7386).
    ///
    /// # Errors
    /// When the server refuses it, or does not answer within 30 s.
    pub async fn merge(&self, path: &str, change: &Value) -> Result<Value> {
        self.call("PATCH", path, Some(("application/merge-patch+json", change))).await
    }

    /// Puts an object in place of what is there.
    ///
    /// # Errors
    /// When the server refuses it, or does not answer within 30 s.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<Value> {
        self.call("PUT", path, Some(("application/json", object))).await
    }

    /// A connection for many requests, one after the other.
    ///
    /// # Errors
    /// When the server cannot be reached within 30 s.
    pub async fn session(&self) -> Result<Session> {
        let connecting = async {
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await.context("HTTP")
        };
        let (sender, connection) = timeout(DEADLINE, connecting).await.context("connecting")??;
        Ok(Session { api: self.clone(), sender, connection: Box::pin(async move { connection.await.err() }) })
    }

    /// Reads a watch, event by event, until the server ends it.
    ///
    /// # Errors
    /// When the connection breaks, or `event` fails.
    pub async fn watch(&self, path: &str, mut event: impl FnMut(Value) -> Result<()>) -> Result<()> {
        let (mut sender, connection) = timeout(DEADLINE, async {
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await.context("HTTP")
        })
        .await
        .context("connecting")??;
        let request = self.request("GET", path, None)?;
        let reading = async {
            let answer = sender.send_request(request).await.context("sending a request")?;
            ensure!(answer.status() == StatusCode::OK, "GET {path}: {}", answer.status());
            read_lines(answer.into_body(), |line| event(serde_json::from_slice(line)?)).await
        };
        tokio::select! {
            biased;
            outcome = reading => outcome,
            ended = connection => ended.with_context(|| format!("the watch of {path} broke")),
        }
    }

    async fn call(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Value> {
        let bytes = self.send(method, path, body).await?;
        serde_json::from_slice(&bytes).with_context(|| format!("{method} {path} gave no JSON"))
    }

    async fn send(&self, method: &str, path: &str, body: Option<(&str, &Value)>) -> Result<Bytes> {
        let request = self.request(method, path, body)?;
        let answer = timeout(DEADLINE, async { exchange(self.connect().await?, request).await })
            .await
            .with_context(|| format!("{method} {path}"))?
            .with_context(|| format!("{method} {path}"))?;
        let (status, text) = (answer.status(), String::from_utf8_lossy(answer.body()));
        ensure!(status.is_success(), "{method} {path}: {status}: {text}");
        Ok(answer.into_body())
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> Result<Request<Full<Bytes>>> {
        let mut request =
            Request::builder().method(method).uri(path).header("host", self.address.to_string());
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let mut bytes = Bytes::new();
        if let Some((kind, value)) = body {
            request = request.header("content-type", kind);
            bytes = Bytes::from(value.to_string());
        }
        request.body(Full::new(bytes)).context("a request")
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address)
            .await
            .with_context(|| format!("connecting to the API server at {}", self.address))?;
        // The end of a request does not wait for the acknowledgement of its beginning.
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(IpAddr::into(self.address.ip()));
        self.tls.connect(name, stream).await.context("TLS with the API server")
    }
}

/// TLS that believes `<folder>/ca.crt`.
fn believing(folder: &Path) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
    let mut roots = RootCertStore::empty();
    let root = fs::read(folder.join("ca.crt")).context("reading ca.crt")?;
    for certificate in CertificateDer::pem_slice_iter(&root) {
        roots.add(certificate.context("the cluster's root")?).context("the cluster's root")?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots))
}

/// A connection to an API server; it works only while it is asked something.
pub struct Session {
    api: Api,
    sender: SendRequest<Full<Bytes>>,
    connection: Pin<Box<dyn Future<Output = Option<hyper::Error>> + Send>>,
}

impl Session {
    /// Makes an object.
    ///
    /// # Errors
    /// When the server refuses it, or does not answer within 30 s.
    pub async fn create(&mut self, path: &str, object: &Value) -> Result<Value> {
        self.call("POST", path, ("application/json", object)).await
    }

    /// Changes the fields of an object that `change` has (a JSON merge patch, RFC 7386).
    ///
    /// # Errors
    /// When the server refuses it, or does not answer within 30 s.
    pub async fn merge(&mut self, path: &str, change: &Value) -> Result<Value> {
        self.call("PATCH", path, ("application/merge-patch+json", change)).await
    }

    async fn call(&mut self, method: &str, path: &str, body: (&str, &Value)) -> Result<Value> {
        let request = self.api.request(method, path, Some(body))?;
        let (sender, connection) = (&mut self.sender, &mut self.connection);
        let exchange = async {
            sender.ready().await.context("the connection")?;
            let answer = sender.send_request(request).await.context("sending a request")?;
            let (status, body) = (answer.status(), answer.into_body().collect().await?.to_bytes());
            ensure!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            serde_json::from_slice(&body).context("no JSON")
        };
        let mut exchange = std::pin::pin!(exchange);
        let both = poll_fn(|context| {
            let ended = connection.as_mut().poll(context);
            match exchange.as_mut().poll(context) {
                Poll::Pending if ended.is_ready() => Poll::Ready(Err(anyhow!("the connection has ended"))),
                outcome => outcome,
            }
        });
        timeout(DEADLINE, both).await.context("no answer")?.with_context(|| format!("{method} {path}"))
    }
}

async fn read_lines(mut body: Incoming, mut line: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut rest: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|error| anyhow!(error))?.into_data() else { continue };
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(piece);
            ensure!(rest.len() <= LONGEST_EVENT, "an event is longer than any object");
            if rest.ends_with(b"\n") {
                line(&rest)?;
                rest.clear();
            }
        }
    }
    Ok(())
}
