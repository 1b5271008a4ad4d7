// SPDX-License-Identifier: Apache-2.0
//! Connections that are no HTTP, by routes: of TLS by the name that the handshake asks for, of others by weight.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use lab::{Pod, echo, eventually};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{ClientConfig, RootCertStore, crypto::aws_lc_rs::default_provider},
};

use super::{Behind, tls::authority};
use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        the_name_in_a_handshake_says_which_server_gets_the_connection,
        connections_of_bytes_are_shared_by_weight,
    ]
}

const PORT: u16 = 8443;
const NAMES: [&str; 3] = ["one.example", "a.two.example", "three.example"];

/// Tells each client its own name and which one was asked for.
async fn serve(listener: TcpListener, acceptor: TlsAcceptor, own: &'static str) -> Result<()> {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _peer) = listener.accept().await?;
        let acceptor = acceptor.clone();
        connections.spawn(async move {
            let mut stream = acceptor.accept(stream).await?;
            let asked = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            stream.write_all(format!("{own} for {asked}").as_bytes()).await?;
            stream.shutdown().await
        });
    }
}

/// Who believes the root.
fn connector(root: &str) -> Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots);
    Ok(TlsConnector::from(Arc::new(config.with_no_client_auth())))
}

/// One connection that asks for a name; what the server says.
async fn say(connector: &TlsConnector, from: &Pod, to: SocketAddr, name: &'static str) -> Result<String> {
    let stream = from.connect(to).await?;
    let conversation = async {
        let mut stream = connector.connect(ServerName::try_from(name)?, stream).await?;
        let mut said = String::new();
        stream.read_to_string(&mut said).await?;
        Ok(said)
    };
    timeout(SOON, conversation).await.context("no end")?
}

/// Two names have a server each, and others none.
const BY_NAME: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: first, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  hostnames: [one.example]
  rules: [{backendRefs: [{name: one, port: 443}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: second, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  hostnames: ['*.two.example']
  rules: [{backendRefs: [{name: two, port: 443}]}]
";

/// What is for no other route.
const THE_REST: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {name: rest, namespace: NAMESPACE}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: two, port: 443}]}]
";

async fn the_name_in_a_handshake_says_which_server_gets_the_connection(scene: Scene) -> Result<()> {
    let waypoint = scene.begin(scene.waypoint("b", "gate")).await?;
    let client = scene.captured("a", "client").await?;
    let (root, acceptor) = authority(&NAMES, &[])?;
    let connector = connector(&root)?;
    let mut serving = JoinSet::new();
    for name in ["one", "two"] {
        let pod = scene.captured("b", name).await?;
        serving.spawn(serve(pod.listen(PORT).await?, acceptor.clone(), name));
        scene.create(scene.service(name).declared(443, PORT, "tls")).await?;
    }
    // The second port declares nothing: that it is TLS is seen.
    let web = scene.service("web").selector("app", "one").declared(443, PORT, "tls").declared(444, PORT, "");
    let ip = scene.create(web.behind("gate")).await?.addresses.context("no virtual address")?.v4;
    let ports = [443, 444].map(|port| SocketAddr::new(ip.into(), port));
    for target in ports {
        let said = say(&connector, &client, target, "a.two.example").await?;
        ensure!(said == "one for a.two.example", "without a route: {said}");
    }
    scene.apply("by-name", BY_NAME).await?;
    for target in ports {
        for (name, expected) in
            [("one.example", "one for one.example"), ("a.two.example", "two for a.two.example")]
        {
            let said = say(&connector, &client, target, name).await?;
            ensure!(said == expected, "{name} on {target}: {said}");
        }
        let said = say(&connector, &client, target, "three.example").await;
        ensure!(said.is_err(), "a name of nobody's: {said:?}");
    }
    let instance = waypoint.instance()?;
    eventually(SOON, "the name that nobody has in the log", async || {
        let log = instance.access_log();
        let told = log.iter().filter(|line| line.field("error").contains("three.example")).count();
        ensure!(told == 2, "{told} lines");
        Ok(())
    })
    .await?;
    scene.apply("rest", THE_REST).await?;
    for target in ports {
        let said = say(&connector, &client, target, "three.example").await?;
        ensure!(said == "two for three.example", "{said}");
        let said = say(&connector, &client, target, "one.example").await?;
        ensure!(said == "one for one.example", "{said}");
    }
    Ok(())
}

fn shares(own: u32, other: u32) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: TCPRoute\n\
         metadata: {{name: shares, namespace: NAMESPACE}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: server, port: 80}}]\n\
         \x20 rules: [{{backendRefs: [{{name: server, port: 80, weight: {own}}}, {{name: other, port: 80, weight: {other}}}]}}]\n"
    )
}

async fn connections_of_bytes_are_shared_by_weight(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::BANNER, "tcp").await?;
    scene.server("b", "other").await?;
    scene.create(scene.service("other").declared(80, echo::BANNER, "tcp")).await?;
    let others = async |connections: usize| {
        let mut others = 0;
        for _ in 0..connections {
            let mut stream = behind.connect().await?;
            let mut first = [0];
            timeout(SOON, stream.read_exact(&mut first)).await.context("no banner")??;
            ensure!(b"so".contains(&first[0]), "{first:?}");
            others += usize::from(&first == b"o");
        }
        Ok::<_, anyhow::Error>(others)
    };
    ensure!(others(5).await? == 0, "without a route");
    // Six standard deviations about 150: one run in 500 million is outside by chance.
    let mut all = 0;
    for (own, other, connections, expected) in
        [(1, 3, 200, 113..=187), (1, 0, 10, 0..=0), (0, 1, 10, 10..=10)]
    {
        scene.apply("shares", &shares(own, other)).await?;
        let got = others(connections).await?;
        ensure!(expected.contains(&got), "{got} of {connections} at {own} to {other}");
        all += got;
    }
    let metrics = behind.instance()?.metrics().await?;
    let labels = [("reporter", "waypoint"), ("destination_workload", "other")];
    // Each was counted before its banner came.
    let counted = metrics.sum("istio_tcp_connections_opened_total", &labels);
    ensure!(counted >= all as f64, "{counted} of {all} are counted");
    Ok(())
}
