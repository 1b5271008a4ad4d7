// SPDX-License-Identifier: Apache-2.0
//! One kind of object, followed for as long as the process runs: a list, then its changes, into a bounded queue.
//!
//! ```text
//!   streaming list ──(refused)──► paged list
//!        │ end of the list             │
//!        └──────────► live ◄───────────┘
//!             expired: list again · broken: go on from the last version · 404: absent, asked for again and again
//! ```
//! What is kept of an object is its name. A slow receiver slows the reading, and so the server.

mod body;
mod known;
mod paged;
mod progress;
mod reader;

use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use self::{
    known::Known,
    reader::{Ended, Reader},
};
pub use self::{
    known::Name,
    progress::{Phase, Progress, View},
};
use crate::{
    api::Api,
    backoff::{Backoff, jitter},
    resource::{Resource, Within},
};

/// How often is asked for a kind that the server does not have.
const ABSENT: Duration = Duration::from_secs(2);
/// The longest wait before a server that could not be reached is tried again: its return is to be seen soon.
const UNREACHED: Duration = Duration::from_secs(2);
/// Objects of a kind that the server suddenly does not know stay in force this long: an API server that starts may
/// not have all of its kinds yet.
const VANISHED: Duration = Duration::from_secs(30);

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, `spec.ports[0].port`; empty when it is not known.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// Something happened to the objects of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<T> {
    /// An object is there, like this.
    Applied(T),
    /// An object is there and cannot be read.
    Broken {
        /// Which.
        name: Name,
        /// Why not.
        problems: Vec<Problem>,
        /// As the server has it.
        json: String,
    },
    /// An object is gone.
    Deleted(Name),
    /// Everything that was there when the list was made has been told, and what had gone too.
    Synced,
    /// The server does not know the kind: there are no objects of it.
    Absent,
}

/// An event with the kind that it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened<K, T> {
    /// The watch's tag.
    pub of: K,
    /// What happened.
    pub event: Event<T>,
}

/// What to watch.
#[derive(Clone, Debug)]
pub struct Watch<K> {
    /// Comes with every event.
    pub tag: K,
    /// The kind, under the versions that are accepted, the preferred one first.
    pub resources: Vec<Resource>,
    /// Which of its objects.
    pub within: Within,
    /// Only objects with these fields, `spec.nodeName=a`.
    pub fields: Option<String>,
    /// Only objects with these labels, `app=a,track`.
    pub labels: Option<String>,
    /// Where others see how it goes.
    pub view: View,
}

/// Why a watch came to its end: nobody listens any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Unheard;

/// Reads an object as a type; without the field of an error.
///
/// # Errors
/// When it is not of the type.
pub fn json<T: DeserializeOwned>(text: &str) -> Result<T, Vec<Problem>> {
    serde_json::from_str(text)
        .map_err(|error| vec![Problem { field: String::new(), message: error.to_string() }])
}

impl<K: Clone> Watch<K> {
    /// A watch of all objects of a kind.
    pub fn new(tag: K, resources: impl IntoIterator<Item = Resource>) -> Self {
        let resources = resources.into_iter().collect();
        Self { tag, resources, within: Within::Cluster, fields: None, labels: None, view: View::default() }
    }

    /// Watches until nobody takes the events any more. Whoever drops this future ends the watch. `parse` reads one
    /// object from JSON.
    pub async fn run<T>(
        self,
        api: Api,
        parse: impl Fn(&str) -> Result<T, Vec<Problem>>,
        events: mpsc::Sender<Happened<K, T>>,
    ) {
        let mut running = Running {
            watch: &self,
            api: &api,
            parse: &parse,
            events: &events,
            known: Known::default(),
            version: None,
            streaming: true,
            resource: 0,
        };
        let _unheard = running.forever().await;
    }
}

/// A watch that runs.
struct Running<'a, K, T, P> {
    watch: &'a Watch<K>,
    api: &'a Api,
    parse: &'a P,
    events: &'a mpsc::Sender<Happened<K, T>>,
    known: Known,
    /// From where changes are still to come; `None`: a list is needed.
    version: Option<String>,
    /// Whether the server has streaming lists.
    streaming: bool,
    /// Which of the watch's resources the server has.
    resource: usize,
}

impl<K: Clone, T, P: Fn(&str) -> Result<T, Vec<Problem>>> Running<'_, K, T, P> {
    async fn forever(&mut self) -> Result<(), Unheard> {
        let mut backoff = Backoff::new();
        let mut vanished: Option<tokio::time::Instant> = None;
        loop {
            self.watch.view.listing(self.version.is_none());
            let mut reader = Reader::default();
            let ended = self.once(&mut reader).await?;
            if reader.worked {
                backoff.reset();
                vanished = None;
            }
            let wait = match ended {
                Ended::Closed if reader.worked => Duration::ZERO,
                Ended::Closed => backoff.wait(),
                Ended::Expired => {
                    tracing::debug!(kind = self.plural(), "the watch has expired, the list is read again");
                    self.version = None;
                    if reader.worked { Duration::ZERO } else { backoff.wait() }
                }
                Ended::NoStreaming(error) => {
                    tracing::info!(kind = self.plural(), %error, "no streaming lists here, pages are read");
                    self.streaming = false;
                    Duration::ZERO
                }
                Ended::Failed(error) if error.is_absent() => {
                    self.version = None;
                    let since = *vanished.get_or_insert_with(tokio::time::Instant::now);
                    self.absent(since.elapsed() >= VANISHED).await?
                }
                Ended::Failed(error) => {
                    let wait = backoff.wait();
                    let wait = if error.code().is_none() { wait.min(jitter(UNREACHED)) } else { wait };
                    self.failed(&error, wait);
                    wait
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.events.closed() => return Err(Unheard),
            }
        }
    }

    /// The server does not have the resource: another version of it, or none.
    async fn absent(&mut self, for_long: bool) -> Result<Duration, Unheard> {
        let tried = self.resource + 1;
        self.resource = tried % self.watch.resources.len().max(1);
        if self.resource != 0 {
            return Ok(Duration::ZERO);
        }
        let wait = jitter(ABSENT);
        if !self.known.is_empty() {
            if !for_long {
                self.watch.view.failed("the API server no longer knows the kind");
                return Ok(wait);
            }
            tracing::warn!(
                kind = self.plural(),
                objects = self.known.len(),
                "the kind is gone with its objects"
            );
            self.known.begin();
            self.sweep().await?;
        }
        if self.watch.view.absent() {
            tracing::info!(kind = self.plural(), "the API server does not know the kind, it is waited for");
            self.tell(Event::Absent).await?;
        }
        Ok(wait)
    }

    fn failed(&self, error: &crate::error::ApiError, retry: Duration) {
        let cause = std::error::Error::source(error).map(chain);
        let kind = self.plural();
        let text = cause.as_ref().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
        if !self.watch.view.failed(&text) {
            return;
        }
        if error.code() == Some(403) {
            tracing::error!(kind, %error, ?retry, "may not be read: the role needs the verbs list and watch for it");
        } else {
            tracing::warn!(kind, error = text, ?retry, "watch failed, what is known stays in force");
        }
    }

    /// Tells that what the last list did not have is gone.
    async fn sweep(&mut self) -> Result<(), Unheard> {
        for name in self.known.sweep() {
            self.tell(Event::Deleted(name)).await?;
        }
        Ok(())
    }

    async fn synced(&mut self) -> Result<(), Unheard> {
        self.sweep().await?;
        self.watch.view.live(self.known.len());
        self.tell(Event::Synced).await
    }

    /// One object as it is.
    async fn object(&mut self, object: &str) -> Result<Option<String>, Unheard> {
        let Some((name, version)) = known::identify(object) else {
            tracing::error!(kind = self.plural(), "an object without a name is left out");
            return Ok(None);
        };
        let event = match (self.parse)(object) {
            Ok(object) => Event::Applied(object),
            Err(problems) => Event::Broken { name: name.clone(), problems, json: object.to_owned() },
        };
        self.known.insert(name);
        self.tell(event).await?;
        Ok(version)
    }

    async fn tell(&self, event: Event<T>) -> Result<(), Unheard> {
        let happened = Happened { of: self.watch.tag.clone(), event };
        self.events.send(happened).await.map_err(|_closed| Unheard)
    }

    fn resource(&self) -> Resource {
        self.watch.resources.get(self.resource).copied().unwrap_or(Resource::core("unknown"))
    }

    fn plural(&self) -> &'static str {
        self.resource().plural
    }

    fn path(&self, query: &str) -> String {
        let only = |name: &str, selector: Option<&String>| {
            selector.map(|text| format!("&{name}={}", crate::resource::encode(text))).unwrap_or_default()
        };
        let fields = only("fieldSelector", self.watch.fields.as_ref());
        let labels = only("labelSelector", self.watch.labels.as_ref());
        format!("{}?{query}{fields}{labels}", self.resource().path(&self.watch.within))
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
