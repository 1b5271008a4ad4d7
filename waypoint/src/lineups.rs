// SPDX-License-Identifier: Apache-2.0
//! The endpoints of services in the order in which they take turns, made once and kept until endpoints change.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use mesh::{
    Index, Service, ServiceName, Workload,
    balance::{Lineup, PortMode},
};
use parking_lot::RwLock;

type Key = (ServiceName, u16);

/// See the module.
#[derive(Debug, Default)]
pub struct Lineups {
    known: RwLock<HashMap<Key, Arc<Lineup>>>,
    turns: RwLock<HashMap<Key, Arc<AtomicU64>>>,
}

impl Lineups {
    /// Of a port of a service, seen from a workload.
    pub fn of(&self, index: &Index, service: &Service, source: &Workload, port: u16) -> Arc<Lineup> {
        let key = (service.key(), port);
        if let Some(known) = self.known.read().get(&key) {
            return Arc::clone(known);
        }
        let made = Arc::new(Lineup::new(index, service, source, PortMode::Service(port)));
        self.known.write().insert(key, Arc::clone(&made));
        made
    }

    /// The number of the next turn; the first is anybody's, so that several instances do not begin with the same endpoint.
    pub fn turn(&self, service: &ServiceName, port: u16) -> u64 {
        let key = (service.clone(), port);
        if let Some(turns) = self.turns.read().get(&key) {
            return turns.fetch_add(1, Ordering::Relaxed);
        }
        let first = || Arc::new(AtomicU64::new(rand::random::<u32>().into()));
        self.turns.write().entry(key).or_insert_with(first).fetch_add(1, Ordering::Relaxed)
    }

    /// Endpoints or services have changed: all lines are made again when they are needed.
    pub fn clear(&self) {
        self.known.write().clear();
    }

    /// Forgets the turns of services that are gone.
    pub fn retain(&self, exists: impl Fn(&ServiceName) -> bool) {
        self.turns.write().retain(|(service, _port), _turns| exists(service));
    }
}
