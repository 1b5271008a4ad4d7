// SPDX-License-Identifier: Apache-2.0
//! Keys that workloads claim, where the newest claim wins until it is given up.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use crate::{name::WorkloadUid, workload::Workload};

/// Claims by key. Nearly every key has one claim, so the others live in a map of their own: a lone claim costs the key
/// and a pointer.
#[derive(Debug)]
pub(crate) struct Claims<K> {
    newest: HashMap<K, Arc<Workload>>,
    /// Oldest first; never an empty list.
    older: HashMap<K, Vec<Arc<Workload>>>,
}

impl<K> Default for Claims<K> {
    fn default() -> Self {
        Self { newest: HashMap::new(), older: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone> Claims<K> {
    /// Who holds a key.
    pub(crate) fn holder(&self, key: &K) -> Option<&Arc<Workload>> {
        self.newest.get(key)
    }

    /// All who claim a key, the newest first.
    pub(crate) fn all(&self, key: &K) -> impl Iterator<Item = &Arc<Workload>> {
        let older = self.older.get(key).map(Vec::as_slice).unwrap_or_default();
        self.newest.get(key).into_iter().chain(older.iter().rev())
    }

    /// Claims a key. A workload that claims it already keeps its place: an update of the older of two does not win.
    pub(crate) fn claim(&mut self, key: K, workload: &Arc<Workload>) {
        let workload = Arc::clone(workload);
        let Some(holder) = self.newest.get_mut(&key) else {
            self.newest.insert(key, workload);
            return;
        };
        if holder.uid == workload.uid {
            *holder = workload;
            return;
        }
        if let Some(known) = self
            .older
            .get_mut(&key)
            .and_then(|older| older.iter_mut().find(|known| known.uid == workload.uid))
        {
            *known = workload;
            return;
        }
        let before = std::mem::replace(holder, workload);
        self.older.entry(key).or_default().push(before);
    }

    /// Gives up a claim; the newest of the others holds the key then.
    pub(crate) fn release(&mut self, key: &K, uid: &WorkloadUid) {
        if self.newest.get(key).is_some_and(|holder| holder.uid == *uid) {
            match self.older.get_mut(key).and_then(Vec::pop) {
                Some(next) => self.newest.insert(key.clone(), next),
                None => self.newest.remove(key),
            };
        } else if let Some(older) = self.older.get_mut(key) {
            older.retain(|known| known.uid != *uid);
        }
        if self.older.get(key).is_some_and(Vec::is_empty) {
            self.older.remove(key);
        }
    }
}
