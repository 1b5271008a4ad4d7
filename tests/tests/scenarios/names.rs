// SPDX-License-Identifier: Apache-2.0
//! Names and virtual addresses: how a service is found, and that it leads to its pods.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use hickory_proto::{op::ResponseCode, rr::RecordType};
use lab::dns::Over;

use crate::scene::{Scenario, Scene, both_answer, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![
        a_service_is_reached_by_its_virtual_addresses_on_every_replica,
        a_service_port_leads_to_the_target_port,
        a_headless_service_is_found_by_name_and_reached_by_its_pods_addresses,
        dns_knows_the_services_of_the_mesh_over_udp_and_tcp,
        dns_passes_on_what_is_not_of_the_mesh,
        a_service_is_found_by_its_short_name,
        a_service_without_endpoints_is_refused,
    ]
}

async fn a_service_is_reached_by_its_virtual_addresses_on_every_replica(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    for (node, name) in [("a", "echo-a"), ("b", "echo-b")] {
        let pod = scene.start(scene.pod(node, name).captured().labels(&[("app", "echo")])).await?;
        pod.serve().await?;
    }
    let service = scene.create(scene.service("echo")).await?;
    let addresses = service.addresses.context("no virtual address")?;
    for (ip, own) in [(IpAddr::V4(addresses.v4), client.v4()), (IpAddr::V6(addresses.v6), client.v6())] {
        both_answer(&client, ip, own).await?;
    }
    Ok(())
}

async fn a_service_port_leads_to_the_target_port(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let server = scene.server("b", "server").await?;
    let service = scene.create(scene.service("server").port(80, lab::echo::HTTP)).await?;
    let v4 = service.addresses.context("no virtual address")?.v4;
    let target = std::net::SocketAddr::from((v4, 80));
    let body = client.run(async move || lab::http::get(target, "/").await).await?;
    let echo: lab::echo::Echo = serde_json::from_str(&body)?;
    ensure!(echo.name == server.name() && echo.local.port() == lab::echo::HTTP, "{echo:?}");
    Ok(())
}

async fn a_headless_service_is_found_by_name_and_reached_by_its_pods_addresses(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let server = scene.server("b", "server").await?;
    let service = scene.create(scene.service("server").headless()).await?;
    for (kind, expected) in [(RecordType::A, server.v4()), (RecordType::AAAA, server.v6())] {
        let answer = client.resolve(&service.host(), kind, Over::Udp).await?;
        ensure!(answer.addresses == [expected], "{answer:?} instead of {expected}");
        let echo = client.get(expected, "/").await?;
        ensure!(echo.name == server.name(), "{echo:?}");
    }
    Ok(())
}

async fn dns_knows_the_services_of_the_mesh_over_udp_and_tcp(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let service = scene.create(scene.service("some")).await?;
    let addresses = service.addresses.context("no virtual address")?;
    for over in [Over::Udp, Over::Tcp] {
        for (kind, expected) in
            [(RecordType::A, IpAddr::V4(addresses.v4)), (RecordType::AAAA, IpAddr::V6(addresses.v6))]
        {
            let answer = client.resolve(&service.host(), kind, over).await?;
            ensure!(answer.code == ResponseCode::NoError, "{answer:?}");
            ensure!(answer.addresses == [expected], "{answer:?} instead of {expected} over {over:?}");
        }
    }
    Ok(())
}

async fn dns_passes_on_what_is_not_of_the_mesh(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let outside = scene.cluster.outside().addresses;
    for over in [Over::Udp, Over::Tcp] {
        let answer = client.resolve("outside.example", RecordType::A, over).await?;
        ensure!(answer.addresses == [IpAddr::V4(outside.v4)], "{answer:?}");
        let answer = client.resolve("nowhere.example", RecordType::A, over).await?;
        ensure!(answer.code == ResponseCode::NXDomain, "{answer:?}");
    }
    Ok(())
}

async fn a_service_is_found_by_its_short_name(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    scene.server("b", "server").await?;
    scene.create(scene.service("server").port(80, lab::echo::HTTP)).await?;
    for name in ["server".to_owned(), format!("server.{}", scene.namespace())] {
        // By the system's resolver and the search list in /etc/resolv.conf, as an application does it.
        let answer = client.app(&["call", &format!("http://{name}/")]).await?;
        ensure!(answer.starts_with("200"), "{answer}");
    }
    Ok(())
}

async fn a_service_without_endpoints_is_refused(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let service = scene.create(scene.service("nobody")).await?;
    let v4 = service.addresses.context("no virtual address")?.v4;
    let told = crate::scene::refused(&client, IpAddr::V4(v4)).await?;
    ensure!(told != "no answer", "the client was left waiting");
    Ok(())
}
