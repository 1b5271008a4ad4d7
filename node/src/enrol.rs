// SPDX-License-Identifier: Apache-2.0
//! Who is captured on this node: the handle through which a pod is added, removed and listed, whoever asks (today the
//! local API and the start of the agent; the CNI plugin and the watcher of Kubernetes use the same three verbs).
//! `ladder` decides, `steps` does; here a pod has one climb at a time and different pods do not wait for each other.

mod error;
pub mod ladder;
mod places;
mod steps;

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use runtime::{Shutdown, Tasks};
use tokio::sync::watch;

pub use self::{
    error::{AddError, RemoveError},
    steps::StepError,
};
use self::{
    ladder::{Action, Departure, Ladder, Rung, Turn},
    places::{Occupied, Places},
    steps::{Held, Shared, Steps},
};
use crate::{
    capture::Capture,
    chain::Chain,
    metrics::{self, Label},
    netns::{Netns, NetnsId, OpenError},
    pod::{Pod, Uid},
    record::{FolderError, Intent, Record, RecordError, Records},
    zds::Announcements,
};

/// How long an add waits for a ztunnel: two answers' deadlines, so that one lost link does not fail it.
const ADD_PATIENCE: Duration = Duration::from_secs(10);
/// How often pods that left are looked at; what is left of them costs a map entry and a folder.
const SWEEP: Duration = Duration::from_secs(30);

/// The pods of this node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Enrolment {
    steps: Arc<Steps>,
    places: Places,
    tasks: Tasks,
}

/// Where a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Captured, and served by a ztunnel.
    Enrolled,
    /// On its way, or captured and without a ztunnel: it has no traffic.
    Pending(String),
    /// Something must be repaired; what is captured stays captured.
    Failed(String),
}

/// A pod in the list.
#[derive(Clone, Debug)]
pub struct Status {
    /// As it was asked for.
    pub pod: Pod,
    /// Its namespace.
    pub netns: NetnsId,
    /// Where it is.
    pub state: State,
}

/// Tells of changes of [`Enrolment::list`].
#[derive(Debug)]
pub struct Changes {
    turns: watch::Receiver<u64>,
    served: watch::Receiver<u64>,
}

impl Changes {
    /// Waits until something may be otherwise than when this was asked last. Cancel-safe.
    pub async fn next(&mut self) {
        tokio::select! {
            Ok(()) = self.turns.changed() => {}
            Ok(()) = self.served.changed() => {}
            // Nobody is left who could change anything.
            else => std::future::pending().await,
        }
    }
}

impl Enrolment {
    /// No pods yet.
    pub fn new(
        records: Records,
        capture: Capture,
        announcements: Announcements,
        proc_sys: &Path,
        tasks: Tasks,
    ) -> Self {
        let steps = Arc::new(Steps { records, capture, announcements, proc_sys: proc_sys.into() });
        Self { steps, places: Places::default(), tasks }
    }

    /// Captures a pod and waits until a ztunnel serves it. Asking again is harmless; another namespace under the same
    /// uid replaces the first. The work goes on when the future is dropped.
    ///
    /// # Errors
    /// When it is not served; the error says whether it is captured.
    pub async fn add(&self, pod: Pod) -> Result<(), AddError> {
        let started = Instant::now();
        let this = self.clone();
        let work = self.tasks.spawn("enrol", async move { this.enrol(pod).await });
        let result = work.await.map_err(AddError::Stopped)?;
        let outcome = match &result {
            Ok(()) => Label::Enrolled,
            Err(AddError::Pending(_)) => Label::Pending,
            Err(_) => Label::Failed,
        };
        metrics::added(outcome, started.elapsed());
        result
    }

    /// Releases a pod: no ztunnel serves it, nothing captures it, its namespace is as it was.
    ///
    /// # Errors
    /// When it is unknown or a step fails.
    pub async fn remove(&self, uid: &Uid) -> Result<(), RemoveError> {
        let (this, uid) = (self.clone(), uid.clone());
        let work = self.tasks.spawn("release", async move { this.release(&uid).await });
        work.await.map_err(RemoveError::Stopped)?
    }

    /// Forgets a pod whose sandbox is being taken down: nothing runs in it any more. Unknown is as good as done.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn end(&self, uid: &Uid) -> Result<(), RemoveError> {
        self.finish_apart(uid, Evidence::Told).await
    }

    /// Forgets a pod if its namespace is gone.
    ///
    /// # Errors
    /// When a step fails.
    pub async fn end_if_gone(&self, uid: &Uid) -> Result<(), RemoveError> {
        self.finish_apart(uid, Evidence::Look).await
    }

    /// Every pod, by uid; not those that left and live on.
    pub fn list(&self) -> Vec<Status> {
        let held = self.places.list().into_iter().filter(|held| !held.left);
        held.map(|held| Status { state: self.state(&held), netns: held.id, pod: held.pod }).collect()
    }

    /// Tells of changes of the list from now on.
    pub fn changes(&self) -> Changes {
        Changes { turns: self.places.changes(), served: self.steps.announcements.changes() }
    }

    /// What is on disk about pods; a damaged record does not hide the others.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn records(&self) -> Result<Vec<Result<Record, RecordError>>, FolderError> {
        self.steps.records.load()
    }

    /// The programs of this node.
    pub fn capture(&self) -> &Capture {
        &self.steps.capture
    }

    /// Takes over what an agent before this one has left: pods that are still there are announced and repaired, what is
    /// left of others is cleaned up. To be finished before the first ztunnel connects, or it would drop the pods that
    /// its snapshot lacks.
    pub async fn adopt(&self, records: Vec<Record>) {
        self.for_each("adopt", records, |this, record| async move { this.adopt_one(record).await }).await;
    }

    /// Clears away what an agent before this one has left. What is listed afterwards could not be.
    pub async fn discard(&self, records: Vec<Record>) {
        self.for_each("discard", records, |this, record| async move { this.discard_one(record).await }).await;
    }

    /// Cleans up pods that have ended without anybody saying so, until asked to finish.
    pub async fn sweep(self, shutdown: Shutdown) {
        while tokio::time::timeout(SWEEP, shutdown.requested()).await.is_err() {
            for held in self.places.list().into_iter().filter(is_gone) {
                // It has logged why it cannot, and is asked again.
                drop(self.finish(&held.pod.uid, Evidence::Look).await);
            }
        }
    }

    /// All at once; a failure of one is in its own status.
    async fn for_each<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        records: Vec<Record>,
        work: impl Fn(Self, Record) -> F,
    ) {
        let started: Vec<_> =
            records.into_iter().map(|record| self.tasks.spawn(name, work(self.clone(), record))).collect();
        for task in started {
            if let Err(error) = task.await {
                tracing::error!(%error, "a recorded pod was given up");
            }
        }
    }

    fn state(&self, held: &Held) -> State {
        match (&held.trouble, held.standing) {
            (Some(trouble), _) => State::Failed(trouble.clone()),
            (None, Some(Rung::Announced)) => match self.steps.announcements.served(&held.pod.uid) {
                Ok(()) => State::Enrolled,
                Err(unserved) => State::Pending(unserved.to_string()),
            },
            (None, _) => State::Pending("being enrolled or released".to_owned()),
        }
    }

    async fn enrol(&self, pod: Pod) -> Result<(), AddError> {
        let netns = Netns::open(&pod.netns).map_err(AddError::Netns)?;
        let place = self.places.occupy(&pod.uid).await;
        let before = place.held();
        let held = match decide(before.as_ref().map(|held| held.id), netns.id()) {
            Decision::Fresh => Held::new(pod, netns),
            Decision::Again => {
                let before = before.as_ref();
                let survey = before.and_then(|held| held.survey.clone());
                let standing = before.and_then(|held| held.standing);
                Held { survey, standing, ..Held::new(pod, netns) }
            }
            Decision::Replace => {
                tracing::info!(%pod, "the pod has a new network namespace");
                if let Some(before) = before {
                    let departure = departure(&before, Departure::Cleared);
                    self.descend(&place, before, departure)
                        .await
                        .map_err(|(failed, source)| AddError::Stuck { failed, source })?;
                }
                Held::new(pod, netns)
            }
        };
        place.reserve(held.clone()).map_err(|other| AddError::Shared { other })?;
        self.climb(&place, held, ADD_PATIENCE).await
    }

    async fn release(&self, uid: &Uid) -> Result<(), RemoveError> {
        let place = self.places.occupy(uid).await;
        let mut held = place.held().filter(|held| !held.left).ok_or(RemoveError::Unknown)?;
        if held.netns.is_none() {
            held.netns = reopen(&held).map_err(RemoveError::Netns)?;
        }
        let departure = departure(&held, Departure::LivesOn);
        let result = self.descend(&place, held, departure).await;
        metrics::released(&result);
        result.map_err(|(failed, source)| RemoveError::Stuck { failed, source })
    }

    /// In a task of its own, which goes on when whoever asked has left.
    async fn finish_apart(&self, uid: &Uid, evidence: Evidence) -> Result<(), RemoveError> {
        let (this, uid) = (self.clone(), uid.clone());
        let work = self.tasks.spawn("end", async move { this.finish(&uid, evidence).await });
        work.await.map_err(RemoveError::Stopped)?
    }

    async fn finish(&self, uid: &Uid, evidence: Evidence) -> Result<(), RemoveError> {
        let place = self.places.occupy(uid).await;
        let Some(held) = place.held() else { return Ok(()) };
        if evidence == Evidence::Look && !is_gone(&held) {
            return Ok(());
        }
        let result = self.descend(&place, held, Departure::Ended).await;
        metrics::released(&result);
        result.map_err(|(failed, source)| RemoveError::Stuck { failed, source })
    }

    async fn adopt_one(&self, record: Record) {
        let place = self.places.occupy(&record.pod.uid).await;
        let intent = record.intent;
        let mut held = Held::recorded(record, None, Rung::Announced);
        match reopen(&held) {
            Ok(Some(netns)) => {
                held.netns = Some(netns);
                match intent {
                    Intent::Stay => {
                        // Known to ztunnel before the repair, whose failure must not cost the pod its connections.
                        self.steps.announcements.announce_later(held.workload());
                        drop(self.climb(&place, held, Duration::ZERO).await);
                    }
                    Intent::Leave => drop(self.descend(&place, held, Departure::LivesOn).await),
                }
            }
            Ok(None) => drop(self.descend(&place, held, Departure::Ended).await),
            Err(error) => {
                if intent == Intent::Stay {
                    self.steps.announcements.announce_later(held.workload());
                }
                keep(&place, held, &error);
            }
        }
    }

    async fn discard_one(&self, record: Record) {
        let place = self.places.occupy(&record.pod.uid).await;
        let mut held = Held::recorded(record, None, Rung::Announced);
        match reopen(&held) {
            Ok(netns) => {
                held.netns = netns;
                let departure = departure(&held, Departure::Cleared);
                drop(self.descend(&place, held, departure).await);
            }
            Err(error) => keep(&place, held, &error),
        }
    }

    async fn climb(&self, place: &Occupied, held: Held, patience: Duration) -> Result<(), AddError> {
        let ladder = Ladder::up(held.standing);
        let (mut held, end) = self.run(place, held, ladder, patience).await;
        let result = match end {
            Turn::Pending(source) => Err(AddError::Pending(source)),
            Turn::Undone { failed, error, undone } => Err(AddError::Undone { failed, undone, source: error }),
            Turn::Stuck { failed, error, before } => {
                let (failed, source) = before.unwrap_or((failed, error));
                Err(AddError::Stuck { failed, source })
            }
            Turn::Enrolled | Turn::Released | Turn::Removed | Turn::Do(_) => Ok(()),
        };
        match &result {
            Ok(()) => {
                tracing::info!(pod = %held.pod, "enrolled")
            }
            Err(AddError::Pending(error)) => {
                tracing::info!(pod = %held.pod, error = %Chain(error), "captured, not served yet");
            }
            Err(error) => {
                tracing::error!(pod = %held.pod, error = %Chain(error), "not enrolled");
                held.trouble = Some(Chain(error).to_string());
            }
        }
        settle(place, held);
        result
    }

    async fn descend(
        &self,
        place: &Occupied,
        mut held: Held,
        departure: Departure,
    ) -> Result<(), (Action, Shared)> {
        if let Err(error) = self.steps.mark_leaving(&held) {
            tracing::warn!(pod = %held.pod, error = %Chain(&error), "a restart now would capture the pod again");
        }
        held.trouble = None;
        // Of a pod that left and has ended, the namespace's number may belong to another by now: it stays no claim on it.
        held.left &= matches!(departure, Departure::Ended);
        let ladder = Ladder::down(held.standing, departure);
        let (mut held, end) = self.run(place, held, ladder, Duration::ZERO).await;
        let result = match end {
            Turn::Stuck { failed, error, .. } => {
                let trouble = format!("cannot {}: {}", failed.words(), Chain(&error));
                tracing::error!(pod = %held.pod, error = %trouble, "not released");
                held.trouble = Some(trouble);
                Err((failed, error))
            }
            Turn::Do(_)
            | Turn::Enrolled
            | Turn::Pending(_)
            | Turn::Undone { .. }
            | Turn::Released
            | Turn::Removed => {
                tracing::info!(pod = %held.pod, ?departure, "released");
                Ok(())
            }
        };
        settle(place, held);
        result
    }

    async fn run(
        &self,
        place: &Occupied,
        mut held: Held,
        mut ladder: Ladder<Shared>,
        patience: Duration,
    ) -> (Held, Turn<Shared>) {
        loop {
            match ladder.turn() {
                Turn::Do(action) => {
                    tracing::debug!(pod = %held.pod, ?action, "enrolment step");
                    match self.steps.perform(&mut held, action, patience).await {
                        Ok(()) => ladder.done(),
                        Err(error) => ladder.failed(Arc::new(error)),
                    }
                    held.standing = ladder.standing();
                    place.set(held.clone());
                }
                end => return (held, end),
            }
        }
    }
}

/// Why a pod is believed to have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Evidence {
    /// The runtime says so.
    Told,
    /// Its namespace is not there any more.
    Look,
}

/// What a request means for what is known under the same uid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing is known.
    Fresh,
    /// The same pod, asked for again.
    Again,
    /// The pod got another namespace; what was done in the first one goes first.
    Replace,
}

fn decide(known: Option<NetnsId>, asked: NetnsId) -> Decision {
    match known {
        None => Decision::Fresh,
        Some(known) if known == asked => Decision::Again,
        Some(_) => Decision::Replace,
    }
}

/// How a pod goes down: as wanted, where its namespace is at hand.
fn departure(held: &Held, wanted: Departure) -> Departure {
    if held.netns.is_some() { wanted } else { Departure::Ended }
}

/// Notes how a climb left a pod. Of one that lives on outside the mesh the namespace is not held open.
fn settle(place: &Occupied, held: Held) {
    match held.standing {
        None => place.clear(),
        Some(Rung::Recorded) if held.trouble.is_none() => place.set(Held { netns: None, left: true, ..held }),
        Some(_) => place.set(held),
    }
}

fn keep(place: &Occupied, mut held: Held, error: &OpenError) {
    tracing::warn!(pod = %held.pod, error = %Chain(error), "the pod is kept as it is");
    held.trouble = Some(Chain(error).to_string());
    place.set(held);
}

/// The namespace of a recorded pod, if it is still the one that was recorded. An error means: it may be.
fn reopen(held: &Held) -> Result<Option<Netns>, OpenError> {
    let path = &held.pod.netns;
    let found = match Netns::open(path) {
        Ok(netns) => Some(netns).filter(|netns| netns.id() == held.id),
        Err(OpenError::Gone { .. } | OpenError::NotANamespace { .. } | OpenError::Node { .. }) => None,
        Err(error @ OpenError::Unreadable { .. }) => return Err(error),
    };
    // The process by which it was found has ended, and the pod may have others.
    if found.is_none() && path.starts_with("/proc") {
        return Err(OpenError::Gone { path: path.clone() });
    }
    Ok(found)
}

fn is_gone(held: &Held) -> bool {
    matches!(reopen(held), Ok(None))
}

#[cfg(test)]
mod tests;
