// SPDX-License-Identifier: Apache-2.0
//! Workloads by service, whether or not the service has arrived.

use std::{collections::HashMap, sync::Arc};

use super::neighbours::{LARGE, Neighbours};
use crate::{
    name::{ServiceName, WorkloadUid},
    service::Scope,
    workload::Workload,
};

/// Endpoints of every service that a workload named.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(HashMap<ServiceName, Group>);

/// Endpoints of one service.
#[derive(Debug, Default)]
pub(crate) struct Group {
    /// By uid, so that a choice does not depend on the order of arrival.
    pub(crate) workloads: Vec<Arc<Workload>>,
    /// No capacity is larger; an upper bound that may be too large after removals.
    pub(crate) heaviest: u32,
    /// Those that are near a client.
    pub(crate) neighbours: Neighbours,
}

impl Endpoints {
    /// Endpoints of a service.
    pub(crate) fn of(&self, service: &ServiceName) -> Option<&Group> {
        self.0.get(service)
    }

    /// All services with endpoints.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServiceName, &Group)> {
        self.0.iter()
    }

    /// Sets what a service prefers.
    pub(crate) fn prefer(&mut self, service: &ServiceName, scopes: &[Scope]) {
        if let Some(group) = self.0.get_mut(service) {
            group.prefer(scopes);
        }
    }

    /// Adds a workload to its services, in place of an earlier state of it; `preference` is what a service prefers.
    pub(crate) fn insert<'a>(
        &mut self,
        workload: &Arc<Workload>,
        preference: impl Fn(&ServiceName) -> &'a [Scope],
    ) {
        for service in workload.services.keys() {
            let group = match self.0.get_mut(service) {
                Some(group) => group,
                None => {
                    let group = self.0.entry(service.clone()).or_default();
                    group.prefer(preference(service));
                    group
                }
            };
            group.insert(workload);
        }
    }

    /// Takes a workload out of those of its services that `after`, its next state, does not name.
    pub(crate) fn remove(&mut self, workload: &Workload, after: Option<&Workload>) {
        for service in workload.services.keys() {
            if after.is_some_and(|after| after.services.contains_key(service)) {
                continue;
            }
            let Some(group) = self.0.get_mut(service) else { continue };
            group.remove(&workload.uid);
            if group.workloads.is_empty() {
                self.0.remove(service);
            }
        }
    }
}

impl Group {
    fn position(&self, uid: &WorkloadUid) -> Result<usize, usize> {
        self.workloads.binary_search_by(|known| known.uid.cmp(uid))
    }

    fn prefer(&mut self, scopes: &[Scope]) {
        if self.neighbours.prefer(scopes) && self.workloads.len() >= LARGE {
            self.neighbours.begin(&self.workloads);
        }
    }

    fn insert(&mut self, workload: &Arc<Workload>) {
        self.heaviest = self.heaviest.max(workload.capacity);
        match self.position(&workload.uid) {
            Ok(position) => {
                if let Some(known) = self.workloads.get_mut(position) {
                    let before = std::mem::replace(known, Arc::clone(workload));
                    self.neighbours.remove(&before);
                    self.neighbours.insert(workload);
                }
            }
            Err(position) => {
                self.workloads.insert(position, Arc::clone(workload));
                if self.workloads.len() == LARGE {
                    self.neighbours.begin(&self.workloads);
                } else {
                    self.neighbours.insert(workload);
                }
            }
        }
    }

    fn remove(&mut self, uid: &WorkloadUid) {
        let Ok(position) = self.position(uid) else { return };
        let before = self.workloads.remove(position);
        if self.workloads.len() < LARGE {
            self.neighbours.end();
        } else {
            self.neighbours.remove(&before);
        }
    }
}
