// SPDX-License-Identifier: Apache-2.0
//! The shared copy of the mesh in one process: one [`Writer`], any number of [`Replica`] handles.
//!
//! A decision reads one state in one synchronous closure, so no lock crosses an await. It does not know where changes
//! come from and decides nothing; `mesh::Index` answers.

use std::sync::{Arc, Weak};

use mesh::{Change, Index, Touched};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::kind::{Kind, PerKind};

/// Most changes applied while readers wait: a push of the whole mesh must not stall an accept.
pub const PIECE: usize = 256;

/// Moves kept for a slow consumer before they are compacted to one per address and old identity.
const MOVES_BEFORE_COMPACTION: usize = 4096;

/// A handle to read; cheap to clone.
#[derive(Clone, Debug)]
pub struct Replica {
    shared: Arc<Shared>,
}

/// The one that writes.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: RwLock<Index>,
    version: watch::Sender<u64>,
    synced: watch::Sender<PerKind<bool>>,
    ledgers: Mutex<Vec<Weak<Ledger>>>,
}

/// What was touched since one consumer last looked.
#[derive(Debug, Default)]
struct Ledger {
    touched: Mutex<Touched>,
    news: Notify,
}

impl Replica {
    /// Reads one state. The closure runs under the lock: one decision, under 50 µs, nothing per byte or message.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.shared.index.read())
    }

    /// A counter that grows with every piece that was applied.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Everything touched from now on. Nothing is lost however slow the consumer: what it has not taken is merged.
    pub fn touches(&self) -> Touches {
        let ledger = Arc::new(Ledger::default());
        let mut ledgers = self.shared.ledgers.lock();
        ledgers.retain(|ledger| ledger.strong_count() > 0);
        ledgers.push(Arc::downgrade(&ledger));
        Touches { ledger }
    }

    /// Whether the first answer of every kind has been applied. It never turns back: while control is away, the last
    /// state stays in force.
    pub fn synced(&self) -> bool {
        let synced = self.shared.synced.borrow();
        Kind::ALL.into_iter().all(|kind| *synced.of(kind))
    }

    /// Waits until [`Self::synced`]; cancel safe.
    pub async fn wait_synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, so this cannot end early.
        synced.wait_for(|synced| Kind::ALL.into_iter().all(|kind| *synced.of(kind))).await.ok();
    }
}

impl Writer {
    /// Of an empty Index that is not synced.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                index: RwLock::new(Index::new()),
                version: watch::Sender::new(0),
                synced: watch::Sender::default(),
                ledgers: Mutex::default(),
            }),
        }
    }

    /// A handle to read what this writes.
    pub fn replica(&self) -> Replica {
        Replica { shared: Arc::clone(&self.shared) }
    }

    /// Applies changes in order, at most [`PIECE`] per hold of the lock.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let mut touched = Touched::default();
            {
                let mut index = self.shared.index.write();
                for change in changes.by_ref().take(PIECE) {
                    touched.merge(index.apply(change));
                }
            }
            self.tell(touched);
        }
    }

    /// The first answer of this kind is applied.
    pub fn mark_synced(&mut self, kind: Kind) {
        self.shared.synced.send_if_modified(|synced| !std::mem::replace(synced.of_mut(kind), true));
    }

    /// After the lock is released: whoever is woken finds the new state.
    fn tell(&self, touched: Touched) {
        if touched.is_empty() {
            return;
        }
        self.shared.version.send_modify(|version| *version += 1);
        self.shared.ledgers.lock().retain(|ledger| {
            let Some(ledger) = ledger.upgrade() else { return false };
            ledger.add(touched.clone());
            true
        });
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    fn add(&self, touched: Touched) {
        let mut kept = self.touched.lock();
        kept.merge(touched);
        if kept.moved.len() > MOVES_BEFORE_COMPACTION {
            compact(&mut kept);
        }
        drop(kept);
        self.news.notify_one();
    }
}

/// Keeps the last word per address and old identity. What is left is bounded by the addresses of the mesh, not by how
/// often they moved.
fn compact(touched: &mut Touched) {
    let mut seen = std::collections::HashSet::new();
    let mut moved = std::mem::take(&mut touched.moved);
    moved.reverse();
    moved.retain(|moved| seen.insert((moved.address.clone(), moved.was.clone())));
    moved.reverse();
    touched.moved = moved;
}

/// A subscription to what changes touch.
#[derive(Debug)]
pub struct Touches {
    ledger: Arc<Ledger>,
}

impl Touches {
    /// What was touched since the last call; waits until there is something. Cancel safe: nothing is taken before it
    /// is returned.
    pub async fn next(&mut self) -> Touched {
        loop {
            if let Some(touched) = self.take() {
                return touched;
            }
            self.ledger.news.notified().await;
        }
    }

    /// The same without waiting.
    pub fn take(&mut self) -> Option<Touched> {
        let touched = std::mem::take(&mut *self.ledger.touched.lock());
        (!touched.is_empty()).then_some(touched)
    }
}

#[cfg(test)]
mod tests;
