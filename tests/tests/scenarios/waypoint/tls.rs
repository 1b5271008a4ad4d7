// SPDX-License-Identifier: Apache-2.0
//! Servers outside the mesh that speak TLS: clients speak without, the waypoint proves who answers.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{Request, Response, StatusCode, Version};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use lab::{Pod, cluster::Waypoint, eventually, http, observe::Access};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use super::by_http2;
use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_plain_request_reaches_a_server_outside_in_tls,
        a_server_of_another_name_gets_no_request,
        without_certificates_to_believe_nothing_is_sent,
        calls_go_in_tls_by_http2,
        bytes_go_in_tls_too,
    ]
}

const NAME: &str = "api.example.com";
/// An address that only the `ServiceEntry` has.
const ADDRESS: &str = "198.51.100.7";
const PORT: u16 = 8443;

/// A server outside the mesh, and what it has seen.
struct Outside {
    client: Pod,
    waypoint: Waypoint,
    root: String,
    seen: Arc<Seen>,
    _serving: JoinSet<Result<()>>,
}

#[derive(Default)]
struct Seen {
    /// Connections, whatever became of them.
    accepted: AtomicUsize,
    /// Requests, or connections of bytes, after a handshake in which the name was asked for.
    served: AtomicUsize,
}

impl Seen {
    fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }
}

/// What a server speaks inside TLS.
#[derive(Clone, Copy)]
enum Inside {
    Http1,
    Http2,
    /// It sends back what it gets.
    Bytes,
}

impl Outside {
    async fn begin(scene: &Scene, protocol: &str, inside: Inside) -> Result<Self> {
        let waypoint = scene.begin(scene.waypoint("b", "gate")).await?;
        let server = scene.plain("b", "server").await?;
        let client = scene.captured("a", "client").await?;
        let alpn: &[&[u8]] = match inside {
            Inside::Http1 => &[b"http/1.1"],
            Inside::Http2 => &[b"h2"],
            Inside::Bytes => &[],
        };
        let (root, acceptor) = authority(&[NAME], alpn)?;
        let seen = Arc::new(Seen::default());
        let mut serving = JoinSet::new();
        serving.spawn(serve(server.listen(PORT).await?, acceptor, inside, Arc::clone(&seen)));
        scene.apply("entry", &entry(protocol, server.v4())).await?;
        Ok(Self { client, waypoint, root, seen, _serving: serving })
    }

    /// One request, without TLS.
    async fn get(&self, path: &str) -> Result<Response<Bytes>> {
        let request = Request::get(path).header("host", NAME).body(Full::default())?;
        timeout(SOON, http::exchange(self.connect().await?, request)).await.context("no answer")?
    }

    async fn connect(&self) -> Result<TcpStream> {
        self.client.connect(target()?).await
    }

    /// The certificates that are to be believed.
    async fn publish(&self, scene: &Scene) -> Result<()> {
        let lines: String = self.root.lines().map(|line| format!("    {line}\n")).collect();
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: roots, namespace: NAMESPACE}\ndata:\n  ca.crt: |\n";
        scene.apply("roots", &format!("{map}{lines}")).await
    }

    async fn line(&self, path: &str) -> Result<Access> {
        let instance = self.waypoint.instance()?;
        eventually(SOON, "a line of the waypoint", async || {
            let line = instance.access_log().into_iter().rfind(|line| line.field("path") == path);
            line.context("not written yet")
        })
        .await
    }
}

fn target() -> Result<SocketAddr> {
    Ok(SocketAddr::new(ADDRESS.parse()?, 80))
}

fn entry(protocol: &str, server: IpAddr) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: api, namespace: NAMESPACE, labels: {{istio.io/use-waypoint: gate}}}}\n\
         spec:\n  hosts: [{NAME}]\n  addresses: [{ADDRESS}]\n  resolution: STATIC\n\
         \x20 ports: [{{number: 80, name: plain, protocol: {protocol}, targetPort: {PORT}}}]\n\
         \x20 endpoints: [{{address: {server}}}]\n"
    )
}

/// That servers must have a name, by the certificates of the ConfigMap.
async fn ask_for(scene: &Scene, name: &str) -> Result<()> {
    let policy = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: api, namespace: NAMESPACE}}\n\
         spec:\n  targetRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: api}}]\n  validation:\n\
         \x20   hostname: {name}\n    caCertificateRefs: [{{group: '', kind: ConfigMap, name: roots}}]\n"
    );
    scene.apply("policy", &policy).await
}

/// A root in PEM, and a server under it that has these names.
pub(super) fn authority(names: &[&str], alpn: &[&[u8]]) -> Result<(String, TlsAcceptor)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key)?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok((issuer.pem(), TlsAcceptor::from(Arc::new(config))))
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, inside: Inside, seen: Arc<Seen>) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        seen.accepted.fetch_add(1, Ordering::SeqCst);
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            // Who speaks no TLS, or leaves during the handshake, is not served.
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.server_name() == Some(NAME) {
                converse(stream, inside, seen).await;
            }
        });
    }
}

async fn converse(mut stream: TlsStream<TcpStream>, inside: Inside, seen: Arc<Seen>) {
    let counted = Arc::clone(&seen);
    let answer = service_fn(move |request: Request<Incoming>| {
        counted.served.fetch_add(1, Ordering::SeqCst);
        let scheme = request.uri().scheme_str().unwrap_or("none");
        let text = format!("{:?} {scheme} {}", request.version(), request.uri().path());
        async move { Ok::<_, anyhow::Error>(Response::new(Full::<Bytes>::from(text))) }
    });
    match inside {
        Inside::Http1 => {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            served.unwrap_or_default();
        }
        Inside::Http2 => {
            let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            served.unwrap_or_default();
        }
        Inside::Bytes => {
            seen.served.fetch_add(1, Ordering::SeqCst);
            let mut bytes = Vec::new();
            if stream.read_to_end(&mut bytes).await.is_ok() && stream.write_all(&bytes).await.is_ok() {
                stream.shutdown().await.unwrap_or_default();
            }
        }
    }
}

async fn a_plain_request_reaches_a_server_outside_in_tls(scene: Scene) -> Result<()> {
    let outside = Outside::begin(&scene, "HTTP", Inside::Http1).await?;
    let refused = outside.get("/plain").await;
    ensure!(
        !refused.is_ok_and(|response| response.status() == StatusCode::OK),
        "without the policy it should be no request to the server"
    );
    outside.publish(&scene).await?;
    ask_for(&scene, NAME).await?;
    for path in ["/one", "/two"] {
        let response = outside.get(path).await?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
        let text = String::from_utf8_lossy(response.body());
        ensure!(text == format!("HTTP/1.1 none {path}"), "{text}");
    }
    ensure!(outside.seen.served() == 2, "{} requests arrived", outside.seen.served());
    let line = outside.line("/two").await?;
    ensure!(line.field("status") == "200" && line.field("flags") == "-", "{}", line.line);
    Ok(())
}

async fn a_server_of_another_name_gets_no_request(scene: Scene) -> Result<()> {
    let outside = Outside::begin(&scene, "HTTP", Inside::Http1).await?;
    outside.publish(&scene).await?;
    ask_for(&scene, NAME).await?;
    ensure!(outside.get("/good").await?.status() == StatusCode::OK);
    ask_for(&scene, "other.example.com").await?;
    let accepted = outside.seen.accepted.load(Ordering::SeqCst);
    let response = outside.get("/other").await?;
    ensure!(response.status() == StatusCode::SERVICE_UNAVAILABLE, "{response:?}");
    ensure!(outside.seen.served() == 1, "the server got what was not for it");
    ensure!(outside.seen.accepted.load(Ordering::SeqCst) > accepted, "nobody asked the server who it is");
    let line = outside.line("/other").await?;
    ensure!(line.field("flags").starts_with("UF"), "{}", line.line);
    ensure!(line.line.contains("tls handshake failed"), "{}", line.line);
    Ok(())
}

async fn without_certificates_to_believe_nothing_is_sent(scene: Scene) -> Result<()> {
    let outside = Outside::begin(&scene, "HTTP", Inside::Http1).await?;
    ask_for(&scene, NAME).await?;
    let response = outside.get("/early").await?;
    ensure!(response.status() == StatusCode::SERVICE_UNAVAILABLE, "{response:?}");
    ensure!(outside.seen.served() == 0, "a request went without proof");
    let line = outside.line("/early").await?;
    ensure!(line.line.contains("no authority is believed"), "{}", line.line);
    outside.publish(&scene).await?;
    ensure!(outside.get("/late").await?.status() == StatusCode::OK);
    Ok(())
}

async fn calls_go_in_tls_by_http2(scene: Scene) -> Result<()> {
    let outside = Outside::begin(&scene, "GRPC", Inside::Http2).await?;
    outside.publish(&scene).await?;
    ask_for(&scene, NAME).await?;
    let request = Request::post(format!("http://{NAME}/a.B/C")).body(Full::default())?;
    let response = by_http2(outside.connect().await?, request).await?;
    ensure!(response.status() == StatusCode::OK && response.version() == Version::HTTP_2, "{response:?}");
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(&body[..] == b"HTTP/2.0 https /a.B/C", "{body:?}");
    Ok(())
}

async fn bytes_go_in_tls_too(scene: Scene) -> Result<()> {
    const WORDS: &[u8] = b"words that are no HTTP";
    let outside = Outside::begin(&scene, "TCP", Inside::Bytes).await?;
    outside.publish(&scene).await?;
    ask_for(&scene, NAME).await?;
    let mut stream = outside.connect().await?;
    let mut back = Vec::new();
    let conversation = async {
        stream.write_all(WORDS).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut back).await
    };
    timeout(SOON, conversation).await.context("no end")??;
    ensure!(back == WORDS, "{:?} came back", String::from_utf8_lossy(&back));
    ensure!(outside.seen.served() == 1, "they did not go by a handshake that asked for the name");
    Ok(())
}
