// SPDX-License-Identifier: Apache-2.0
//! What a waypoint does for the connections and requests that are sent through it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Pod,
    cluster::{Instance, Waypoint},
    echo::{self, Echo},
    eventually, http,
    observe::Access,
};

use crate::scene::{SOON, Scenario, Scene, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    let all = scenarios![a_request_passes_the_waypoint_and_reaches_an_endpoint];
    let reason = "it is about our own ztunnel on both sides of a waypoint";
    all.into_iter().map(|scenario| scenario.without_peer(reason)).collect()
}

/// A server behind a waypoint, and a client.
struct Behind {
    client: Pod,
    server: Pod,
    waypoint: Waypoint,
    address: IpAddr,
}

impl Behind {
    /// The server's port 80 is `target` and declared as `protocol`.
    async fn begin(scene: &Scene, target: u16, protocol: &str) -> Result<Self> {
        let waypoint = scene.begin(scene.waypoint("b", "gate")).await?;
        let server = scene.server("b", "server").await?;
        let client = scene.captured("a", "client").await?;
        let service = scene.service("server").declared(80, target, protocol).behind("gate");
        let service = scene.create(service).await?;
        let address = IpAddr::V4(service.addresses.context("no virtual address")?.v4);
        Ok(Self { client, server, waypoint, address })
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.address, 80)
    }

    fn instance(&self) -> Result<&Instance> {
        self.waypoint.instance()
    }

    async fn get(&self, path: &'static str) -> Result<Echo> {
        let target = self.target();
        let body = self.client.run(async move || http::get(target, path).await).await?;
        serde_json::from_str(&body).context("no answer of the sample application")
    }

    /// The newest line of the waypoint's access log that fits, once it is there.
    async fn written(&self, fits: impl Fn(&Access) -> bool) -> Result<Access> {
        let instance = self.instance()?;
        eventually(SOON, "a line of the waypoint", async || {
            instance.access_log().into_iter().rfind(&fits).context("not written yet")
        })
        .await
    }
}

async fn a_request_passes_the_waypoint_and_reaches_an_endpoint(scene: Scene) -> Result<()> {
    let behind = Behind::begin(&scene, echo::HTTP, "http").await?;
    let echo = behind.get("/headers").await?;
    ensure!(echo.name == "server", "{echo:?}");
    let gate = behind.instance()?.pod.v4();
    ensure!(echo.peer.ip() == gate, "the application sees {}", echo.peer);
    let field = |name: &str| echo.headers.get(name).map(String::as_str);
    ensure!(field("x-forwarded-for") == Some(behind.client.v4().to_string().as_str()), "{echo:?}");
    ensure!(field("host") == Some(behind.target().to_string().as_str()), "{echo:?}");
    let line = behind.written(|access| access.field("path") == "/headers").await?;
    for (name, expected) in [
        ("src.identity", behind.client.identity()),
        ("dst.identity", behind.server.identity()),
        ("src.workload", "client".to_owned()),
        ("dst.workload", "server".to_owned()),
        ("status", "200".to_owned()),
        ("flags", "-".to_owned()),
        ("method", "GET".to_owned()),
    ] {
        ensure!(line.field(name) == expected, "{name} is not {expected}: {}", line.line);
    }
    let metrics = behind.instance()?.metrics().await?;
    let labels = [("reporter", "waypoint"), ("response_code", "200"), ("destination_service_name", "server")];
    ensure!(metrics.sum("istio_requests_total", &labels) >= 1.0, "the request is not counted");
    Ok(())
}
