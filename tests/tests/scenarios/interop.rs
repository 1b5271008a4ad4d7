// SPDX-License-Identifier: Apache-2.0
//! Others that speak HBONE: Envoy as the client of our inbound and as the server of our outbound, with certificates of
//! our own CA, asked for over its wire protocol by somebody who is not ours (openssl, curl). Istio's ztunnel takes node b
//! for all scenarios and has a group of its own, `peer` (`AMBIT_LAB_PEER_ZTUNNEL`).

mod certify;
mod envoy;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use lab::{Pod, echo::Echo, http};

use crate::scene::{SOON, Scenario, Scene, only, refused, scenarios, sees, written};
use certify::Certified;

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = scenarios![our_outbound_speaks_hbone_to_envoy];
    let inbound = scenarios![envoy_speaks_hbone_to_our_inbound];
    all.extend(
        inbound.into_iter().map(|scenario| scenario.without_peer("its server is behind the other's inbound")),
    );
    all
}

/// Where Envoy listens in its pod, for its own application; one port for each address of the server.
const ENTRANCES: [u16; 2] = [7004, 7006];

async fn envoy_speaks_hbone_to_our_inbound(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.start(scene.pod("a", "envoy")).await?;
    let certified = certify::pod(&scene, &client).await?;
    let targets = server.addresses().both();
    let settings = envoy::client(&certified, &server.identity(), ENTRANCES.into_iter().zip(targets));
    start(&scene, &client, &settings, ENTRANCES[0]).await?;
    for (port, own) in ENTRANCES.into_iter().zip(client.addresses().both()) {
        let echo = through(&client, port, "/by-envoy").await?;
        ensure!(echo.name == "server" && echo.path == "/by-envoy", "{echo:?}");
        sees(&echo, own)?;
    }
    let access = written(&scene.node("b"), "inbound", &client, &server).await?;
    ensure!(access.field("src.identity") == client.identity(), "{}", access.line);
    ensure!(!access.field("dst.hbone_addr").is_empty(), "no tunnel: {}", access.line);
    // It is believed to be who it is, and no more than that.
    for (principal, let_in) in [(client.identity(), true), (server.identity(), false)] {
        let principal = principal.trim_start_matches("spiffe://").to_owned();
        scene.apply("only", &only(&principal)).await?;
        let answer = through(&client, ENTRANCES[0], "/under-a-policy").await;
        ensure!(answer.is_ok() == let_in, "only {principal}: {answer:?}");
    }
    Ok(())
}

async fn our_outbound_speaks_hbone_to_envoy(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let stranger = scene.captured("a", "stranger").await?;
    // It says of itself that it takes tunnels.
    let server =
        scene.start(scene.pod("b", "envoy").labels(&[("networking.istio.io/tunnel", "http")])).await?;
    server.serve().await?;
    let certified = certify::pod(&scene, &server).await?;
    start(&scene, &server, &envoy::server(&certified, &client.identity()), envoy::HBONE).await?;
    for ip in server.addresses().both() {
        let echo = client.get(ip, "/to-envoy").await?;
        ensure!(echo.name == "envoy" && echo.path == "/to-envoy", "{echo:?}");
        // Envoy ends the tunnel and calls the application itself.
        ensure!(echo.peer.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST), "not by the tunnel: {echo:?}");
        refused(&stranger, ip).await?;
    }
    let access = written(&scene.node("a"), "outbound", &client, &server).await?;
    ensure!(access.field("dst.identity") == server.identity(), "{}", access.line);
    ensure!(access.field("dst.hbone_addr").ends_with(":8080"), "no tunnel: {}", access.line);
    Ok(())
}

/// A request of the pod's own application through its Envoy.
async fn through(pod: &Pod, port: u16, path: &'static str) -> Result<Echo> {
    let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let body = pod.run(async move || http::get(target, path).await).await?;
    serde_json::from_str(&body).with_context(|| format!("no sample application: {body}"))
}

/// Starts Envoy in a pod and waits until it listens.
async fn start(scene: &Scene, pod: &Pod, settings: &serde_json::Value, port: u16) -> Result<()> {
    let program = envoy::program(&scene.cluster).await?;
    let file: PathBuf = folder(scene, pod)?.join("envoy.json");
    std::fs::write(&file, settings.to_string()).context("writing Envoy's settings")?;
    let file = file.display().to_string();
    let arguments = ["-c", &file, "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"];
    let process = pod.start_program("envoy", &program.display().to_string(), &arguments)?;
    process
        .ready(4 * SOON, async || {
            let at = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            pod.run(async move || {
                tokio::net::TcpStream::connect(at).await.map(drop).context("Envoy does not listen yet")
            })
            .await
        })
        .await
}

/// Where files of a pod are kept until the next lab.
fn folder(scene: &Scene, pod: &Pod) -> Result<PathBuf> {
    let folder = scene.cluster.state().join("interop").join(pod.full_name());
    std::fs::create_dir_all(&folder).context("making a folder for a pod's files")?;
    Ok(folder)
}
