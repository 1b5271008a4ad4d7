// SPDX-License-Identifier: Apache-2.0
//! Who reaches whom, and whom the application sees.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use lab::net::packet::Transport;

use crate::scene::{STRICT, Scenario, Scene, reaches, scenarios, sees, went_through_the_mesh};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        captured_pods_on_one_node_talk_through_the_mesh,
        captured_pods_on_two_nodes_talk_through_the_mesh,
        nothing_of_a_captured_connection_crosses_the_fabric_in_plaintext,
        a_captured_pod_reaches_an_uncaptured_one,
        an_uncaptured_pod_reaches_a_captured_one,
        a_captured_pod_reaches_a_host_outside_the_cluster,
        uncaptured_pods_know_nothing_of_the_mesh,
        a_pod_that_calls_itself_is_left_alone,
        loopback_is_left_alone,
        the_node_itself_reaches_its_pods_without_the_mesh,
    ]
}

async fn captured_pods_on_one_node_talk_through_the_mesh(scene: Scene) -> Result<()> {
    let server = scene.server("a", "server").await?;
    let client = scene.captured("a", "client").await?;
    reaches(&client, &server).await?;
    went_through_the_mesh(&scene, &client, &server).await
}

async fn captured_pods_on_two_nodes_talk_through_the_mesh(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    reaches(&client, &server).await?;
    went_through_the_mesh(&scene, &client, &server).await
}

async fn nothing_of_a_captured_connection_crosses_the_fabric_in_plaintext(scene: Scene) -> Result<()> {
    const MARKER: &str = "/a-path-that-nothing-else-holds";
    let server = scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let sniffer = scene.node("a").sniff()?;
    client.get(server.v4(), MARKER).await?;
    client.get(server.v6(), MARKER).await?;
    let frames = sniffer.stop()?.frames;
    let mut tunnelled = 0;
    for frame in &frames {
        ensure!(
            !lab::net::packet::contains(&frame.bytes, MARKER.as_bytes()),
            "the marker in {:?}",
            frame.packet()
        );
        let Some(packet) = frame.packet() else { continue };
        let between =
            [packet.source, packet.destination].iter().all(|ip| is_one_of(*ip, &[&client, &server]));
        if let Transport::Tcp { source, destination, payload, .. } = packet.transport
            && between
        {
            ensure!(source == 15008 || destination == 15008, "a segment beside the tunnel: {packet:?}");
            tunnelled += payload.len();
        }
    }
    ensure!(tunnelled > 2 * MARKER.len(), "the sniffer saw {tunnelled} bytes of a tunnel");
    Ok(())
}

fn is_one_of(ip: IpAddr, pods: &[&lab::Pod]) -> bool {
    pods.iter().any(|pod| pod.addresses().both().contains(&ip))
}

async fn a_captured_pod_reaches_an_uncaptured_one(scene: Scene) -> Result<()> {
    for (node, name) in [("a", "near"), ("b", "far")] {
        let server = scene.plain(node, name).await?;
        server.serve().await?;
        let client = scene.captured("a", &format!("client-of-{name}")).await?;
        reaches(&client, &server).await?;
    }
    Ok(())
}

async fn an_uncaptured_pod_reaches_a_captured_one(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    for (node, name) in [("b", "near"), ("a", "far")] {
        let client = scene.plain(node, name).await?;
        reaches(&client, &server).await?;
    }
    Ok(())
}

async fn a_captured_pod_reaches_a_host_outside_the_cluster(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let outside = scene.cluster.outside().addresses;
    for (ip, own) in [(IpAddr::V4(outside.v4), client.v4()), (IpAddr::V6(outside.v6), client.v6())] {
        let echo = client.get(ip, "/").await?;
        ensure!(echo.name == "outside", "{} answered", echo.name);
        sees(&echo, own)?;
    }
    Ok(())
}

async fn uncaptured_pods_know_nothing_of_the_mesh(scene: Scene) -> Result<()> {
    let server = scene.plain("b", "server").await?;
    server.serve().await?;
    for (node, name) in [("b", "near"), ("a", "far")] {
        let client = scene.plain(node, name).await?;
        reaches(&client, &server).await?;
    }
    Ok(())
}

async fn a_pod_that_calls_itself_is_left_alone(scene: Scene) -> Result<()> {
    let pod = scene.server("a", "pod").await?;
    reaches(&pod, &pod).await?;
    let log = scene.node("a").access_log();
    let written = log
        .iter()
        .find(|access| access.field("src.workload") == pod.name() && access.line.contains(scene.namespace()));
    ensure!(written.is_none(), "a call to itself went through ztunnel: {written:?}");
    Ok(())
}

async fn loopback_is_left_alone(scene: Scene) -> Result<()> {
    let pod = scene.server("a", "pod").await?;
    for ip in ["127.0.0.1", "::1", "127.1.2.3"] {
        let ip: IpAddr = ip.parse()?;
        let echo = pod.get(ip, "/").await?;
        ensure!(echo.peer.ip().is_loopback() && echo.local.ip() == ip, "{echo:?}");
    }
    Ok(())
}

async fn the_node_itself_reaches_its_pods_without_the_mesh(scene: Scene) -> Result<()> {
    let pod = scene.server("a", "pod").await?;
    let node = scene.node("a");
    scene.apply("strict", STRICT).await?;
    for ip in pod.addresses().both() {
        let target = std::net::SocketAddr::new(ip, lab::echo::HTTP);
        let body = node.namespace().run(async move || lab::http::get(target, "/healthz").await).await?;
        ensure!(body.contains("/healthz"), "{body}");
    }
    Ok(())
}
