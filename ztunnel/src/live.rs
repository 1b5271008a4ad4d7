// SPDX-License-Identifier: Apache-2.0
//! The connections of a shard that are open, so that they can be asked about again and ended with a reason.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hbone::{Abort, Aborter, Cause, Counters, abort_pair};
use mesh::authz::Subject;
use parking_lot::Mutex;
use plan::Failure;

use crate::metrics::Reporter;

/// Every abort has its failure beside it; this text is only seen if that is lost.
const ENDED: Cause = Cause("connection ended by the proxy");

/// See the module.
#[derive(Default)]
pub struct Live {
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    next: AtomicU64,
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    /// Which end of it is here.
    pub reporter: Reporter,
    /// The client.
    pub source: SocketAddr,
    /// The server.
    pub destination: SocketAddr,
    /// What inbound authorization judged, to ask again.
    pub subject: Option<Subject>,
    /// Bytes so far.
    pub counters: Arc<Counters>,
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

/// A connection's place in [`Live`]; it leaves when dropped.
pub struct Registered<'a> {
    live: &'a Live,
    id: u64,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Live {
    /// Enters a connection; the abort goes to its copy.
    pub fn enter(
        &self,
        reporter: Reporter,
        source: SocketAddr,
        destination: SocketAddr,
        subject: Option<Subject>,
    ) -> (Registered<'_>, Abort) {
        let (aborter, abort) = abort_pair();
        let connection = Arc::new(Connection {
            reporter,
            source,
            destination,
            subject,
            counters: Arc::default(),
            aborter,
            failure: OnceLock::new(),
        });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.connections.lock().insert(id, Arc::clone(&connection));
        (Registered { live: self, id, connection }, abort)
    }

    /// Those that are open now.
    pub fn snapshot(&self) -> Vec<Arc<Connection>> {
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

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let mut connections = self.live.connections.lock();
        connections.remove(&self.id);
        if connections.is_empty() && connections.capacity() > 1024 {
            connections.shrink_to(64);
        }
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("connections", &self.connections.lock().len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use plan::What;

    use super::*;

    fn address() -> SocketAddr {
        "10.0.0.1:80".parse().unwrap()
    }

    #[tokio::test]
    async fn an_ended_connection_knows_the_first_reason() {
        let live = Live::default();
        let (registered, mut abort) = live.enter(Reporter::Destination, address(), address(), None);
        assert_eq!(live.end_all(&What::Drained.into()), 1);
        registered.connection.end(What::NotSynced.into());
        assert_eq!(abort.aborted().await, ENDED);
        assert_eq!(registered.connection.failure().map(|failure| &failure.what), Some(&What::Drained));
    }

    #[test]
    fn a_connection_leaves_when_it_is_over() {
        let live = Live::default();
        let (registered, _abort) = live.enter(Reporter::Source, address(), address(), None);
        assert_eq!(live.snapshot().len(), 1);
        drop(registered);
        assert_eq!(live.snapshot().len(), 0);
    }
}
