// SPDX-License-Identifier: Apache-2.0
//! The certificates of the identities that this process acts for: asked for once whoever wants them, kept, and renewed at
//! half of their life. While the authority is away a valid certificate stays in use until its end.

mod renewal;
mod schedule;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh::SpiffeId;
use parking_lot::RwLock;
use tokio::sync::{Notify, watch};

use crate::{
    authority::{Authority, AuthorityError},
    certificate::{Certificate, CertificateError},
    key::KeyError,
};
use schedule::Schedule;

pub use renewal::Renewal;
pub use schedule::Priority;

/// Where the time of day comes from: certificates end by it.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> SystemTime;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// How to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentitiesSettings {
    /// How long certificates shall be valid; the authority may shorten it.
    pub validity: Duration,
    /// Requests at one time.
    pub concurrency: usize,
    /// When one request counts as failed.
    pub deadline: Duration,
}

impl Default for IdentitiesSettings {
    fn default() -> Self {
        Self { validity: Duration::from_secs(24 * 3600), concurrency: 8, deadline: Duration::from_secs(10) }
    }
}

/// How it stands with one identity.
#[derive(Clone, Debug)]
pub enum State {
    /// Asked for, no answer yet.
    Initializing,
    /// There is a certificate.
    Available(Arc<Certificate>),
    /// There is none, or none any more.
    Unavailable(Unavailable),
}

/// Why there is no certificate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("no certificate for {identity}")]
pub struct Unavailable {
    /// For whom.
    pub identity: SpiffeId,
    /// What happened at the last attempt.
    #[source]
    pub cause: Arc<FetchError>,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No key.
    #[error("cannot ask for a certificate")]
    Key(#[source] KeyError),
    /// The authority gave nothing.
    #[error("nothing was signed")]
    Authority(#[source] AuthorityError),
    /// The authority gave something else.
    #[error("what was issued cannot be used")]
    Certificate(#[source] CertificateError),
    /// The authority took too long.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// Nobody is interested any more: the identity was forgotten, or the renewal has stopped.
    #[error("the identity was forgotten")]
    Forgotten,
}

/// The certificates; cheap to clone, every clone is the same set.
#[derive(Clone)]
pub struct Identities {
    shared: Arc<Shared>,
}

/// One identity's certificate, whichever is current.
#[derive(Clone)]
pub struct Current {
    identity: SpiffeId,
    states: watch::Receiver<State>,
    clock: Arc<dyn Clock>,
}

struct Shared {
    book: RwLock<Book>,
    /// Something became due earlier than the renewal knows.
    wake: Notify,
    clock: Arc<dyn Clock>,
    authority: Arc<dyn Authority>,
    settings: IdentitiesSettings,
}

struct Book {
    states: HashMap<SpiffeId, watch::Sender<State>>,
    schedule: Schedule,
}

impl Identities {
    /// An empty set. Nothing is fetched unless the renewal runs.
    pub fn new(
        authority: Arc<dyn Authority>,
        settings: IdentitiesSettings,
        clock: Arc<dyn Clock>,
    ) -> (Self, Renewal) {
        let book = Book { states: HashMap::new(), schedule: Schedule::default() };
        let shared =
            Arc::new(Shared { book: RwLock::new(book), wake: Notify::new(), clock, authority, settings });
        (Self { shared: Arc::clone(&shared) }, Renewal::new(shared))
    }

    /// The certificate of an identity for a connection that waits for it: at once when there is a valid one, otherwise
    /// with the next answer of the authority. It asks soon even if earlier attempts failed. The caller sets the deadline.
    /// Cancel-safe.
    ///
    /// # Errors
    /// When the attempt fails.
    pub async fn certificate(&self, identity: &SpiffeId) -> Result<Arc<Certificate>, Unavailable> {
        if let Some(certificate) = self.cached(identity) {
            return Ok(certificate);
        }
        let mut states = self.want(identity, Priority::RealTime);
        loop {
            match &*states.borrow_and_update() {
                State::Available(certificate) if certificate.is_valid(self.shared.clock.now()) => {
                    return Ok(Arc::clone(certificate));
                }
                State::Unavailable(unavailable) => return Err(unavailable.clone()),
                State::Available(_) | State::Initializing => {}
            }
            if states.changed().await.is_err() {
                return Err(Unavailable {
                    identity: identity.clone(),
                    cause: Arc::new(FetchError::Forgotten),
                });
            }
        }
    }

    /// The certificate of an identity, if there is a valid one.
    pub fn cached(&self, identity: &SpiffeId) -> Option<Arc<Certificate>> {
        let book = self.shared.book.read();
        valid(&book.states.get(identity)?.borrow(), self.shared.clock.now())
    }

    /// Has the certificate of an identity fetched, unless there is one or it is on its way.
    pub fn prefetch(&self, identity: &SpiffeId, priority: Priority) {
        drop(self.want(identity, priority));
    }

    /// Follows the certificate of an identity through its renewals, from now until it is forgotten.
    pub fn follow(&self, identity: &SpiffeId) -> Current {
        let states = self.want(identity, Priority::Warmup);
        Current { identity: identity.clone(), states, clock: Arc::clone(&self.shared.clock) }
    }

    /// Drops the certificate of an identity and no longer renews it. Who waits for it gets an error; who follows it
    /// keeps the last one.
    pub fn forget(&self, identity: &SpiffeId) {
        let mut book = self.shared.book.write();
        book.schedule.remove(identity);
        book.states.remove(identity);
    }

    /// How it stands with every identity, sorted.
    pub fn states(&self) -> Vec<(SpiffeId, State)> {
        let book = self.shared.book.read();
        let states = book.states.iter().map(|(identity, state)| (identity.clone(), state.borrow().clone()));
        let mut states: Vec<_> = states.collect();
        drop(book);
        states.sort_by(|(left, _), (right, _)| left.cmp(right));
        states
    }

    /// Seconds until the first certificate expires, negative when one has; nothing when there is none.
    pub fn seconds_to_first_expiry(&self) -> Option<f64> {
        let now = self.shared.clock.now();
        let book = self.shared.book.read();
        let ends = book.states.values().filter_map(|state| match &*state.borrow() {
            State::Available(certificate) => Some(certificate.not_after()),
            State::Initializing | State::Unavailable(_) => None,
        });
        Some(match ends.min()?.duration_since(now) {
            Ok(left) => left.as_secs_f64(),
            Err(past) => -past.duration().as_secs_f64(),
        })
    }

    /// Follows the state of an identity and has it fetched if need be. What the receiver shows at first is never the
    /// failure of an attempt before this call.
    fn want(&self, identity: &SpiffeId, priority: Priority) -> watch::Receiver<State> {
        let now = self.shared.clock.now();
        // Every handshake comes by here, and nearly always there is a certificate: readers do not wait for each other.
        let book = self.shared.book.read();
        if let Some(sender) = book.states.get(identity)
            && valid(&sender.borrow(), now).is_some()
        {
            return sender.subscribe();
        }
        drop(book);
        let mut book = self.shared.book.write();
        let Book { states, schedule } = &mut *book;
        let sender =
            states.entry(identity.clone()).or_insert_with(|| watch::Sender::new(State::Initializing));
        let missing = valid(&sender.borrow(), now).is_none();
        if missing {
            schedule.want(identity, priority, now);
            if priority == Priority::RealTime {
                // An attempt follows, and its outcome is what the caller wants to hear.
                sender.send_replace(State::Initializing);
            }
        }
        let receiver = sender.subscribe();
        drop(book);
        if missing {
            self.shared.wake.notify_one();
        }
        receiver
    }
}

fn valid(state: &State, now: SystemTime) -> Option<Arc<Certificate>> {
    match state {
        State::Available(certificate) if certificate.is_valid(now) => Some(Arc::clone(certificate)),
        State::Available(_) | State::Initializing | State::Unavailable(_) => None,
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identities").field("states", &self.states()).finish_non_exhaustive()
    }
}

impl Current {
    /// Whose.
    pub fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The certificate, if there is a valid one now.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        valid(&self.states.borrow(), self.clock.now())
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.states.borrow().clone()
    }

    /// Waits until it stands differently; false when the identity was forgotten. Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        self.states.changed().await.is_ok()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current")
            .field("identity", &self.identity)
            .field("state", &*self.states.borrow())
            .finish()
    }
}

impl fmt::Display for State {
    /// As dumps show it: `Initializing`, `Available`, `Unavailable: <why>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initializing => f.write_str("Initializing"),
            Self::Available(_) => f.write_str("Available"),
            Self::Unavailable(unavailable) => {
                write!(f, "Unavailable: {}", unavailable.cause)?;
                let causes = std::iter::successors(std::error::Error::source(&*unavailable.cause), |error| {
                    error.source()
                });
                causes.into_iter().try_for_each(|cause| write!(f, ": {cause}"))
            }
        }
    }
}

#[cfg(test)]
mod tests;
