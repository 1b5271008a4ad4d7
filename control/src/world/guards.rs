// SPDX-License-Identifier: Apache-2.0
//! The policies that keep those out who come past a waypoint: as long as a workload names one, it is there.

use std::collections::{BTreeMap, BTreeSet};

use mesh::Policy;

use super::{
    Settings,
    objects::{Name, Objects},
    outputs::Replaced,
};
use crate::{objects::ObjectKey, translate::waypoint::Guard};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Guards {
    policies: BTreeMap<Guard, Policy>,
    /// By whom they are named.
    users: BTreeMap<Guard, BTreeSet<ObjectKey>>,
    from: BTreeMap<ObjectKey, Vec<Guard>>,
}

impl Guards {
    pub(super) fn values(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// Puts what objects name now in place of what they named, and looks anew at those of `gateways`, whose instances may be
    /// others; returns what is different.
    pub(super) fn replace(
        &mut self,
        batch: Vec<(ObjectKey, Vec<Guard>)>,
        gateways: &BTreeSet<Name>,
        (objects, settings): (&Objects, &Settings),
    ) -> Vec<Replaced<Policy>> {
        let mut touched: BTreeSet<Guard> = BTreeSet::new();
        for (object, guards) in batch {
            for guard in self.from.remove(&object).into_iter().flatten() {
                if let Some(users) = self.users.get_mut(&guard) {
                    users.remove(&object);
                }
                touched.insert(guard);
            }
            for guard in &guards {
                self.users.entry(guard.clone()).or_default().insert(object.clone());
                touched.insert(guard.clone());
            }
            if !guards.is_empty() {
                self.from.insert(object, guards);
            }
        }
        if !gateways.is_empty() {
            let theirs = self.policies.keys().filter(|guard| gateways.iter().any(|name| guard.admits(name)));
            touched.extend(theirs.cloned());
        }
        touched.into_iter().filter_map(|guard| self.renew(guard, objects, settings)).collect()
    }

    fn renew(&mut self, guard: Guard, objects: &Objects, settings: &Settings) -> Option<Replaced<Policy>> {
        let is_used = self.users.get(&guard).is_some_and(|users| !users.is_empty());
        let now = is_used.then(|| guard.policy(objects, settings));
        let was = match now.clone() {
            Some(policy) => self.policies.insert(guard, policy),
            None => {
                self.users.remove(&guard);
                self.policies.remove(&guard)
            }
        };
        (was != now).then_some((was, now))
    }
}
