// SPDX-License-Identifier: Apache-2.0
//! `control uninstall`: what control has made in the cluster and no release knows of: the roots in every namespace, its
//! Lease, its root, the classes of waypoints, and what it has said in the status of objects. To be run when no replica is
//! left, or they would make it again. What others made stays.

use anyhow::Context as _;
use kubernetes::{Api, Resource};
use serde_json::Value;

use super::{
    LEASE, bundle, roots,
    waypoints::classes,
    withdraw::{Outcome, withdraw},
};
use crate::config::Kubernetes;

const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");
const SECRETS: Resource = Resource::core("secrets");

/// What becomes of what control has said in the status of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statuses {
    /// It is taken back.
    Withdrawn,
    /// It stays.
    Kept,
}

/// Removes it.
///
/// # Errors
/// When something stays.
pub(crate) async fn uninstall(settings: Kubernetes, statuses: Statuses) -> anyhow::Result<()> {
    let api = settings.access.open().await?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| api.namespace().to_owned());
    if let Some(name) = &settings.bundle {
        remove_bundles(&api, name).await.context("cannot remove the roots of every namespace")?;
    }
    for path in [LEASES.object(&namespace, LEASE), SECRETS.object(&namespace, roots::OWN)] {
        api.delete(&path).await.with_context(|| format!("cannot delete {path}"))?;
    }
    if let Some(waypoints) = &settings.waypoints {
        classes::remove(&api, &waypoints.classes).await.context("cannot remove classes of Gateways")?;
    }
    // Last: there may be many of them, and nobody believes or obeys what they say.
    let Outcome { taken, refused } = match statuses {
        Statuses::Withdrawn => withdraw(&api).await?,
        Statuses::Kept => Outcome::default(),
    };
    tracing::info!(%namespace, ?statuses, taken, refused, "what control has made is removed");
    Ok(())
}

async fn remove_bundles(api: &Api, name: &str) -> anyhow::Result<()> {
    let list: Value = api.get(&bundle::list(name)).await?;
    let maps = list.pointer("/items").and_then(Value::as_array);
    for map in maps.into_iter().flatten().filter(|map| bundle::is_ours(map)) {
        if let Some(path) = bundle::path(map) {
            api.delete(&path).await.with_context(|| format!("cannot delete {path}"))?;
            tracing::info!(path, "roots removed");
        }
    }
    Ok(())
}
