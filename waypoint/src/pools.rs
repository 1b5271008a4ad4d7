// SPDX-License-Identifier: Apache-2.0
//! HTTP connections to servers by endpoint: HTTP/1 ones while they are idle, HTTP/2 ones while they have room. How one is
//! made is `upstream`'s knowledge.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::client::conn::http1;
use mesh::{Hostname, SpiffeId, WorkloadUid, l7::ServerTls};
use parking_lot::Mutex;
use plan::{
    Authority,
    outbound::{Hop, Transport},
};

use crate::body::Body;

/// Idle connections are looked at so often.
pub const TENDED: Duration = Duration::from_secs(5);
/// An idle connection is closed after this: less than servers usually wait, so that a request seldom meets their end.
const IDLE: Duration = Duration::from_secs(50);
/// Idle HTTP/1 connections of one endpoint.
const IDLE_CONNECTIONS: usize = 256;
/// Requests on one HTTP/2 connection, if the server allows as many; more open another one.
const STREAMS: usize = 100;

/// A version of HTTP on a connection to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Which connections are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Where to dial.
    pub next: SocketAddr,
    /// What a tunnel asks for there.
    authority: Option<Authority>,
    /// Whom to expect there.
    pub expected: Arc<[SpiffeId]>,
    /// The endpoint.
    pub endpoint: Option<WorkloadUid>,
    /// The service that is named to the endpoint's proxy.
    service: Option<Hostname>,
    /// What is spoken.
    pub wire: Wire,
    /// The TLS that it is spoken in, where no tunnel leads there.
    pub tls: Option<Arc<ServerTls>>,
}

impl Key {
    /// Of the way to an endpoint.
    pub fn new(hop: &Hop, wire: Wire) -> Self {
        let expected = match &hop.transport {
            Transport::Passthrough(_) | Transport::Plain(_) => Arc::default(),
            Transport::Tunnel(tunnel) => Arc::clone(&tunnel.expected),
            Transport::Nested { inner, .. } => Arc::clone(&inner.expected),
        };
        Self {
            next: hop.address(),
            authority: hop.authority().cloned(),
            expected,
            endpoint: hop.endpoint().cloned(),
            service: hop.service.as_deref().map(|service| service.hostname.clone()),
            wire,
            tls: hop.tls.clone(),
        }
    }
}

/// The sending side of an HTTP/1 connection.
pub type Http1 = http1::SendRequest<Body>;
/// The sending side of an HTTP/2 connection.
pub type Http2 = h2::client::SendRequest<Bytes>;

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Pools {
    entries: Arc<Mutex<HashMap<Key, Entry>>>,
}

#[derive(Debug, Default)]
struct Entry {
    idle: Vec<(Http1, Instant)>,
    shared: Vec<Shared>,
    /// Who dials an HTTP/2 connection; others wait for it and look again.
    dialling: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Shared {
    requests: Http2,
    open: Arc<AtomicUsize>,
    last: Instant,
}

/// A request's place on an HTTP/2 connection.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a request holds of a connection until its answer has ended.
#[derive(Debug)]
pub enum Lease {
    /// The whole connection: it is given back when the answer has ended in order.
    Http1 {
        /// Where to.
        pools: Pools,
        /// Under which key.
        key: Box<Key>,
        /// What.
        sender: Http1,
    },
    /// A place.
    Http2(Place),
}

impl Lease {
    /// The answer has ended; `clean`: in order.
    pub fn give_back(self, clean: bool) {
        match self {
            Self::Http1 { pools, key, sender } if clean => pools.give_back(*key, sender),
            Self::Http1 { .. } | Self::Http2(_) => {}
        }
    }
}

impl Pools {
    /// Empty ones.
    pub fn new() -> Self {
        Self::default()
    }

    /// An idle HTTP/1 connection, the one that was used last.
    pub fn take_idle(&self, key: &Key) -> Option<Http1> {
        let mut entries = self.entries.lock();
        let idle = &mut entries.get_mut(key)?.idle;
        while let Some((sender, _since)) = idle.pop() {
            // One that has not noticed its last answer's end yet is let go with the dead ones.
            if sender.is_ready() {
                return Some(sender);
            }
        }
        None
    }

    fn give_back(&self, key: Key, sender: Http1) {
        if sender.is_closed() {
            return;
        }
        let mut entries = self.entries.lock();
        let idle = &mut entries.entry(key).or_default().idle;
        if idle.len() < IDLE_CONNECTIONS {
            idle.push((sender, Instant::now()));
        }
    }

    /// A place on an HTTP/2 connection that has room, on the one with the fewest requests.
    pub fn take_place(&self, key: &Key) -> Option<(Http2, Place)> {
        let mut entries = self.entries.lock();
        let shared = &mut entries.get_mut(key)?.shared;
        let room = |one: &&mut Shared| {
            one.open.load(Ordering::Relaxed) < one.requests.current_max_send_streams().clamp(1, STREAMS)
        };
        let found = shared.iter_mut().filter(room).min_by_key(|one| one.open.load(Ordering::Relaxed))?;
        found.last = Instant::now();
        found.open.fetch_add(1, Ordering::Relaxed);
        Some((found.requests.clone(), Place(Arc::clone(&found.open))))
    }

    /// Adds an HTTP/2 connection and takes a place on it.
    pub fn share(&self, key: &Key, requests: Http2) -> (Http2, Place) {
        let open = Arc::new(AtomicUsize::new(1));
        let shared = Shared { requests: requests.clone(), open: Arc::clone(&open), last: Instant::now() };
        self.entries.lock().entry(key.clone()).or_default().shared.push(shared);
        (requests, Place(open))
    }

    /// Takes an HTTP/2 connection out that takes no more requests: the one of this place.
    pub fn retire(&self, key: &Key, place: &Place) {
        if let Some(entry) = self.entries.lock().get_mut(key) {
            entry.shared.retain(|one| !Arc::ptr_eq(&one.open, &place.0));
        }
    }

    /// The turn to dial an HTTP/2 connection for a key.
    pub fn turn(&self, key: &Key) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(&self.entries.lock().entry(key.clone()).or_default().dialling)
    }

    /// Lets connections go whose key is chosen; those in use end with their requests. Says how many.
    pub fn close(&self, chosen: impl Fn(&Key) -> bool) -> usize {
        let mut closed = 0;
        self.entries.lock().retain(|key, entry| {
            let gone = chosen(key);
            closed += if gone { entry.idle.len() + entry.shared.len() } else { 0 };
            !gone
        });
        closed
    }

    /// Closes what has been idle for long.
    pub fn tend(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE;
        self.entries.lock().retain(|_key, entry| {
            entry.idle.retain(|(sender, since)| !sender.is_closed() && fresh(*since));
            entry.shared.retain(|one| one.open.load(Ordering::Relaxed) > 0 || fresh(one.last));
            !entry.idle.is_empty() || !entry.shared.is_empty() || Arc::strong_count(&entry.dialling) > 1
        });
    }

    /// Idle HTTP/1 and open HTTP/2 connections.
    pub fn count(&self) -> (usize, usize) {
        let entries = self.entries.lock();
        let count = |(idle, shared), entry: &Entry| (idle + entry.idle.len(), shared + entry.shared.len());
        entries.values().fold((0, 0), count)
    }
}
