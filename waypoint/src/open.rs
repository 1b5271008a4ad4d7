// SPDX-License-Identifier: Apache-2.0
//! Connections that are carried as bytes, so that guards can be asked about them again and end them with a reason.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arcstr::ArcStr;
use hbone::{Abort, Aborter, Cause, abort_pair};
use mesh::{
    Index,
    l7::guard::{Attribute, Condition},
};
use parking_lot::Mutex;
use plan::Failure;

use crate::link::Link;

/// Every abort has its failure beside it; this text is only seen if that is lost.
const ENDED: Cause = Cause("connection ended by the waypoint");

/// All of them.
#[derive(Debug, Default)]
pub struct Open {
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
    /// Whether any guard looks at the name in a TLS handshake.
    by_server_name: AtomicBool,
}

/// One of them.
#[derive(Debug)]
pub struct Connection {
    /// Whose it is, and what for.
    pub link: Arc<Link>,
    /// The name in its TLS handshake, if it has one.
    pub server: Option<ArcStr>,
    aborter: Aborter,
    failure: OnceLock<Failure>,
}

impl Connection {
    /// Ends it with a reason; the first one counts.
    pub fn end(&self, failure: Failure) {
        if self.failure.set(failure).is_ok() {
            self.aborter.abort(ENDED);
        }
    }

    /// Why it was ended, if it was.
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }
}

/// A connection's place; it leaves when dropped.
#[derive(Debug)]
pub struct Entered<'a> {
    open: &'a Open,
    id: u64,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Open {
    /// Enters a connection; the abort goes to its copy.
    pub fn enter(&self, link: &Arc<Link>, server: Option<ArcStr>) -> (Entered<'_>, Abort) {
        let (aborter, abort) = abort_pair();
        let connection =
            Arc::new(Connection { link: Arc::clone(link), server, aborter, failure: OnceLock::new() });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().insert(id, Arc::clone(&connection));
        (Entered { open: self, id, connection }, abort)
    }

    /// Whether the name in a TLS handshake is to be read, as a guard looks at it.
    pub fn asks_server_name(&self) -> bool {
        self.by_server_name.load(Ordering::Relaxed)
    }

    /// Notes whether any guard does.
    pub fn follow(&self, index: &Index) {
        let looks = |condition: &Condition| condition.of == Attribute::ServerName;
        let clauses = index.guards().flat_map(|guard| &guard.rules).flat_map(|rule| &rule.clauses);
        let found = clauses.flat_map(|clause| clause.alternatives.iter().flatten()).any(looks);
        self.by_server_name.store(found, Ordering::Relaxed);
    }

    /// Those that are there now.
    pub fn snapshot(&self) -> Vec<Arc<Connection>> {
        self.connections.lock().values().cloned().collect()
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut connections = self.open.connections.lock();
        connections.remove(&self.id);
        if connections.is_empty() && connections.capacity() > 1024 {
            connections.shrink_to(64);
        }
    }
}
