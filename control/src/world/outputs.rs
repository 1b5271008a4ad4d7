// SPDX-License-Identifier: Apache-2.0
//! Outputs of one type: by their names on the wire, and which objects they come from.

use std::collections::BTreeMap;

use crate::objects::ObjectKey;

/// See the module. Translation sees to it that a name comes from one object only.
#[derive(Debug)]
pub(super) struct Outputs<K, V> {
    all: BTreeMap<K, V>,
    from: BTreeMap<ObjectKey, Vec<K>>,
}

/// What objects become now: nothing is an empty list.
pub(super) type Batch<K, V> = Vec<(ObjectKey, Vec<(K, V)>)>;

/// An output as it was and as it is.
pub(super) type Replaced<V> = (Option<V>, Option<V>);

impl<K, V> Default for Outputs<K, V> {
    fn default() -> Self {
        Self { all: BTreeMap::new(), from: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Clone + PartialEq> Outputs<K, V> {
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.all.values()
    }

    pub(super) fn named(&self, name: &K) -> Option<&V> {
        self.all.get(name)
    }

    /// Puts a batch in place of what its objects were before; returns what is different. First all of the old goes, as a
    /// name may pass from one object to another.
    pub(super) fn replace(&mut self, batch: Batch<K, V>) -> Vec<Replaced<V>> {
        let mut touched: BTreeMap<K, Option<V>> = BTreeMap::new();
        for (object, _) in &batch {
            for name in self.from.remove(object).into_iter().flatten() {
                let was = self.all.remove(&name);
                touched.insert(name, was);
            }
        }
        for (object, outputs) in batch {
            let mut names = Vec::with_capacity(outputs.len());
            for (name, output) in outputs {
                touched.entry(name.clone()).or_insert(None);
                self.all.insert(name.clone(), output);
                names.push(name);
            }
            if !names.is_empty() {
                self.from.insert(object, names);
            }
        }
        let replaced = touched.into_iter().map(|(name, was)| (was, self.all.get(&name).cloned()));
        replaced.filter(|(was, now)| was != now).collect()
    }
}
