// SPDX-License-Identifier: Apache-2.0
//! The connections that are open, so that they can be asked about again and ended with a reason.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hbone::{Abort, Aborter, Cause, abort_pair};
use parking_lot::Mutex;
use plan::Failure;

/// Every abort has its failure beside it; this text is only seen if that is lost.
const ENDED: Cause = Cause("connection ended by the proxy");
/// Room that is kept once none is open.
const SPARE: usize = 64;
/// Room that is given back then.
const MUCH: usize = 1024;

/// See the module; of each it knows a `T`.
pub struct Open<T> {
    connections: Mutex<HashMap<u64, Arc<Connection<T>>>>,
    next: AtomicU64,
}

/// One open connection.
#[derive(Debug)]
pub struct Connection<T> {
    /// What is known of it.
    pub known: T,
    aborter: Aborter,
    failure: OnceLock<Box<Failure>>,
}

impl<T> Connection<T> {
    /// Ends it with a reason; the first one counts.
    pub fn end(&self, failure: Failure) {
        if self.failure.set(Box::new(failure)).is_ok() {
            self.aborter.abort(ENDED);
        }
    }

    /// Why it was ended, if it was.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get().map(Box::as_ref)
    }
}

/// A connection's place in [`Open`]; it leaves when dropped.
pub struct Entered<T> {
    open: Arc<Open<T>>,
    id: u64,
    /// The connection.
    pub connection: Arc<Connection<T>>,
}

impl<T> Open<T> {
    /// Enters a connection; the abort goes to its copy.
    pub fn enter(self: &Arc<Self>, known: T) -> (Entered<T>, Abort) {
        let (aborter, abort) = abort_pair();
        let connection = Arc::new(Connection { known, aborter, failure: OnceLock::new() });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().insert(id, Arc::clone(&connection));
        (Entered { open: Arc::clone(self), id, connection }, abort)
    }

    /// Those that are open now.
    pub fn snapshot(&self) -> Vec<Arc<Connection<T>>> {
        self.connections.lock().values().cloned().collect()
    }

    /// Ends all of them; how many there were.
    pub fn end_all(&self, failure: &Failure) -> usize {
        let open = self.snapshot();
        for connection in &open {
            connection.end(failure.clone());
        }
        open.len()
    }
}

impl<T> Drop for Entered<T> {
    fn drop(&mut self) {
        let mut connections = self.open.connections.lock();
        connections.remove(&self.id);
        if connections.is_empty() && connections.capacity() > MUCH {
            connections.shrink_to(SPARE);
        }
    }
}

impl<T> Default for Open<T> {
    fn default() -> Self {
        Self { connections: Mutex::default(), next: AtomicU64::default() }
    }
}

impl<T> fmt::Debug for Open<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").field("connections", &self.connections.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use plan::What;

    use super::*;

    #[tokio::test]
    async fn an_ended_connection_knows_the_first_reason() {
        let open = Arc::new(Open::default());
        let (entered, mut abort) = open.enter(());
        assert_eq!(open.end_all(&What::Drained.into()), 1);
        entered.connection.end(What::NotSynced.into());
        assert_eq!(abort.aborted().await, ENDED);
        assert_eq!(entered.connection.failure().map(|failure| &failure.what), Some(&What::Drained));
    }

    #[test]
    fn a_connection_leaves_when_it_is_over() {
        let open = Arc::new(Open::default());
        let (entered, _abort) = open.enter(());
        assert_eq!(open.snapshot().len(), 1);
        drop(entered);
        assert!(open.snapshot().is_empty());
    }
}
