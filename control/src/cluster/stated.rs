// SPDX-License-Identifier: Apache-2.0
//! What stands in the status of objects now. It is no part of the World: nothing is translated because of it, and what we
//! write there must not make us work again.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::Value;

use crate::objects::{Kind, ObjectKey};

/// Conditions of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stated {
    pub(super) generation: i64,
    /// Of the whole object.
    pub(super) version: String,
    pub(super) conditions: Vec<Value>,
    /// Of a route: what is said of each of its parents; of a policy of TLS, of each of its targets.
    pub(super) parents: Vec<Value>,
    /// `status.listeners` of a Gateway.
    pub(super) listeners: Vec<Value>,
}

/// Those of all objects that get conditions; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct StatedObjects(Arc<RwLock<BTreeMap<ObjectKey, Stated>>>);

impl StatedObjects {
    pub(super) fn set(&self, key: ObjectKey, stated: Stated) {
        self.0.write().insert(key, stated);
    }

    pub(super) fn remove(&self, key: &ObjectKey) {
        self.0.write().remove(key);
    }

    /// What stands in the status of one.
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Stated> {
        self.0.read().get(key).cloned()
    }

    /// Looks at each object.
    pub(super) fn filter_map<T>(&self, look: impl FnMut((&ObjectKey, &Stated)) -> Option<T>) -> Vec<T> {
        self.0.read().iter().filter_map(look).collect()
    }
}

/// When an object of a kind gets a condition of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Its status has no place for one, or is not ours to write.
    Never,
    /// It is no object of the mesh's own: silence means that all is well.
    WhenWrong,
    /// It is there for the mesh, and whoever wrote it waits for an answer.
    Always,
    /// The same, for each of its parents, or targets.
    PerParent,
}

/// When objects of a kind get a condition.
pub(super) fn said(kind: Kind) -> Said {
    match kind {
        Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::WorkloadGroup
        | Kind::Telemetry => Said::Always,
        Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute | Kind::BackendTLSPolicy => {
            Said::PerParent
        }
        Kind::Namespace | Kind::Service | Kind::Gateway => Said::WhenWrong,
        // Who may write the status of a pod may give it another address: its trouble is in the log and at `/status`.
        Kind::Node
        | Kind::ServiceAccount
        | Kind::ConfigMap
        | Kind::Pod
        | Kind::EndpointSlice
        | Kind::GatewayClass => Said::Never,
    }
}

/// Whether objects of a kind can get conditions.
pub(super) fn has_conditions(kind: Kind) -> bool {
    said(kind) != Said::Never
}

#[derive(Deserialize)]
struct Outline {
    metadata: OutlineMetadata,
    #[serde(default)]
    status: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OutlineMetadata {
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    resource_version: String,
}

/// Reads it from an object in JSON.
pub(super) fn stated(object: &str) -> Stated {
    let Ok(Outline { metadata, status }) = serde_json::from_str(object) else { return Stated::default() };
    let list = |name: &str| status.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    Stated {
        generation: metadata.generation,
        version: metadata.resource_version,
        conditions: list("conditions"),
        // No status has both.
        parents: [list("parents"), list("ancestors")].concat(),
        listeners: list("listeners"),
    }
}
