// SPDX-License-Identifier: Apache-2.0
//! The way past a waypoint: watched under audit, closed where the waypoint is enforced, and closed altogether while that is
//! not ready. The waypoint's part is played by a pod with its labels, but for the scenario that has a real one.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    echo::{self, Echo},
    eventually,
    observe::Access,
};
use serde_json::json;
use tokio::{io::AsyncReadExt as _, time::timeout};

use crate::{
    policy::ask,
    scene::{SOON, Scenario, Scene, reaches, refused, scenarios},
};

pub(crate) fn all() -> Vec<Scenario> {
    let all = scenarios![
        who_comes_past_a_waypoint_is_counted_and_where_it_is_enforced_refused,
        an_enforced_waypoint_that_is_not_ready_lets_nobody_through_and_is_named,
        a_server_behind_an_enforced_waypoint_takes_what_comes_through_it_and_nothing_else,
    ];
    all.into_iter().map(|scenario| scenario.without_peer("the other counts no dry runs")).collect()
}

/// A Gateway with more in its metadata, and addresses or none.
fn gateway(metadata: &str, status: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\n\
         metadata: {{name: front, namespace: NAMESPACE{metadata}}}\n\
         spec: {{gatewayClassName: other, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n\
         status: {{addresses: [{status}]}}\n"
    )
}

const ENFORCED: &str = ", labels: {ambit.mesh/waypoint-enforcement: enforce}";
const SOMEWHERE: &str = "{type: Hostname, value: front.NAMESPACE.svc.cluster.local}";

/// A service in front of the pod `server`, bound to the Gateway.
async fn bound(scene: &Scene) -> Result<SocketAddr> {
    let labels = json!({"labels": {"istio.io/use-waypoint": "front"}});
    let web = scene.service("web").selector("app", "server").port(80, echo::HTTP).metadata(&labels);
    let addresses = scene.create(web).await?.addresses.context("a service without an address")?;
    Ok(SocketAddr::new(addresses.v4.into(), 80))
}

/// How many connections the server's ztunnel would have refused because of the guard.
async fn counted(scene: &Scene) -> Result<f64> {
    let policy = format!("{}/ambit_waypoint_front_port_{}_audit", scene.namespace(), echo::HTTP);
    let labels = [("policy", policy.as_str()), ("verdict", "denied")];
    Ok(scene.node("b").metrics().await?.sum("ambit_dry_run_total", &labels))
}

async fn other_port(client: &Pod, server: &Pod) -> Result<()> {
    let mut stream = client.connect(SocketAddr::new(server.v4(), echo::TCP)).await?;
    ask(&mut stream, "through a port that no service has").await
}

async fn who_comes_past_a_waypoint_is_counted_and_where_it_is_enforced_refused(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    let plain = scene.plain("a", "plain").await?;
    let instance = scene.pod("a", "instance").captured().service_account("front");
    let instance = instance.labels(&[("gateway.networking.k8s.io/gateway-name", "front")]);
    let instance = scene.start(instance).await?;
    scene.apply("gateway", &gateway("", SOMEWHERE)).await?;
    bound(&scene).await?;

    reaches(&instance, &server).await?;
    ensure!(counted(&scene).await? < 0.5, "the waypoint's own connections are counted");
    let mut expected = 0.0;
    for client in [&friend, &plain] {
        reaches(client, &server).await?;
        other_port(client, &server).await?;
        // One for each family.
        expected += 2.0;
        eventually(SOON, "the count", async || {
            let count = counted(&scene).await?;
            ensure!((count - expected).abs() < 0.5, "{count} connections were counted instead of {expected}");
            Ok(())
        })
        .await?;
    }

    scene.apply("gateway", &gateway(ENFORCED, SOMEWHERE)).await?;
    for client in [&friend, &plain] {
        for ip in server.addresses().both() {
            refused(client, ip).await?;
        }
        other_port(client, &server).await?;
    }
    reaches(&instance, &server).await?;
    scene.apply("gateway", &gateway("", SOMEWHERE)).await?;
    reaches(&friend, &server).await
}

async fn an_enforced_waypoint_that_is_not_ready_lets_nobody_through_and_is_named(scene: Scene) -> Result<()> {
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    scene.apply("gateway", &gateway("", "")).await?;
    let web = bound(&scene).await?;
    let through = async || {
        let stream = friend.connect(web).await?;
        lab::http::get_over(stream, "web", "/").await
    };
    through().await.context("under audit the way is open")?;
    reaches(&friend, &server).await?;

    scene.apply("gateway", &gateway(ENFORCED, "")).await?;
    ensure!(through().await.is_err(), "somebody came through");
    refused(&friend, server.v4()).await?;
    let name = format!("front.{}.gateway-not-ready.invalid", scene.namespace());
    eventually(SOON, "the Gateway's name in the client's log", async || {
        let told = scene.node("a").access_log().into_iter().any(|line| line.field("error").contains(&name));
        ensure!(told, "no line names {name}");
        Ok(())
    })
    .await
}

/// The service `web` behind the waypoint `front`, in this mode.
async fn guarded(scene: &Scene, mode: &str) -> Result<SocketAddr> {
    let labels = json!({"istio.io/use-waypoint": "front", "ambit.mesh/waypoint-enforcement": mode});
    let web = scene.service("web").selector("app", "server").declared(80, echo::HTTP, "http");
    let web = scene.create(web.metadata(&json!({"labels": labels}))).await?;
    Ok(SocketAddr::new(web.addresses.context("a service without an address")?.v4.into(), 80))
}

async fn a_server_behind_an_enforced_waypoint_takes_what_comes_through_it_and_nothing_else(
    scene: Scene,
) -> Result<()> {
    let waypoint = scene.begin(scene.waypoint("b", "front")).await?;
    let gate = waypoint.instance()?.pod.v4();
    let server = scene.server("b", "server").await?;
    let friend = scene.captured("a", "friend").await?;
    let plain = scene.plain("a", "plain").await?;
    let through = async |web| -> Result<()> {
        let body = lab::http::get_over(friend.connect(web).await?, "web", "/").await?;
        let echo: Echo = serde_json::from_str(&body)?;
        ensure!(echo.name == "server" && echo.peer.ip() == gate, "{echo:?}");
        Ok(())
    };
    through(guarded(&scene, "audit").await?).await?;
    reaches(&friend, &server).await?;
    let mut open = friend.connect(SocketAddr::new(server.v4(), echo::HTTP)).await?;

    let web = guarded(&scene, "enforce").await?;
    through(web).await.context("through an enforced waypoint")?;
    for client in [&friend, &plain] {
        for ip in server.addresses().both() {
            refused(client, ip).await?;
        }
        other_port(client, &server).await?;
    }
    eventually(SOON, "the guard's name in the server's log", async || {
        let log = scene.node("b").access_log();
        let of_friend = |line: &&Access| {
            line.field("src.identity") == friend.identity() && line.field("dst.identity") == server.identity()
        };
        let named = |line: &Access| line.field("error").contains("ambit_waypoint_front");
        ensure!(log.iter().filter(of_friend).any(named), "no line has it");
        Ok(())
    })
    .await?;
    // What came past it before is not kept.
    let ended =
        timeout(SOON, open.read(&mut [0; 1])).await.context("a connection past the waypoint stays")?;
    ensure!(!matches!(ended, Ok(1)), "the server answers what it was not asked");
    through(web).await
}
