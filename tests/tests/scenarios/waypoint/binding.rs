// SPDX-License-Identifier: Apache-2.0
//! Who is bound to which waypoint: a workload by its own label or by its service account's, a service to a Gateway of another
//! namespace, a service to two of which the second gets a share, and a server to the one that it calls itself through.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    cluster::{Service, Waypoint},
    echo::{self, Echo},
    http,
};
use serde_json::json;

use super::Behind;
use crate::scene::{Scenario, Scene, scenarios, sees};

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_workloads_own_address_leads_through_its_waypoint_and_its_service_past_it,
        one_waypoint_for_all_has_what_goes_to_services_and_to_workloads,
        a_service_account_binds_its_workloads_unless_one_says_otherwise,
        a_gateway_of_another_namespace_serves_where_it_admits_the_service,
        a_second_waypoint_gets_its_share_of_connections,
        a_server_that_calls_its_own_service_passes_the_waypoint_once,
    ]
}

/// One request to an address.
async fn ask(client: &Pod, target: SocketAddr, path: &'static str) -> Result<Echo> {
    let body = client.run(async move || http::get(target, path).await);
    let body = body.await.with_context(|| format!("{} asks {target} for {path}", client.full_name()))?;
    serde_json::from_str(&body).context("no answer of the sample application")
}

fn addresses(service: &Service) -> Result<[SocketAddr; 2]> {
    let pair = service.addresses.context("no virtual address")?;
    Ok(pair.both().map(|ip| SocketAddr::new(ip, 80)))
}

/// The application saw an instance of the waypoint.
fn came_through(echo: &Echo, waypoint: &Waypoint) -> Result<()> {
    let instances = waypoint.instances.iter().map(|instance| instance.pod.addresses().both());
    let instances: Vec<IpAddr> = instances.flatten().collect();
    ensure!(instances.contains(&echo.peer.ip()), "{} saw {} and no waypoint", echo.name, echo.peer);
    Ok(())
}

/// The client calls the pod's own addresses, through the waypoint.
async fn reaches_through(client: &Pod, server: &Pod, waypoint: &Waypoint) -> Result<()> {
    for ip in server.addresses().both() {
        let echo = client.get(ip, "/").await.with_context(|| format!("calling {ip}"))?;
        ensure!(echo.name == server.name(), "{echo:?}");
        came_through(&echo, waypoint)?;
    }
    Ok(())
}

/// A waypoint of node b with a server there that is bound to it, as is its service, and a client on node a.
async fn bound(scene: &Scene, traffic: &'static str) -> Result<(Waypoint, Pod, Pod, Service)> {
    let waypoint = scene.begin(scene.waypoint("b", "gate").traffic(traffic)).await?;
    let server = scene.pod("b", "server").captured().labels(&[("istio.io/use-waypoint", "gate")]);
    let server = scene.start(server).await?;
    server.serve().await?;
    let client = scene.captured("a", "client").await?;
    let service = scene.service("server").declared(80, echo::HTTP, "http").behind("gate");
    Ok((waypoint, server, client, scene.create(service).await?))
}

async fn a_workloads_own_address_leads_through_its_waypoint_and_its_service_past_it(
    scene: Scene,
) -> Result<()> {
    let (waypoint, server, client, service) = bound(&scene, "workload").await?;
    reaches_through(&client, &server, &waypoint).await?;
    // The service asks for the same waypoint, which is not for services.
    for target in addresses(&service)? {
        let echo = ask(&client, target, "/").await?;
        ensure!(client.addresses().both().contains(&echo.peer.ip()), "it came by {}", echo.peer);
    }
    Ok(())
}

async fn one_waypoint_for_all_has_what_goes_to_services_and_to_workloads(scene: Scene) -> Result<()> {
    let (waypoint, server, client, service) = bound(&scene, "all").await?;
    reaches_through(&client, &server, &waypoint).await?;
    for target in addresses(&service)? {
        came_through(&ask(&client, target, "/").await?, &waypoint)?;
    }
    Ok(())
}

async fn a_service_account_binds_its_workloads_unless_one_says_otherwise(scene: Scene) -> Result<()> {
    let waypoint = scene.begin(scene.waypoint("b", "gate").traffic("workload")).await?;
    let account = format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: shared\n  namespace: {}\n  \
         labels: {{istio.io/use-waypoint: gate}}\n",
        scene.namespace()
    );
    // Under the name that the lab itself would give the file.
    scene.cluster.apply(&format!("serviceaccount-{}.shared", scene.namespace()), &account).await?;
    let server = scene.start(scene.pod("b", "server").captured().service_account("shared")).await?;
    let free = scene.pod("b", "free").captured().service_account("shared");
    let free = scene.start(free.labels(&[("istio.io/use-waypoint", "none")])).await?;
    let client = scene.captured("a", "client").await?;
    for pod in [&server, &free] {
        pod.serve().await?;
    }
    reaches_through(&client, &server, &waypoint).await?;
    sees(&client.get(free.v4(), "/").await?, client.v4())
}

/// A Gateway `gate` that admits services of these namespaces.
fn admitting(namespace: &str, host: &str, from: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: gate, namespace: {namespace}, labels: {{istio.io/waypoint-for: service}}}}\n\
         spec:\n  gatewayClassName: ambit-waypoint\n  listeners:\n  - {{name: mesh, port: 15008, protocol: HBONE, \
         allowedRoutes: {{namespaces: {{from: {from}}}}}}}\n\
         status: {{addresses: [{{type: Hostname, value: {host}}}]}}\n"
    )
}

async fn a_gateway_of_another_namespace_serves_where_it_admits_the_service(scene: Scene) -> Result<()> {
    let other = format!("{}-gates", scene.namespace());
    let waypoint = scene.begin(scene.waypoint("b", "gate").namespace(&other)).await?;
    scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let labels = json!({"istio.io/use-waypoint": "gate", "istio.io/use-waypoint-namespace": other});
    let service = scene.service("server").declared(80, echo::HTTP, "http");
    let service = scene.create(service.metadata(&json!({"labels": labels}))).await?;
    let [target, _] = addresses(&service)?;
    came_through(&ask(&client, target, "/").await?, &waypoint)?;
    // Nobody is forced through a Gateway that does not want it.
    let host = waypoint.service.host();
    for (from, admitted) in [("Same", false), ("All", true)] {
        scene.cluster.apply(&format!("gateway-{other}.gate"), &admitting(&other, &host, from)).await?;
        let echo = ask(&client, target, "/").await?;
        if admitted {
            came_through(&echo, &waypoint)?;
        } else {
            sees(&echo, client.v4())?;
        }
    }
    Ok(())
}

async fn a_second_waypoint_gets_its_share_of_connections(scene: Scene) -> Result<()> {
    const CONNECTIONS: usize = 200;
    let primary = scene.begin(scene.waypoint("b", "gate")).await?;
    let canary = scene.begin(scene.waypoint("a", "next")).await?;
    scene.server("b", "server").await?;
    let client = scene.captured("a", "client").await?;
    let publish = async |weight: &str| {
        let metadata = json!({
            "labels": {"istio.io/use-waypoint": "gate", "istio.io/use-waypoint-canary": "next"},
            "annotations": {"istio.io/use-waypoint-canary-weight": weight},
        });
        let service = scene.service("server").declared(80, echo::HTTP, "http").metadata(&metadata);
        scene.create(service).await
    };
    let service = publish("30").await?;
    let [target, _] = addresses(&service)?;
    let mut second = 0_usize;
    for _ in 0..CONNECTIONS {
        let echo = ask(&client, target, "/").await?;
        let by_canary = came_through(&echo, &canary).is_ok();
        ensure!(by_canary || came_through(&echo, &primary).is_ok(), "it came by {}", echo.peer);
        second += usize::from(by_canary);
    }
    // Six standard deviations about 60: one run in 500 million is outside by chance.
    ensure!((21..=99).contains(&second), "{second} of {CONNECTIONS} at a weight of 30");
    for (weight, waypoint) in [("100", &canary), ("0", &primary)] {
        let service = publish(weight).await?;
        let [target, _] = addresses(&service)?;
        for _ in 0..10 {
            came_through(&ask(&client, target, "/").await?, waypoint).context(weight)?;
        }
    }
    Ok(())
}

async fn a_server_that_calls_its_own_service_passes_the_waypoint_once(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let echo = ask(&behind.server, behind.target(), "/headers/own").await?;
    ensure!(echo.name == "server", "{echo:?}");
    came_through(&echo, &behind.waypoint)?;
    let own = behind.server.v4().to_string();
    ensure!(echo.headers.get("x-forwarded-for") == Some(&own), "{echo:?}");
    behind.written(|access| access.field("path") == "/headers/own").await?;
    behind.get("/later").await?;
    // Lines are written in order: a second one of the first request would be there.
    behind.written(|access| access.field("path") == "/later").await?;
    let lines = behind.instance()?.access_log();
    let own: Vec<_> = lines.iter().filter(|line| line.field("path") == "/headers/own").collect();
    let [line] = own.as_slice() else { anyhow::bail!("{} lines", own.len()) };
    for side in ["src.workload", "dst.workload"] {
        ensure!(line.field(side) == "server", "{}", line.line);
    }
    Ok(())
}
