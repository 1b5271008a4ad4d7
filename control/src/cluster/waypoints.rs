// SPDX-License-Identifier: Apache-2.0
//! Waypoints: for each Gateway of a class of ours the leader applies what `deploy` says, and its status. What somebody
//! changes or deletes is applied again; what belongs to a Gateway goes with it by its owner reference.
//!
//! ```text
//!   World: Gateways, their pods and Services ┐
//!   watches of what we have made             ├─► round ─► rehearse all ─► apply all ─► status
//!   ConfigMaps with overlays                 ┘
//! ```

pub(super) mod classes;
mod made;
mod overlays;

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use arcstr::ArcStr;
use jiff::Timestamp;
use kubernetes::{Api, ApiError, Leadership, Resource};
use runtime::{Shutdown, Tasks};
use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use self::{
    made::{Heard, Made, Mark},
    overlays::Maps,
};
use super::stated::StatedObjects;
use crate::{
    deploy::{self, Before, Overlays, Part, PartKind, Scaling, Settings, Standing},
    live::Live,
    objects::{Gateway, Kind, ObjectKey},
    translate::waypoint,
    world::{Name, Objects},
};

/// Who we are to server-side apply, of what we deploy.
pub(super) const MANAGER: &str = "ambit-waypoints";
/// The number of replicas has a manager of its own: when an autoscaler takes over, it is not given up, which would make it 1.
const REPLICAS_MANAGER: &str = "ambit-waypoints-replicas";
const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
/// Between two rounds: what changes again and again is applied once.
const PAUSE: Duration = Duration::from_millis(500);
/// What nobody tells us is looked at so often: ConfigMaps that Gateways name, whether there are metrics, what was refused.
const LOOK: Duration = Duration::from_secs(15);
const QUEUE: usize = 256;

/// See the module.
#[derive(Debug)]
pub(super) struct Waypoints {
    pub(super) api: Api,
    pub(super) live: Arc<Live>,
    pub(super) stated: StatedObjects,
    pub(super) leadership: Leadership,
    pub(super) settings: Settings,
    /// Where defaults of classes are.
    pub(super) namespace: String,
}

/// A Gateway of ours, with what the World knows of its waypoint.
struct Wanted {
    gateway: Gateway,
    ready: usize,
    addresses: Vec<String>,
}

/// What was applied for a Gateway, and how that looked afterwards.
struct Applied {
    hash: u64,
    marks: BTreeMap<(PartKind, String), Mark>,
    refused: Option<String>,
}

/// What is remembered between rounds.
struct Memory {
    made: Made,
    maps: Maps,
    scaling: Scaling,
    applied: BTreeMap<Name, Applied>,
    /// Statuses that were written, by the Gateway's name and UID.
    told: BTreeMap<Name, (Option<ArcStr>, Value)>,
}

impl Waypoints {
    /// Deploys until the process is asked to finish.
    pub(super) async fn run(self, tasks: Tasks) {
        let (events, heard) = mpsc::channel(QUEUE);
        made::watch(&self.api, &self.namespace, &events, &tasks);
        drop(events);
        let shutdown: Shutdown = tasks.shutdown();
        tokio::select! {
            () = self.follow(heard) => {}
            () = shutdown.requested() => {}
        }
    }

    async fn follow(mut self, mut heard: mpsc::Receiver<Heard>) {
        let mut changes = self.live.changes();
        let mut memory = Memory {
            made: Made::default(),
            maps: Maps::default(),
            scaling: Scaling::Fixed,
            applied: BTreeMap::new(),
            told: BTreeMap::new(),
        };
        let mut look = Instant::now();
        loop {
            self.leadership.won().await;
            while let Ok(event) = heard.try_recv() {
                memory.made.take(event, &mut memory.maps);
            }
            if self.live.is_complete() && memory.made.is_synced() {
                if Instant::now() >= look {
                    look = Instant::now() + LOOK;
                    self.look(&mut memory).await;
                }
                self.round(&mut memory).await;
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                event = heard.recv() => match event {
                    Some(event) => memory.made.take(event, &mut memory.maps),
                    None => return,
                },
                _ = changes.changed() => {}
                () = self.leadership.changed() => memory.applied.clear(),
                () = tokio::time::sleep_until(look) => {}
            }
        }
    }

    /// Looks at what nobody tells of.
    async fn look(&self, memory: &mut Memory) {
        match self.api.find::<Value>(METRICS).await {
            Ok(Some(_)) => memory.scaling = Scaling::Metered,
            Ok(None) => memory.scaling = Scaling::Fixed,
            // Nobody knows now: the number of pods is no reason for a change.
            Err(error) => tracing::debug!(%error, "cannot tell whether there are metrics"),
        }
        classes::make(&self.api, &self.settings.classes).await;
        memory.maps.forget();
        memory.applied.retain(|_, applied| applied.refused.is_none());
    }

    async fn round(&self, memory: &mut Memory) {
        let wanted = self.live.read(|world| wanted(world.objects()));
        let names: BTreeSet<Name> = wanted.iter().map(|wanted| name(&wanted.gateway)).collect();
        memory.applied.retain(|name, _| names.contains(name));
        memory.told.retain(|name, _| names.contains(name));
        for wanted in wanted {
            if !self.leadership.is_mine() {
                return;
            }
            // It is going, and what is its own goes with it.
            if wanted.gateway.metadata.deletion_timestamp.is_none() {
                self.settle(wanted, memory).await;
            }
        }
    }

    /// Makes one Gateway's waypoint as it is to be, and says how it is.
    async fn settle(&self, wanted: Wanted, memory: &mut Memory) {
        let Wanted { gateway, ready, addresses } = wanted;
        let mut standing = Standing { ready, addresses, ..Standing::default() };
        let is_valid = gateway.spec.listeners.iter().any(|listener| listener.protocol == "HBONE");
        match memory.maps.overlays(&self.api, &gateway).await {
            Ok(overlays) if is_valid => {
                match deploy::deploy(&gateway, &overlays, &self.settings, memory.scaling) {
                    Ok(parts) => standing.refused = self.apply(&gateway, parts, &overlays, memory).await,
                    Err(fault) => standing.fault = Some(fault),
                }
            }
            Ok(_) => {}
            Err(overlays::Unread::Fault(fault)) => standing.fault = Some(fault),
            Err(overlays::Unread::Later(error)) => {
                tracing::warn!(gateway = %key(&gateway), %error, "overlays not read, the waypoint stays as it is");
                return;
            }
        }
        self.tell(&gateway, &standing, memory).await;
    }

    /// Applies what is not as it is to be; says what is against it.
    async fn apply(
        &self,
        gateway: &Gateway,
        parts: Vec<Part>,
        overlays: &Overlays,
        memory: &mut Memory,
    ) -> Option<String> {
        let name = name(gateway);
        let hash = hash(&parts);
        if let Some(applied) = memory.applied.get(&name)
            && applied.hash == hash
            && (applied.refused.is_some() || memory.made.is_as(&name.0, &applied.marks))
        {
            return applied.refused.clone();
        }
        let mut applied = Applied { hash, marks: BTreeMap::new(), refused: None };
        match self.write(gateway, &parts, overlays, &mut applied.marks).await {
            Ok(()) => {
                self.remove(gateway, &parts, &memory.made).await;
                tracing::info!(gateway = %key(gateway), objects = parts.len(), "waypoint deployed");
            }
            Err(Refused::Later(error)) => {
                tracing::warn!(gateway = %key(gateway), %error, retry = ?LOOK, "waypoint not deployed");
                memory.applied.remove(&name);
                return Some(format!("the API server cannot be asked now: {error}"));
            }
            Err(Refused::For(reason)) => {
                tracing::warn!(gateway = %key(gateway), reason, "waypoint not deployed");
                applied.refused = Some(reason);
            }
        }
        let refused = applied.refused.clone();
        memory.applied.insert(name, applied);
        refused
    }

    /// All of it, or nothing.
    async fn write(
        &self,
        gateway: &Gateway,
        parts: &[Part],
        overlays: &Overlays,
        marks: &mut BTreeMap<(PartKind, String), Mark>,
    ) -> Result<(), Refused> {
        let (namespace, own) = name(gateway);
        for Part { kind, object } in parts {
            let path = resource(*kind).object(&namespace, &own);
            let found: Option<Value> = self.api.find(&path).await.map_err(Refused::of)?;
            if found.is_some_and(|found| !made::is_of(&found, gateway)) {
                return Err(Refused::For(format!(
                    "{} {namespace}/{own} is there already and not of this Gateway: give the Gateway another name",
                    kind.as_str()
                )));
            }
            self.api
                .rehearse(&path, MANAGER, &fixed(object))
                .await
                .map_err(|error| Refused::of(error).at(overlays.place(*kind)))?;
        }
        for Part { kind, object } in parts {
            let path = resource(*kind).object(&namespace, &own);
            let mut written = self.api.apply(&path, MANAGER, &fixed(object)).await.map_err(Refused::of)?;
            let replicas = object.pointer("/spec/replicas").filter(|_| *kind == PartKind::Deployment);
            if let Some(replicas) = replicas.filter(|count| written.pointer("/spec/replicas") != Some(*count))
            {
                let object = json!({
                    "apiVersion": kind.api_version(),
                    "kind": kind.as_str(),
                    "metadata": {"name": own.as_str(), "namespace": namespace.as_str()},
                    "spec": {"replicas": replicas},
                });
                written = self.api.apply(&path, REPLICAS_MANAGER, &object).await.map_err(Refused::of)?;
            }
            marks.insert((*kind, own.to_string()), Mark::of(&written));
        }
        Ok(())
    }

    /// Deletes what was of it and is no more.
    async fn remove(&self, gateway: &Gateway, parts: &[Part], made: &Made) {
        let (namespace, own) = name(gateway);
        for kind in PartKind::ALL.into_iter().filter(|kind| parts.iter().all(|part| part.kind != *kind)) {
            if !made.has(kind, &namespace, &own) {
                continue;
            }
            match self.api.delete(&resource(kind).object(&namespace, &own)).await {
                Ok(()) => {
                    tracing::info!(gateway = %key(gateway), kind = kind.as_str(), "no longer wanted, deleted")
                }
                Err(error) => {
                    tracing::warn!(gateway = %key(gateway), kind = kind.as_str(), %error, "not deleted")
                }
            }
        }
    }

    /// Writes the status, when it says something else.
    async fn tell(&self, gateway: &Gateway, standing: &Standing, memory: &mut Memory) {
        let key = key(gateway);
        let stated = self.stated.get(&key).unwrap_or_default();
        let before = Before { conditions: &stated.conditions, listeners: &stated.listeners };
        let status = deploy::status(gateway, standing, &self.settings, &before, Timestamp::now());
        let name = name(gateway);
        let is_there = |kind: &str| stated.conditions.iter().any(|condition| condition["type"] == kind);
        let uid = gateway.metadata.uid.clone();
        if is_there("Accepted")
            && is_there("Programmed")
            && memory.told.get(&name).is_some_and(|told| told.0 == uid && is_same(&told.1, &status))
        {
            return;
        }
        let resource = super::kinds::resources(Kind::Gateway);
        let Some(resource) = resource.first() else { return };
        let object = json!({
            "apiVersion": resource.api_version(),
            "kind": Kind::Gateway.as_str(),
            "metadata": {"name": name.1.as_str(), "namespace": name.0.as_str()},
            "status": status,
        });
        let path = format!("{}/status", resource.object(&name.0, &name.1));
        match self.api.apply(&path, MANAGER, &object).await {
            Ok(_) => {
                tracing::debug!(gateway = %key, "status written");
                memory.told.insert(name, (uid, status));
            }
            Err(error) if error.is_absent() => {}
            Err(error) => tracing::warn!(gateway = %key, %error, retry = ?LOOK, "status not written"),
        }
    }
}

/// Why something was not applied.
enum Refused {
    /// It will not be until somebody changes something.
    For(String),
    /// Nobody has decided anything.
    Later(ApiError),
}

impl Refused {
    fn of(error: ApiError) -> Self {
        match error.code() {
            // Not now, or our role is to be mended first. A field that is not in the schema is a 500 to the API server.
            None | Some(403 | 409 | 429 | 502..=504) => Self::Later(error),
            Some(_) => Self::For(error.to_string()),
        }
    }

    /// With the place that it is about.
    fn at(self, place: Option<String>) -> Self {
        match (self, place) {
            (Self::For(reason), Some(place)) => Self::For(format!("{place}: {reason}")),
            (other, _) => other,
        }
    }
}

/// The Gateways of classes of ours.
fn wanted(objects: &Objects) -> Vec<Wanted> {
    let ours = objects
        .gateways()
        .filter(|(_, gateway)| waypoint::is_managed(objects.gateway_class(&gateway.spec.gateway_class_name)));
    let wanted = ours.map(|(name, gateway)| {
        let pods = objects.pods_of(&name.0).map(|(_, pod)| pod);
        let ready =
            pods.filter(|pod| waypoint::is_part_of(&pod.metadata.labels, &name.1) && pod.is_ready()).count();
        let service = objects.service(name).map(crate::objects::Service::addresses).unwrap_or_default();
        let addresses = service.iter().map(ToString::to_string).collect();
        Wanted { gateway: gateway.clone(), ready, addresses }
    });
    wanted.collect()
}

/// Whether two statuses differ in nothing but when they were made.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| {
                    key == "lastTransitionTime" || other.get(key).is_some_and(|other| is_same(value, other))
                })
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other))
        }
        (one, other) => one == other,
    }
}

/// Without the number of replicas, which has another manager.
fn fixed(object: &Value) -> Value {
    let mut object = object.clone();
    if object["kind"] == PartKind::Deployment.as_str()
        && let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
    {
        spec.remove("replicas");
    }
    object
}

fn hash(parts: &[Part]) -> u64 {
    let mut hasher = DefaultHasher::new();
    parts.iter().for_each(|part| part.object.to_string().hash(&mut hasher));
    hasher.finish()
}

fn name(gateway: &Gateway) -> Name {
    (gateway.metadata.namespace.clone(), gateway.metadata.name.clone())
}

fn key(gateway: &Gateway) -> ObjectKey {
    gateway.metadata.key(Kind::Gateway)
}

/// Where the API server has a kind.
fn resource(kind: PartKind) -> Resource {
    match kind {
        PartKind::ServiceAccount => Resource::core("serviceaccounts"),
        PartKind::Service => Resource::core("services"),
        PartKind::Deployment => Resource::new("apps", "v1", "deployments"),
        PartKind::HorizontalPodAutoscaler => Resource::new("autoscaling", "v2", "horizontalpodautoscalers"),
        PartKind::PodDisruptionBudget => Resource::new("policy", "v1", "poddisruptionbudgets"),
        PartKind::NetworkPolicy => Resource::new("networking.k8s.io", "v1", "networkpolicies"),
    }
}
