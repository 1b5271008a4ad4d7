// SPDX-License-Identifier: Apache-2.0
//! Telemetries, the nearest first.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    name::ServiceName,
    telemetry::{Telemetry, TelemetryName, View},
};

/// All of them. There are few, and whoever asks keeps the answer: they are looked through.
#[derive(Debug, Default)]
pub(crate) struct Telemetries {
    named: BTreeMap<TelemetryName, Arc<Telemetry>>,
}

impl Telemetries {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Telemetry>> {
        self.named.values()
    }

    /// Whether it was different.
    pub(crate) fn insert(&mut self, telemetry: Telemetry) -> bool {
        let before = self.named.get(&telemetry.name);
        if before.is_some_and(|known| **known == telemetry) {
            return false;
        }
        self.named.insert(telemetry.name.clone(), Arc::new(telemetry));
        true
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, name: &TelemetryName) -> bool {
        self.named.remove(name).is_some()
    }

    pub(crate) fn view(&self, namespace: &str, waypoint: &str, service: Option<&ServiceName>) -> View {
        let counting = |telemetry: &&Arc<Telemetry>| telemetry.counts_for(namespace, waypoint, service);
        let mut found: Vec<_> = self.named.values().filter(counting).map(Arc::as_ref).collect();
        found.sort_by(|one, other| one.rank().cmp(&other.rank()));
        View::new(&found)
    }
}
