// SPDX-License-Identifier: Apache-2.0
//! `node-agent uninstall`: deletes the DaemonSet of the agents and waits until each of them has given its node back. To
//! be run before anything else of the mesh goes, so that roles and ztunnels last as long as they are needed.

use std::time::Duration;

use anyhow::Context;
use kubernetes::{Api, Resource};
use serde_json::Value;

use crate::config::ClusterConfig;

const DAEMON_SETS: Resource = Resource::new("apps", "v1", "daemonsets");
const LOOK: Duration = Duration::from_secs(1);

/// Returns when no agent is left. How long that may take is for whoever runs it.
///
/// # Errors
/// When the DaemonSet cannot be named, deleted or looked for.
pub async fn run(cluster: &ClusterConfig) -> anyhow::Result<()> {
    let name = cluster.daemon_set.as_deref().context("AMBIT_DAEMONSET is not set")?;
    let api = cluster.access.open().await.context("cannot make a client of the API server")?;
    let path = DAEMON_SETS.object(&cluster.namespace, name);
    api.delete(&path).await.with_context(|| format!("cannot delete the DaemonSet {name}"))?;
    tracing::info!(name, "the DaemonSet goes, its agents give their nodes back");
    while is_there(&api, &path).await? {
        tokio::time::sleep(LOOK).await;
    }
    tracing::info!(name, "no agent is left");
    Ok(())
}

/// It stays until its last pod has ended.
async fn is_there(api: &Api, path: &str) -> anyhow::Result<bool> {
    match api.find::<Value>(path).await {
        Ok(found) => Ok(found.is_some()),
        Err(error) if error.is_outage() => Ok(true),
        Err(error) => Err(error).context("cannot look for the DaemonSet"),
    }
}
