// SPDX-License-Identifier: Apache-2.0
//! The agent's listeners: ZDS and the API as sockets that only root opens, metrics as a port.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::Context;
use runtime::{
    Tasks,
    accept::{self, Limits},
    http::{self, Router},
};

use crate::{
    chain::Chain,
    zds::{self, Announcements, packet::Listener},
};

/// One connection per sandbox that the node starts at the same time, and more.
const API: Limits = Limits { name: "api", connections: 256 };
const METRICS: Limits = Limits { name: "metrics", connections: 16 };
/// Only root talks to the agent.
const SOCKET_MODE: u32 = 0o600;

pub(super) fn serve_zds(path: &Path, announcements: Announcements, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = Listener::bind(path).with_context(|| format!("cannot serve ZDS at {}", path.display()))?;
    restrict(path)?;
    drop(tasks.spawn_vital("zds", zds::serve(listener, announcements, tasks.clone())));
    Ok(())
}

pub(super) fn serve_api(path: &Path, router: Router, tasks: &Tasks) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let listener =
        accept::bind_unix(path).with_context(|| format!("cannot serve the API at {}", path.display()))?;
    restrict(path)?;
    serve(listener, API, router, tasks);
    Ok(())
}

pub(super) fn serve_metrics(address: SocketAddr, router: Router, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = accept::bind(address).with_context(|| format!("cannot serve metrics at {address}"))?;
    serve(listener, METRICS, router, tasks);
    Ok(())
}

fn serve(listener: impl accept::Listener + 'static, limits: Limits, router: Router, tasks: &Tasks) {
    let group = tasks.clone();
    drop(tasks.spawn_vital(limits.name, async move {
        if let Err(error) = http::serve(listener, &group, limits, router).await {
            tracing::error!(error = %Chain(&error), "cannot serve");
        }
    }));
}

fn restrict(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot restrict {}", path.display()))
}
