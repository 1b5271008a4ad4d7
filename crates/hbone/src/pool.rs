// SPDX-License-Identifier: Apache-2.0
//! Connections by key: shared while they have room, dialled once however many ask, closed by key when told to. What a
//! key means and how it is dialled is the caller's knowledge.

mod dial;
mod entry;

use crate::client::{self, ConnectError, Connection, Driver, Ended, HandshakeError};
use crate::end::Cause;
use crate::head::Head;
use crate::link::Link;
use crate::settings::Settings;
use crate::spawn::Spawner;
use crate::tunnel::Tunnel;
use dial::{Begun, DialFailure, FORGOTTEN};
use entry::{Entry, Pick};
use http::HeaderMap;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::error::Error;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

/// How a pool behaves.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// Of its connections.
    pub connection: Settings,
    /// What a dial, TLS included, may take.
    pub dial_timeout: Duration,
    /// A connection nobody opened a tunnel on for so long is let go: it closes when its last tunnel does.
    pub idle_timeout: Duration,
    /// The same for one that carries nothing while its key has another such: one is enough to be kept warm, and what a burst
    /// has opened costs both ends memory.
    pub surplus_timeout: Duration,
    /// A connection that moves more than this is busy: new tunnels prefer another one, so that a small message does not
    /// queue behind a bulk transfer. Bytes per second.
    pub busy_rate: u64,
    /// Connections per key that busyness alone may open; full ones always open another.
    pub spread: usize,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            connection: Settings::client(),
            dial_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(300),
            surplus_timeout: Duration::from_secs(10),
            // A fifth of what one thread encrypts.
            busy_rate: 200 * 1024 * 1024,
            spread: 4,
        }
    }
}

impl PoolSettings {
    /// How often connections are looked after: seldom, unless a key has several.
    fn glance(&self, several: bool) -> Duration {
        let patience = if several { self.surplus_timeout.min(self.idle_timeout) } else { self.idle_timeout };
        (patience / 4).clamp(Duration::from_millis(100), Duration::from_secs(15))
    }
}

/// Why the pool gave no tunnel. In every case no byte of payload was delivered. `E` is the dial's own error, shared by
/// all who waited for that dial.
#[derive(Debug, thiserror::Error)]
pub enum OpenError<E: Error + 'static> {
    /// The dial failed.
    #[error("could not connect")]
    Dial {
        /// As the dial said it.
        #[source]
        source: Arc<E>,
    },
    /// The dial took too long.
    #[error("connection timed out after {after:?}")]
    DialTimedOut {
        /// What was allowed.
        after: Duration,
    },
    /// HTTP/2 could not begin.
    #[error("could not begin HTTP/2")]
    Handshake {
        /// As the handshake said it.
        #[source]
        source: Arc<HandshakeError>,
    },
    /// The key was closed while dialling.
    #[error("connection closed: {cause}")]
    Closed {
        /// As given to [`Pool::close`].
        cause: Cause,
    },
    /// The dial's task was dropped: the daemon shuts down.
    #[error("the dial was abandoned")]
    Abandoned,
    /// Others took the room of every connection that was dialled.
    #[error("no connection had room")]
    NoRoom,
    /// There was a connection, but no tunnel.
    #[error(transparent)]
    Connect(#[from] ConnectError),
}

/// A pool in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys with a connection or a dial.
    pub keys: usize,
    /// Connections held.
    pub connections: usize,
    /// Tunnels open or being opened on them.
    pub streams: usize,
    /// Dials under way.
    pub dialing: usize,
}

/// Connections by key; `E` is the error of its dials. Cheap to clone. Dropping the last clone lets the connections go:
/// each closes when its last tunnel does.
#[derive(Debug)]
pub struct Pool<K, E> {
    shared: Arc<Shared<K, E>>,
}

#[derive(Debug)]
struct Shared<K, E> {
    settings: PoolSettings,
    spawner: Spawner,
    state: Mutex<State<K, E>>,
}

#[derive(Debug)]
struct State<K, E> {
    entries: HashMap<K, Entry<E>>,
    /// A task looks after idle connections.
    tended: bool,
}

/// How often one call may find all room taken by others, or a connection that just ended, before it gives up.
const ROUNDS: usize = 8;

impl<K, E> Clone for Pool<K, E> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K, E> Pool<K, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    /// An empty pool. Dials and drivers run by `spawner`.
    pub fn new(settings: PoolSettings, spawner: Spawner) -> Self {
        let state = Mutex::new(State { entries: HashMap::new(), tended: false });
        Self { shared: Arc::new(Shared { settings, spawner, state }) }
    }

    /// Opens a tunnel on a connection of `key`, dialling one if none has room; returns it with the headers of the
    /// peer's 200. However many ask at once, a connection is dialled once for as many as it can carry, and the dial goes
    /// on if its caller is dropped. A pooled connection that turns out to be draining or dead costs another attempt, not
    /// an error. Cancel-safe.
    ///
    /// # Errors
    /// When the dial fails or the peer refuses. No byte of payload was delivered.
    pub async fn connect<D, F, S>(
        &self,
        key: &K,
        head: &Head,
        dial: D,
    ) -> Result<(Tunnel, HeaderMap), OpenError<E>>
    where
        D: Fn() -> F,
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut dialed, mut declined) = (false, false);
        for _ in 0..ROUNDS {
            let waiting = match self.pick(key) {
                Pick::Found(connection, permit) => {
                    let link = Arc::clone(connection.link());
                    match connection.connect_as(permit, head).await {
                        // Once: a peer that declines on a fresh connection too is for the caller to leave.
                        Err(error @ ConnectError::Unprocessed { .. }) if !declined => {
                            tracing::debug!(%error, "trying another connection");
                            declined = true;
                        }
                        Err(ConnectError::Lost { source }) if !dialed && link.is_ended() => {
                            tracing::debug!(error = %source, "pooled connection had died");
                        }
                        done => return Ok(done?),
                    }
                    self.retire(key, &link);
                    continue;
                }
                Pick::Wait(waiting) => waiting,
                Pick::Dial(waiting, begun) => {
                    self.begin(key.clone(), begun, dial());
                    waiting
                }
            };
            waiting.done().await?;
            dialed = true;
        }
        Err(OpenError::NoRoom)
    }

    /// Closes every connection whose key `chosen` names, those being dialled and those already let go included, at once
    /// and abruptly. Their copies end with `cause`, their waiters with [`OpenError::Closed`]. Returns how many it closed.
    pub fn close(&self, cause: Cause, mut chosen: impl FnMut(&K) -> bool) -> usize {
        let mut closed = 0;
        self.shared.state.lock().entries.retain(|key, entry| {
            let keep = !chosen(key);
            if !keep {
                closed += entry.close(cause);
            }
            keep
        });
        closed
    }

    /// The pool in numbers.
    pub fn stats(&self) -> Stats {
        let state = self.shared.state.lock();
        let mut stats = Stats { keys: state.entries.len(), ..Stats::default() };
        for entry in state.entries.values() {
            entry.count(&mut stats);
        }
        stats
    }

    fn pick(&self, key: &K) -> Pick<E> {
        let settings = &self.shared.settings;
        let mut state = self.shared.state.lock();
        match state.entries.get_mut(key) {
            Some(entry) => entry.pick(settings, Instant::now()),
            None => state.entries.entry(key.clone()).or_default().pick(settings, Instant::now()),
        }
    }

    fn retire(&self, key: &K, link: &Arc<Link>) {
        if let Some(entry) = self.shared.state.lock().entries.get_mut(key) {
            entry.retire(link);
        }
    }

    fn begin<F, S>(&self, key: K, mut begun: Begun<E>, dial: F)
    where
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = Arc::downgrade(&self.shared);
        let PoolSettings { connection, dial_timeout, .. } = self.shared.settings.clone();
        let spawner = self.shared.spawner.clone();
        self.shared.spawner.spawn("dial", async move {
            let made = async {
                let stream = dial.await.map_err(|source| DialFailure::Dial(Arc::new(source)))?;
                client::handshake(stream, &connection)
                    .await
                    .map_err(|error| DialFailure::Handshake(Arc::new(error)))
            };
            let made = tokio::select! {
                biased;
                cause = begun.abort.aborted() => Err(DialFailure::Closed(cause)),
                made = tokio::time::timeout(dial_timeout, made) => {
                    made.unwrap_or(Err(DialFailure::TimedOut(dial_timeout)))
                }
            };
            let outcome = made.map(|(connection, driver)| {
                spawner.spawn("connection", drive(driver));
                connection
            });
            if let Some(shared) = shared.upgrade() {
                shared.settle(&key, begun, outcome);
            }
        });
    }
}

async fn drive<S: AsyncRead + AsyncWrite + Unpin>(driver: Driver<S>) {
    match driver.await {
        Ended::Failed(error) => tracing::debug!(%error, "connection failed"),
        Ended::Broken(error) => tracing::debug!(%error, "connection broke"),
        ended @ (Ended::Finished | Ended::Closed(_) | Ended::Silent) => {
            tracing::debug!(?ended, "connection ended")
        }
    }
}

impl<K, E> Shared<K, E>
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    /// Puts a dial's outcome where the next caller finds it, then wakes those who waited.
    fn settle(self: &Arc<Self>, key: &K, begun: Begun<E>, outcome: Result<Connection, DialFailure<E>>) {
        let mut state = self.state.lock();
        // The entry has forgotten the dial when the key was closed meanwhile.
        let entry = state.entries.get_mut(key).and_then(|entry| entry.forget(&begun).then_some(entry));
        let outcome = match (outcome, entry) {
            (Ok(connection), Some(entry)) => {
                entry.add(connection, Instant::now());
                Ok(())
            }
            (Ok(connection), None) => {
                let cause = begun.abort.cause().unwrap_or(FORGOTTEN);
                connection.close(cause);
                Err(DialFailure::Closed(cause))
            }
            (Err(failure), _) => Err(failure),
        };
        if state.entries.get(key).is_some_and(Entry::is_empty) {
            state.entries.remove(key);
        }
        let tend = outcome.is_ok() && !std::mem::replace(&mut state.tended, true);
        drop(state);
        begun.announce(outcome);
        if tend {
            self.spawner.spawn("pool", tend_idle(Arc::downgrade(self)));
        }
    }

    /// Lets go of connections unused for long; says when to look again, if anything is left to look after.
    fn let_go_idle(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.entries.retain(|_, entry| {
            entry.let_go_idle(now, &self.settings);
            !entry.is_empty()
        });
        state.tended = !state.entries.is_empty();
        let surplus = state.entries.values().any(Entry::has_several);
        state.tended.then(|| self.settings.glance(surplus))
    }
}

/// Runs while the pool holds anything.
async fn tend_idle<K, E>(shared: Weak<Shared<K, E>>)
where
    K: Eq + Hash + Clone + Send + Sync + 'static,
    E: Error + Send + Sync + 'static,
{
    let mut pause = shared.upgrade().map(|shared| shared.settings.glance(false));
    while let Some(time) = pause {
        tokio::time::sleep(time).await;
        pause = shared.upgrade().and_then(|shared| shared.let_go_idle());
    }
}
