// SPDX-License-Identifier: Apache-2.0
//! What a cluster needs besides its parts: a DNS server.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{addresses::Block, api::Api, build::DNS_IMAGE, eventually};

/// Manifests of CoreDNS. Names outside of the cluster it does not know: there is no way out.
#[must_use]
pub fn dns(block: Block) -> String {
    let own = block.service(10);
    include_str!("addons/coredns.yaml")
        .replace("@IMAGE@", DNS_IMAGE)
        .replace("@IPV4@", &own.v4.to_string())
        .replace("@IPV6@", &own.v6.to_string())
}

/// Waits until a DNS server answers.
///
/// # Errors
/// When that takes longer than `deadline`.
pub async fn dns_ready(api: &Api, deadline: Duration) -> Result<()> {
    eventually(deadline, "CoreDNS getting ready", async || {
        let deployment = api.get("/apis/apps/v1/namespaces/kube-system/deployments/coredns").await?;
        let ready = deployment.pointer("/status/readyReplicas").and_then(Value::as_u64).unwrap_or_default();
        ensure!(ready > 0, "no replica is ready");
        Ok(())
    })
    .await
}
