// SPDX-License-Identifier: Apache-2.0
//! The keys of all issuers that authentications name: read where they are inline, else fetched, and fetched again after a
//! while, or when a token names a key that is not among them. Until there are newer ones the last good ones are used.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arcstr::ArcStr;
use mesh::l7::authentication::{JwtRule, Keys};
use parking_lot::Mutex;
use runtime::{Shutdown, Tasks};
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use xds::Replica;

use super::{
    fetch::{FetchError, Fetcher},
    keys::KeySet,
    token::Invalid,
};

/// Keys that are older are fetched again.
pub const REFRESH: Duration = Duration::from_secs(20 * 60);
/// Nobody makes us fetch more often than this.
pub const PAUSE: Duration = Duration::from_secs(10);
/// After a failure, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Where keys come from.
type Source = (ArcStr, Keys);

/// See the module.
#[derive(Debug, Default)]
pub struct Keyring {
    slots: Mutex<HashMap<Source, Arc<Slot>>>,
    /// Somebody needs keys that nobody fetches yet.
    news: Notify,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct Slot {
    state: watch::Sender<State>,
    /// A token names a key that is not among them.
    wanted: Notify,
    stop: CancellationToken,
    is_tended: Mutex<bool>,
}

/// What is known of an issuer's keys.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// The last good ones.
    pub keys: Option<Arc<KeySet>>,
    /// How often they were asked for, with whatever success.
    pub rounds: u64,
    /// When that was last.
    pub last: Option<Instant>,
}

impl Keyring {
    /// The slot of a rule, which is made if it is not there.
    pub fn slot(&self, rule: &JwtRule) -> Arc<Slot> {
        let source = (rule.issuer.clone(), rule.keys.clone());
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&source) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::new(&rule.keys));
        slots.insert(source, Arc::clone(&slot));
        self.news.notify_one();
        slot
    }

    /// Fetches what is named, and forgets what is not any more, until asked to finish.
    pub async fn tend(self: Arc<Self>, replica: Replica, fetcher: Fetcher, tasks: Tasks, shutdown: Shutdown) {
        let mut touches = replica.touches();
        loop {
            self.follow(&replica, &tasks, &fetcher);
            loop {
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = self.news.notified() => break,
                    touched = touches.next() => if touched.authentications { break },
                }
            }
        }
    }

    fn follow(&self, replica: &Replica, tasks: &Tasks, fetcher: &Fetcher) {
        let rules: Vec<JwtRule> = replica
            .read(|index| index.authentications().flat_map(|found| found.rules.iter().cloned()).collect());
        for rule in &rules {
            drop(self.slot(rule));
        }
        let mut slots = self.slots.lock();
        slots.retain(|(issuer, keys), slot| {
            let is_named = rules.iter().any(|rule| rule.issuer == *issuer && rule.keys == *keys);
            if !is_named {
                slot.stop.cancel();
            }
            is_named
        });
        for ((issuer, keys), slot) in slots.iter() {
            let is_fetched = !matches!(keys, Keys::Inline(_));
            if is_fetched && !std::mem::replace(&mut *slot.is_tended.lock(), true) {
                let keeping = keep(Arc::clone(slot), issuer.clone(), keys.clone(), fetcher.clone());
                let (stop, shutdown) = (slot.stop.clone(), tasks.shutdown());
                drop(tasks.spawn("keys", async move {
                    tokio::select! {
                        () = keeping => {}
                        () = stop.cancelled() => {}
                        () = shutdown.requested() => {}
                    }
                }));
            }
        }
    }
}

impl Slot {
    fn new(keys: &Keys) -> Self {
        let mut state = State::default();
        if let Keys::Inline(text) = keys {
            state = State { keys: KeySet::parse(text.as_bytes()).ok().map(Arc::new), rounds: 1, last: None };
        }
        Self {
            state: watch::Sender::new(state),
            wanted: Notify::new(),
            stop: CancellationToken::new(),
            is_tended: Mutex::new(false),
        }
    }

    /// What is known now.
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until keys were asked for once.
    pub async fn begun(&self, timeout: Duration) -> State {
        self.after(0, timeout).await
    }

    /// Asks for newer keys than those of a state; the state itself when that is not due, or does not come in time.
    pub async fn newer(&self, than: &State, timeout: Duration) -> Option<State> {
        let is_due = self.state.borrow().last.is_some_and(|last| last.elapsed() >= PAUSE);
        let has_come = self.state.borrow().rounds > than.rounds;
        if !is_due && !has_come {
            return None;
        }
        if !has_come {
            self.wanted.notify_one();
        }
        let state = self.after(than.rounds, timeout).await;
        (state.rounds > than.rounds).then_some(state)
    }

    async fn after(&self, rounds: u64, timeout: Duration) -> State {
        let mut following = self.state.subscribe();
        let waited = following.wait_for(|state| state.rounds > rounds);
        match tokio::time::timeout(timeout, waited).await {
            Ok(Ok(state)) => state.clone(),
            Ok(Err(_)) | Err(_) => self.state(),
        }
    }

    fn put(&self, found: Option<KeySet>) {
        self.state.send_modify(|state| {
            if let Some(keys) = found {
                state.keys = Some(Arc::new(keys));
            }
            state.rounds += 1;
            state.last = Some(Instant::now());
        });
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum Lacking {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what is there is no set of keys: {0}")]
    Keys(Invalid),
    #[error("the issuer does not say where its keys are")]
    Undiscovered,
}

async fn keep(slot: Arc<Slot>, issuer: ArcStr, keys: Keys, fetcher: Fetcher) {
    let mut retry = FIRST_RETRY;
    loop {
        let found = fetch(&issuer, &keys, &fetcher).await;
        let outcome = if found.is_ok() { "fetched" } else { "failed" };
        metrics::counter!("ambit_jwks_fetches_total", "outcome" => outcome).increment(1);
        let pause = match found {
            Ok(found) => {
                tracing::debug!(issuer = issuer.as_str(), keys = found.len(), "keys fetched");
                slot.put(Some(found));
                retry = FIRST_RETRY;
                REFRESH
            }
            Err(error) => {
                let error = ::proxy::chain(&error).to_string();
                tracing::warn!(
                    issuer = issuer.as_str(),
                    error,
                    ?retry,
                    "keys not fetched: the last good ones are used"
                );
                slot.put(None);
                let pause = retry;
                retry = (retry * 2).min(LAST_RETRY);
                pause
            }
        };
        // A token that names an unknown key hastens it, but not by more than the pause between two.
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = async {
                tokio::time::sleep(PAUSE.min(pause)).await;
                slot.wanted.notified().await;
            } => {}
        }
    }
}

async fn fetch(issuer: &str, keys: &Keys, fetcher: &Fetcher) -> Result<KeySet, Lacking> {
    let document = match keys {
        Keys::Inline(text) => return KeySet::parse(text.as_bytes()).map_err(Lacking::Keys),
        Keys::At { uri, timeout } => fetcher.get(uri, *timeout).await?,
        Keys::Discovered { timeout } => {
            let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let configuration = fetcher.get(&place, *timeout).await?;
            let configuration: Value =
                serde_json::from_slice(&configuration).map_err(|_broken| Lacking::Undiscovered)?;
            let uri = configuration.get("jwks_uri").and_then(Value::as_str).ok_or(Lacking::Undiscovered)?;
            fetcher.get(uri, *timeout).await?
        }
    };
    KeySet::parse(&document).map_err(Lacking::Keys)
}
