// SPDX-License-Identifier: Apache-2.0
//! What we have made in the cluster, as it is now: enough of it to see that somebody has changed or deleted it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use kubernetes::{Api, Event, Happened, Watch, Within, json};
use runtime::Tasks;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{overlays::Maps, resource};
use crate::{
    deploy::{DEFAULTS_FOR, MADE_BY, PartKind},
    objects::Gateway,
    translate::waypoint::{MANAGED, MANAGED_WAYPOINT},
};

/// What a watch of ours follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Of {
    Part(PartKind),
    /// ConfigMaps with defaults of classes.
    Defaults,
}

pub(super) type Heard = Happened<Of, Seen>;

/// An object, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Seen {
    metadata: SeenMetadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
    #[serde(default)]
    spec: Value,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SeenMetadata {
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    owner_references: Value,
}

/// Tells whether an object is still as it was applied, whatever its status says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    uid: String,
    hash: u64,
}

impl Mark {
    /// Of an object that was applied.
    pub(super) fn of(object: &Value) -> Self {
        let seen: Option<Seen> = serde_json::from_value(object.clone()).ok();
        seen.map(|seen| seen.mark()).unwrap_or_default()
    }
}

/// Written by the controller of Deployments.
const REVISION: &str = "deployment.kubernetes.io/revision";

impl Seen {
    fn mark(&self) -> Mark {
        let SeenMetadata { uid, labels, annotations, owner_references, .. } = &self.metadata;
        let mut hasher = DefaultHasher::new();
        (labels, owner_references.to_string(), self.spec.to_string()).hash(&mut hasher);
        annotations.iter().filter(|(key, _)| *key != REVISION).for_each(|own| own.hash(&mut hasher));
        Mark { uid: uid.clone(), hash: hasher.finish() }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Made {
    marks: BTreeMap<(PartKind, String, String), Mark>,
    synced: BTreeSet<Of>,
}

impl Made {
    /// Takes what was heard.
    pub(super) fn take(&mut self, heard: Heard, maps: &mut Maps) {
        let of = heard.of;
        match (heard.event, of) {
            (Event::Applied(seen), Of::Part(kind)) => {
                let mark = seen.mark();
                self.marks.insert((kind, seen.metadata.namespace, seen.metadata.name), mark);
            }
            (Event::Deleted(name) | Event::Broken { name, .. }, Of::Part(kind)) => {
                self.marks.remove(&(kind, name.namespace, name.name));
            }
            (Event::Applied(seen), Of::Defaults) => {
                let class = seen.metadata.labels.get(DEFAULTS_FOR).cloned().unwrap_or_default();
                maps.set(seen.metadata.name, class, seen.metadata.namespace, seen.data);
            }
            (Event::Deleted(name) | Event::Broken { name, .. }, Of::Defaults) => maps.remove(&name.name),
            (Event::Synced | Event::Absent, of) => drop(self.synced.insert(of)),
        }
    }

    /// Whether everything that there was is known.
    pub(super) fn is_synced(&self) -> bool {
        self.synced.len() == PartKind::ALL.len() + 1
    }

    /// Whether objects of a namespace are as they were.
    pub(super) fn is_as(&self, namespace: &str, marks: &BTreeMap<(PartKind, String), Mark>) -> bool {
        marks.iter().all(|((kind, name), mark)| {
            self.marks.get(&(*kind, namespace.to_owned(), name.clone())) == Some(mark)
        })
    }

    /// Whether there is an object of ours.
    pub(super) fn has(&self, kind: PartKind, namespace: &str, name: &str) -> bool {
        self.marks.contains_key(&(kind, namespace.to_owned(), name.to_owned()))
    }
}

/// Starts to watch.
pub(super) fn watch(api: &Api, namespace: &str, events: &mpsc::Sender<Heard>, tasks: &Tasks) {
    let ours = format!("{}={},{MANAGED}={MANAGED_WAYPOINT}", MADE_BY.0, MADE_BY.1);
    let parts = PartKind::ALL
        .map(|kind| Watch { labels: Some(ours.clone()), ..Watch::new(Of::Part(kind), [resource(kind)]) });
    let defaults = Watch {
        labels: Some(DEFAULTS_FOR.to_owned()),
        within: Within::Namespace(namespace.to_owned()),
        ..Watch::new(Of::Defaults, [super::overlays::MAPS])
    };
    for watch in parts.into_iter().chain([defaults]) {
        let running = watch.run(api.clone(), json::<Seen>, events.clone());
        let shutdown = tasks.shutdown();
        drop(tasks.spawn_vital("watch of waypoints", async move {
            tokio::select! {
                () = running => {}
                () = shutdown.requested() => {}
            }
        }));
    }
}

/// Whether an object that is there belongs to a Gateway: we made it, or whoever ran the Gateway before us.
pub(super) fn is_of(object: &Value, gateway: &Gateway) -> bool {
    let uid = gateway.metadata.uid.as_deref();
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let owned = |owner: &Value| uid.is_some() && owner["uid"].as_str() == uid;
    owners.is_some_and(|owners| owners.iter().any(owned))
}
