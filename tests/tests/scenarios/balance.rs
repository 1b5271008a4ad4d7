// SPDX-License-Identifier: Apache-2.0
//! Services whose pods come, go and move: no request is lost that would not be lost without the mesh, and no byte goes
//! to an identity that was not decided on.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::scene::{Scenario, Scene, refused, scenarios};

pub(crate) fn all() -> Vec<Scenario> {
    scenarios![a_pod_that_is_not_ready_gets_no_new_connections]
}

async fn a_pod_that_is_not_ready_gets_no_new_connections(scene: Scene) -> Result<()> {
    let client = scene.captured("a", "client").await?;
    let mut pods = Vec::new();
    for (node, name) in [("a", "echo-a"), ("b", "echo-b")] {
        let pod = scene.start(scene.pod(node, name).captured().labels(&[("app", "echo")])).await?;
        pod.serve().await?;
        pods.push(pod);
    }
    let service = scene.create(scene.service("echo")).await?;
    let v4 = IpAddr::V4(service.addresses.context("no virtual address")?.v4);
    for pod in &pods {
        pod.set_ready(false).await?;
        for _ in 0..20 {
            let echo = client.get(v4, "/").await?;
            ensure!(echo.name != pod.name(), "{} is not ready and answered", echo.name);
        }
        pod.set_ready(true).await?;
    }
    for pod in &pods {
        pod.set_ready(false).await?;
    }
    refused(&client, v4).await.map(drop)
}
