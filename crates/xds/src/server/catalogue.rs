// SPDX-License-Identifier: Apache-2.0
//! The catalogue that all streams of a server share.

use std::sync::Arc;

use arcstr::ArcStr;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::{
    codec::Resource,
    delta::{
        Publisher,
        publisher::{Published, Update},
    },
    kind::Kind,
};

/// What a server publishes; cheap to clone, every clone is the same catalogue.
#[derive(Clone, Debug)]
pub struct Catalogue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    publisher: RwLock<Publisher>,
    changed: watch::Sender<u64>,
}

impl Catalogue {
    /// An empty one. Proxies that ask for a kind wait until its first [`Self::replace`].
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                publisher: RwLock::new(Publisher::new()),
                changed: watch::Sender::new(0),
            }),
        }
    }

    /// Makes `resources` all that exists of a kind (those of another kind are left out). What is the same as before is
    /// not sent again.
    pub fn replace(&self, kind: Kind, resources: impl IntoIterator<Item = Resource>) -> Published {
        let published = self.shared.publisher.write().replace(kind, resources);
        self.tell();
        published
    }

    /// Applies changes.
    pub fn update(&self, updates: impl IntoIterator<Item = Update>) -> Published {
        let published = self.shared.publisher.write().update(updates);
        if published != Published::default() {
            self.tell();
        }
        published
    }

    /// How many resources of a kind exist.
    pub fn len(&self, kind: Kind) -> usize {
        self.read(|publisher| publisher.len(kind))
    }

    /// Whether none of a kind exists.
    pub fn is_empty(&self, kind: Kind) -> bool {
        self.len(kind) == 0
    }

    /// Position of a kind's last change: a proxy that has acknowledged it has everything.
    pub fn position(&self, kind: Kind) -> u64 {
        self.read(|publisher| publisher.position(kind))
    }

    /// Names and versions of a kind, sorted.
    pub fn versions(&self, kind: Kind) -> Vec<(ArcStr, ArcStr)> {
        let mut versions: Vec<_> = self.read(|publisher| {
            publisher.versions(kind).map(|(name, version)| (name.clone(), version.clone())).collect()
        });
        versions.sort_unstable();
        versions
    }

    pub(super) fn read<T>(&self, look: impl FnOnce(&Publisher) -> T) -> T {
        look(&self.shared.publisher.read())
    }

    pub(super) fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Waits until there is something to say about every kind; cancel safe.
    pub(super) async fn complete(&self) {
        let mut changed = self.changed();
        while !self.read(Publisher::is_complete) {
            // The sender lives in `shared`.
            changed.changed().await.ok();
        }
    }

    fn tell(&self) {
        self.shared.changed.send_modify(|changes| *changes += 1);
    }
}

impl Default for Catalogue {
    fn default() -> Self {
        Self::new()
    }
}
