// SPDX-License-Identifier: Apache-2.0
//! The one World of this process: sources write to it, everything else reads. What a write changes is published before the
//! lock is given back, so that proxies get changes in the order in which they happened.

use std::sync::atomic::{AtomicBool, Ordering};

use mesh::{Change, SpiffeId, TrustDomain};
use parking_lot::RwLock;
use tokio::sync::watch;
use xds::{Catalogue, Kind, Resource, Update, server::Scope};

use crate::{
    report::Report,
    world::{Event, Settings, World},
};

/// See the module.
#[derive(Debug)]
pub struct Live {
    trust_domain: TrustDomain,
    world: RwLock<World>,
    catalogue: Catalogue,
    complete: AtomicBool,
    changed: watch::Sender<u64>,
}

impl Live {
    /// An empty World. Proxies wait until [`Live::complete`].
    pub fn new(settings: Settings) -> Self {
        Self {
            trust_domain: settings.trust_domain.clone(),
            world: RwLock::new(World::new(settings)),
            catalogue: Catalogue::new(),
            complete: AtomicBool::new(false),
            changed: watch::Sender::new(0),
        }
    }

    /// Tells that something was applied.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is published.
    pub fn catalogue(&self) -> Catalogue {
        self.catalogue.clone()
    }

    /// The trust domain of every identity.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Looks at the World as it is now.
    pub fn read<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(&self.world.read())
    }

    /// The part of the mesh that is for a proxy; see [`World::scope`].
    pub fn scope(&self, node: &str, caller: &SpiffeId) -> Option<Scope> {
        // Most proxies are no waypoints, and need not wait for who writes.
        if !node.starts_with("waypoint~") {
            return None;
        }
        self.read(|world| world.scope(node, caller))
    }

    /// Applies events and publishes what they change; says whether that is anything.
    pub fn apply(&self, events: impl IntoIterator<Item = Event>) -> bool {
        let mut world = self.world.write();
        let changes = world.apply(events);
        self.changed.send_modify(|count| *count += 1);
        for report in world.news() {
            let Report { object, field, message, .. } = report;
            tracing::warn!(%object, field, reason = message, "object is not wholly honoured");
        }
        if changes.is_empty() || !self.is_complete() {
            return false;
        }
        let published = self.catalogue.update(changes.into_iter().map(update));
        tracing::debug!(put = published.put, removed = published.removed, "published");
        true
    }

    /// Everything that existed at the start has been applied: from now on proxies are answered.
    pub fn complete(&self) {
        let world = self.world.write();
        if self.complete.swap(true, Ordering::AcqRel) {
            return;
        }
        for kind in Kind::ALL {
            let published = self.catalogue.replace(kind, world.outputs().map(update).filter_map(resource));
            tracing::info!(%kind, resources = published.put, "discovery is complete");
        }
    }

    /// Whether proxies are answered.
    pub fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Acquire)
    }
}

fn update(change: Change) -> Update {
    match change {
        Change::Workload(workload) => Update::Put(workload.into()),
        Change::Service(service) => Update::Put(service.into()),
        Change::Policy(policy) => Update::Put(policy.into()),
        Change::Route(route) => Update::Put(route.into()),
        Change::Telemetry(telemetry) => Update::Put(telemetry.into()),
        Change::Traffic(traffic) => Update::Put(traffic.into()),
        Change::Guard(guard) => Update::Put(guard.into()),
        Change::Authentication(authentication) => Update::Put(authentication.into()),
        Change::WorkloadGone(uid) => Update::Remove(Kind::Address, uid.as_str().into()),
        Change::ServiceGone(name) => Update::Remove(Kind::Address, arcstr::format!("{name}")),
        Change::PolicyGone(name) => Update::Remove(Kind::Authorization, arcstr::format!("{name}")),
        Change::RouteGone(name) => Update::Remove(Kind::Route, arcstr::format!("{name}")),
        Change::TelemetryGone(name) => Update::Remove(Kind::Telemetry, arcstr::format!("{name}")),
        Change::TrafficGone(name) => Update::Remove(Kind::Traffic, arcstr::format!("{name}")),
        Change::GuardGone(name) => Update::Remove(Kind::Guard, arcstr::format!("{name}")),
        Change::AuthenticationGone(name) => Update::Remove(Kind::Authentication, arcstr::format!("{name}")),
    }
}

fn resource(update: Update) -> Option<Resource> {
    match update {
        Update::Put(resource) => Some(resource),
        Update::Remove(..) => None,
    }
}
