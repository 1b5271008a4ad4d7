// SPDX-License-Identifier: Apache-2.0
//! Endpoints of a large service by what they share with a client, so that a choice by locality looks at those that share
//! most and not at all of them.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use crate::{service::Scope, workload::Workload};

/// Fewer endpoints than these are looked at one by one.
pub(crate) const LARGE: usize = 64;

/// Empty unless the service is large and prefers some endpoints.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// What the service prefers.
    scopes: Vec<Scope>,
    /// At n - 1: endpoints by their values in the first n scopes, in the order of uids. By the hash of the values: whoever
    /// reads compares the values themselves anyway.
    sharing: Vec<HashMap<u64, Vec<Arc<Workload>>>>,
}

impl Neighbours {
    /// Sets what the service prefers; says whether that is new.
    pub(crate) fn prefer(&mut self, scopes: &[Scope]) -> bool {
        let new = self.scopes != scopes;
        if new {
            self.scopes = scopes.to_vec();
            self.sharing = Vec::new();
        }
        new
    }

    /// Endpoints that share at least the first `count` of these scopes with a client, and perhaps some that do not;
    /// `None` when they are not kept apart by these scopes.
    pub(crate) fn sharing(
        &self,
        client: &Workload,
        scopes: &[Scope],
        count: usize,
    ) -> Option<&[Arc<Workload>]> {
        if self.scopes != scopes {
            return None;
        }
        let known = self.sharing.get(count.checked_sub(1)?)?;
        let key = keys(scopes, client).nth(count - 1)?;
        Some(known.get(&key).map(Vec::as_slice).unwrap_or_default())
    }

    /// Begins to keep endpoints apart; they are in the order of uids.
    pub(crate) fn begin(&mut self, workloads: &[Arc<Workload>]) {
        self.sharing = self.scopes.iter().map(|_| HashMap::new()).collect();
        for workload in workloads {
            self.insert(workload);
        }
    }

    /// Ends it.
    pub(crate) fn end(&mut self) {
        self.sharing = Vec::new();
    }

    /// Adds an endpoint that is not there.
    pub(crate) fn insert(&mut self, workload: &Arc<Workload>) {
        for (known, key) in self.sharing.iter_mut().zip(keys(&self.scopes, workload)) {
            let group = known.entry(key).or_default();
            if let Err(position) = group.binary_search_by(|known| known.uid.cmp(&workload.uid)) {
                group.insert(position, Arc::clone(workload));
            }
        }
    }

    /// Removes an endpoint as it was added.
    pub(crate) fn remove(&mut self, workload: &Workload) {
        for (known, key) in self.sharing.iter_mut().zip(keys(&self.scopes, workload)) {
            let Some(group) = known.get_mut(&key) else { continue };
            if let Ok(position) = group.binary_search_by(|known| known.uid.cmp(&workload.uid)) {
                group.remove(position);
            }
            if group.is_empty() {
                known.remove(&key);
            }
        }
    }
}

/// Of the values in the first scope, in the first two, and so on.
fn keys<'a>(scopes: &'a [Scope], workload: &'a Workload) -> impl Iterator<Item = u64> + 'a {
    scopes.iter().scan(DefaultHasher::new(), |hasher, scope| {
        scope.values(workload).hash(hasher);
        Some(hasher.finish())
    })
}
