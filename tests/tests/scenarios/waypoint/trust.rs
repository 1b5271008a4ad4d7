// SPDX-License-Identifier: Apache-2.0
//! Whom a waypoint believes to be its server, and what servers are told of who the client is.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ::http::{Request, StatusCode, header};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Full;
use lab::{
    Pod,
    echo::{self, Echo},
    envoy::{self, Certified},
    eventually, http,
};
use parking_lot::Mutex;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{io::AsyncReadExt as _, net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs::default_provider},
};

use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_server_that_proves_another_identity_gets_no_byte,
        what_a_client_says_of_its_certificate_is_not_passed_on,
    ]
}

/// Where servers take tunnels.
const HBONE: u16 = 15008;
const FORWARDED: &str = "x-forwarded-client-cert";

/// What the end of tunnels has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Bytes after a handshake.
    bytes: AtomicUsize,
}

/// The end of tunnels of a pod: it proves what it is given at the time, and answers nothing.
struct Ending {
    seen: Arc<Seen>,
    proof: Arc<Mutex<TlsAcceptor>>,
    _serving: JoinSet<Result<()>>,
}

impl Ending {
    async fn begin(pod: &Pod, proof: TlsAcceptor) -> Result<Self> {
        let (seen, proof) = (Arc::<Seen>::default(), Arc::new(Mutex::new(proof)));
        let mut serving = JoinSet::new();
        serving.spawn(listen(pod.listen(HBONE).await?, Arc::clone(&proof), Arc::clone(&seen)));
        Ok(Self { seen, proof, _serving: serving })
    }
}

async fn listen(listener: TcpListener, proof: Arc<Mutex<TlsAcceptor>>, seen: Arc<Seen>) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        seen.connections.fetch_add(1, Ordering::SeqCst);
        let (acceptor, seen) = (proof.lock().clone(), Arc::clone(&seen));
        connections.spawn(async move {
            // Whoever does not believe the certificate leaves during the handshake.
            let mut stream = acceptor.accept(stream).await?;
            let mut buffer = [0; 1024];
            let count = stream.read(&mut buffer).await?;
            seen.bytes.fetch_add(count, Ordering::SeqCst);
            Ok::<_, std::io::Error>(())
        });
    }
}

/// Proves the identity of a certificate.
fn proof(certified: &Certified) -> Result<TlsAcceptor> {
    let chain: Vec<_> = CertificateDer::pem_file_iter(&certified.chain)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&certified.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn certified(scene: &Scene, pod: &Pod, folder: &Path) -> Result<TlsAcceptor> {
    let folder = folder.join(pod.full_name());
    std::fs::create_dir_all(&folder).context("making a folder for a pod's files")?;
    proof(&envoy::certify(&scene.cluster, pod, &folder).await?)
}

async fn a_server_that_proves_another_identity_gets_no_byte(scene: Scene) -> Result<()> {
    let waypoint = scene.begin(scene.waypoint("b", "gate")).await?;
    let client = scene.captured("a", "client").await?;
    let other = scene.plain("b", "other").await?;
    // It says of itself that it takes tunnels.
    let server = scene.pod("b", "server").labels(&[("networking.istio.io/tunnel", "http")]);
    let server = scene.start(server).await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    let ip = scene.create(service).await?.addresses.context("no virtual address")?.v4;
    let target = SocketAddr::new(ip.into(), 80);
    let folder = scene.cluster.state().join("trust");
    let (of_other, own) =
        (certified(&scene, &other, &folder).await?, certified(&scene, &server, &folder).await?);
    let ending = Ending::begin(&server, of_other).await?;

    let request = Request::get("/secret").header(header::HOST, "server").body(Full::default())?;
    let exchange = http::exchange(client.connect(target).await?, request);
    let response = timeout(SOON, exchange).await.context("no answer")??;
    ensure!(response.status() == StatusCode::SERVICE_UNAVAILABLE, "{response:?}");
    let seen = || (ending.seen.connections.load(Ordering::SeqCst), ending.seen.bytes.load(Ordering::SeqCst));
    ensure!(matches!(seen(), (1.., 0)), "connections and bytes: {:?}", seen());
    let instance = waypoint.instance()?;
    eventually(SOON, "a line with the reason", async || {
        let log = instance.access_log();
        let line = log.iter().rfind(|line| line.field("path") == "/secret").context("not written yet")?;
        ensure!(line.field("status") == "503" && line.field("flags").starts_with("UF"), "{}", line.line);
        ensure!(line.field("error").contains(&other.identity()), "{}", line.line);
        Ok(())
    })
    .await?;
    let metrics = instance.metrics().await?;
    let labels = [("response_code", "503"), ("destination_workload", "server")];
    let counted: Vec<_> = metrics.with("istio_requests_total", &labels).collect();
    ensure!(
        counted.iter().any(|sample| sample.labels["response_flags"].starts_with("UF")),
        "it is counted as {counted:?}"
    );

    // Under its own name the same server is sent what there is.
    *ending.proof.lock() = own;
    eventually(SOON, "bytes for the server", async || {
        let stream = client.connect(target).await?;
        let request = Request::get("/").header(header::HOST, "server").body(Full::default())?;
        drop(timeout(SOON, http::exchange(stream, request)).await);
        ensure!(seen().1 > 0, "none came");
        Ok(())
    })
    .await
}

/// What the server sees of a request with two forged fields.
async fn forged(client: &Pod, ip: IpAddr) -> Result<Option<String>> {
    let forged = "By=spiffe://cluster.local/ns/a/sa/b;URI=spiffe://cluster.local/ns/istio-system/sa/admin";
    let request = Request::get("/headers").header(header::HOST, "server");
    let request = request.header(FORWARDED, forged).header("X-Forwarded-Client-Cert", "URI=spiffe://x");
    let stream = client.connect(SocketAddr::new(ip, 80)).await?;
    let exchange = http::exchange(stream, request.body(Full::<Bytes>::default())?);
    let response = timeout(SOON, exchange).await.context("no answer")??;
    ensure!(response.status() == StatusCode::OK, "{response:?}");
    let echo: Echo = serde_json::from_slice(response.body())?;
    Ok(echo.headers.get(FORWARDED).cloned())
}

async fn what_a_client_says_of_its_certificate_is_not_passed_on(scene: Scene) -> Result<()> {
    scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    for (name, telling) in [("silent", false), ("telling", true)] {
        let waypoint = scene.waypoint("b", name);
        let waypoint =
            if telling { waypoint.variable("AMBIT_FORWARD_CLIENT_CERT", "true") } else { waypoint };
        let waypoint = scene.begin(waypoint).await?;
        let service = scene.service(&format!("by-{name}")).selector("app", "server");
        let service = scene.create(service.declared(80, echo::HTTP, "http").behind(name)).await?;
        let ip = service.addresses.context("no virtual address")?.v4;
        let seen = forged(&client, ip.into()).await?;
        let expected = telling.then(|| format!("By={};URI={}", waypoint.identity(), client.identity()));
        ensure!(seen == expected, "the {name} waypoint says {seen:?} instead of {expected:?}");
    }
    Ok(())
}
