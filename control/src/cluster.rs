// SPDX-License-Identifier: Apache-2.0
//! A Kubernetes API server as the source of objects, of the root, and of what tokens say.
//!
//! ```text
//!   watch of each kind ─► read (JSON → object, what is wrong with it) ─► source (gathers) ─► World
//!   ConfigMaps that policies name ─► maps ──────────────────────────────────────────────────► World
//!                                              │ what is said of each object ─► conditions: its status ┐
//!   own Secrets ─► roots ─► Signer ─► bundle: a ConfigMap in every namespace                           ┤ the leader writes
//!   Gateways ─► waypoints: what runs them, and their status                                             ┘
//! ```

mod bundle;
mod closed;
mod conditions;
mod kinds;
mod maps;
mod parents;
mod read;
mod rights;
mod roots;
mod rotation;
mod source;
mod stated;
mod uninstall;
mod view;
mod waypoints;
mod webhook;
mod withdraw;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use kubernetes::{Api, Leadership, LeaseSettings, lead};
use runtime::{Tasks, readiness::Gate};

pub use self::uninstall::Statuses;
use self::{
    bundle::Bundle,
    conditions::Conditions,
    maps::Maps,
    rights::Rights,
    roots::{Kept, Roots},
    rotation::Rotation,
    stated::StatedObjects,
    waypoints::Waypoints,
    webhook::Webhook,
};
pub(crate) use self::{
    read::{Read, read},
    rights::Lacks,
    uninstall::uninstall,
    view::{ClusterView, ShownWatch},
};
use crate::{
    ca::{Root, Signer},
    config::Kubernetes,
    live::Live,
};

/// Who we are to server-side apply.
const FIELD_MANAGER: &str = "ambit-control";
const LEASE: &str = "ambit-control";
/// Longest time without a leader after one was lost.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// At the start the API server may be away.
const RETRY: Duration = Duration::from_secs(2);

/// What a process has of its cluster before it serves.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) api: Api,
    settings: Kubernetes,
    roots: Roots,
    stated: StatedObjects,
}

impl Cluster {
    /// Reads how the API server is reached.
    pub(crate) async fn open(settings: Kubernetes, live: &Live) -> anyhow::Result<Self> {
        let api = settings.access.open().await?;
        let namespace = settings.namespace.clone().unwrap_or_else(|| api.namespace().to_owned());
        let trust_domain = live.trust_domain().clone();
        let roots = Roots { api: api.clone(), namespace, trust_domain, kept: Kept::default() };
        Ok(Self { api, settings, roots, stated: StatedObjects::default() })
    }

    /// Looks after what our roles allow. What is lacking now has been logged when this returns: something that control
    /// does not start without may be among it.
    pub(crate) async fn watch_rights(&self, tasks: &Tasks) -> Lacks {
        let rights = Rights::new(self.api.clone(), &self.settings, &self.roots.namespace);
        let lacks = rights.lacks();
        rights.look().await;
        drop(tasks.spawn_vital("rights", rights.keep(tasks.shutdown())));
        lacks
    }

    /// The root; waits for the API server as long as that takes.
    pub(crate) async fn root(&self) -> anyhow::Result<Root> {
        loop {
            match self.roots.load().await {
                Ok(root) => return Ok(root),
                Err(error) if error.is_outage() => {
                    let cause = std::error::Error::source(&error).map(tracing::field::display);
                    tracing::warn!(%error, cause, retry = ?RETRY, "no root yet");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error).context("no root certificate"),
            }
        }
    }

    /// Starts to follow the objects; the gate opens when they are in force.
    pub(crate) fn follow(&self, live: &Arc<Live>, gate: Gate, tasks: &Tasks) -> ClusterView {
        let maps = Maps {
            api: self.api.clone(),
            live: Arc::clone(live),
            may_read: self.settings.waypoints.is_some(),
        };
        drop(tasks.spawn_vital("config maps", maps.clone().follow(tasks.shutdown())));
        source::follow(&self.api, gate, (maps, Arc::clone(live)), &self.stated, tasks)
    }

    /// Starts what runs beside serving: following the root, leading, and what the leader writes.
    pub(crate) fn start(
        self,
        live: &Arc<Live>,
        signer: &Signer,
        longest: Duration,
        tasks: &Tasks,
    ) -> Leadership {
        let Self { api, settings, roots, stated } = self;
        // Every proxy has renewed at least once, whatever it was doing.
        let overlap = longest + longest / 4;
        let lease = LeaseSettings {
            namespace: roots.namespace.clone(),
            name: LEASE.to_owned(),
            identity: settings.replica,
            duration: LEASE_DURATION,
        };
        let shutdown = tasks.shutdown();
        let (leadership, leading) = lead(api.clone(), lease, async move { shutdown.requested().await });
        drop(tasks.spawn_vital("lease", leading));
        let home = roots.namespace.clone();
        let rotation = Rotation { roots: roots.clone(), leadership: leadership.clone(), overlap };
        drop(tasks.spawn_vital("root rotation", rotation.run(tasks.shutdown())));
        let following = roots.follow(signer.clone(), leadership.clone(), tasks.shutdown());
        drop(tasks.spawn_vital("root", following));
        if let Some(waypoints) = settings.waypoints {
            let waypoints = Waypoints {
                api: api.clone(),
                live: Arc::clone(live),
                stated: stated.clone(),
                leadership: leadership.clone(),
                settings: *waypoints,
                namespace: home,
            };
            drop(tasks.spawn_vital("waypoints", waypoints.run(tasks.clone())));
        }
        let conditions = Conditions {
            api: api.clone(),
            live: Arc::clone(live),
            stated,
            leadership: leadership.clone(),
            taken: BTreeMap::new(),
        };
        drop(tasks.spawn_vital("conditions", conditions.write(tasks.shutdown())));
        if let Some(name) = settings.webhook {
            let webhook =
                Webhook { api: api.clone(), name, signer: signer.clone(), leadership: leadership.clone() };
            drop(tasks.spawn_vital("webhook roots", webhook.publish(tasks.shutdown())));
        }
        if let Some(name) = settings.bundle {
            let bundle = Bundle {
                api,
                name,
                live: Arc::clone(live),
                signer: signer.clone(),
                leadership: leadership.clone(),
            };
            drop(tasks.spawn_vital("bundle", bundle.publish(tasks.shutdown())));
        }
        leadership
    }
}
