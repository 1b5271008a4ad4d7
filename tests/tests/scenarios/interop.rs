// SPDX-License-Identifier: Apache-2.0
//! Others that speak HBONE: Envoy as the client of our inbound and as the server of our outbound, with certificates of
//! our own CA, asked for over its wire protocol by somebody who is not ours (openssl, curl). Istio's ztunnel takes node b
//! for all scenarios and has a group of its own, `peer` (`AMBIT_LAB_PEER_ZTUNNEL`).

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    echo::{self, Echo},
    envoy::{self, Certified, Entrance, Exit},
    http,
};
use serde_json::Value;

use crate::scene::{Scenario, Scene, only, refused, scenarios, sees, written};

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
    let entrance = |(port, ip)| Entrance {
        port,
        tunnel: SocketAddr::new(ip, envoy::HBONE),
        target: SocketAddr::new(ip, echo::HTTP),
    };
    let entrances: Vec<_> = ENTRANCES.into_iter().zip(server.addresses().both()).map(entrance).collect();
    let settings = |certified: &Certified| envoy::client(certified, &server.identity(), &entrances);
    start(&scene, &client, settings, ENTRANCES[0]).await?;
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
    let exits = [Exit { port: envoy::HBONE, application: echo::HTTP }];
    let settings = |certified: &Certified| envoy::server(certified, &client.identity(), &exits);
    start(&scene, &server, settings, envoy::HBONE).await?;
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

/// Starts Envoy in a pod under the pod's identity, and waits until it listens.
async fn start(
    scene: &Scene,
    pod: &Pod,
    settings: impl FnOnce(&Certified) -> Value,
    port: u16,
) -> Result<()> {
    // Files of a pod are kept until the next lab.
    let folder = scene.cluster.state().join("interop").join(pod.full_name());
    std::fs::create_dir_all(&folder).context("making a folder for a pod's files")?;
    let certified = envoy::certify(&scene.cluster, pod, &folder).await?;
    let program: PathBuf = envoy::program(&scene.cluster.settings().state).await?;
    envoy::start(pod, &program, &folder.join("envoy.json"), &settings(&certified), port).await?;
    Ok(())
}
