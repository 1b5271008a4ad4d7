// SPDX-License-Identifier: Apache-2.0
//! Workloads by service, whether or not the service has arrived.

use std::{collections::HashMap, sync::Arc};

use crate::{name::ServiceName, workload::Workload};

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

    /// Adds a workload to its services, in place of an earlier state of it.
    pub(crate) fn insert(&mut self, workload: &Arc<Workload>) {
        for service in workload.services.keys() {
            let group = match self.0.get_mut(service) {
                Some(group) => group,
                None => self.0.entry(service.clone()).or_default(),
            };
            group.heaviest = group.heaviest.max(workload.capacity);
            let found = group.workloads.binary_search_by(|known| known.uid.cmp(&workload.uid));
            match found.map(|position| group.workloads.get_mut(position)) {
                Ok(Some(known)) => *known = Arc::clone(workload),
                Ok(None) => {}
                Err(position) => group.workloads.insert(position, Arc::clone(workload)),
            }
        }
    }

    /// Takes a workload out of those of its services that `after`, its next state, does not name.
    pub(crate) fn remove(&mut self, workload: &Workload, after: Option<&Workload>) {
        for service in workload.services.keys() {
            if after.is_some_and(|after| after.services.contains_key(service)) {
                continue;
            }
            let Some(group) = self.0.get_mut(service) else { continue };
            if let Ok(position) = group.workloads.binary_search_by(|known| known.uid.cmp(&workload.uid)) {
                group.workloads.remove(position);
            }
            if group.workloads.is_empty() {
                self.0.remove(service);
            }
        }
    }
}
