// SPDX-License-Identifier: Apache-2.0
//! Who is captured on this node: the handle through which a pod is added, removed and listed, whoever asks (today the
//! local API and the start of the agent; the CNI plugin and the watcher of Kubernetes use the same three verbs).
//! `ladder` decides, `steps` does; here a pod has one climb at a time and different pods do not wait for each other.

pub mod ladder;
mod places;
mod steps;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use runtime::{TaskError, Tasks};

pub use self::steps::StepError;
use self::{
    ladder::{Action, Ladder, Rung, Turn},
    places::{Occupied, Places},
    steps::{Held, Shared, Steps},
};
use crate::{
    capture::Capture,
    chain::Chain,
    metrics::{self, Label},
    netns::{Netns, NetnsId, OpenError},
    pod::{Pod, Uid},
    record::{Intent, Record, Records},
    zds::Announcements,
};

/// How long an add waits for a ztunnel: two answers' deadlines, so that one lost link does not fail it.
const ADD_PATIENCE: Duration = Duration::from_secs(10);

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

/// Why a pod was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its namespace is none that can be captured. Nothing was changed.
    #[error("the pod's network namespace cannot be used")]
    Netns(#[source] OpenError),
    /// Two pods in one namespace cannot be told apart. Nothing was changed.
    #[error("the network namespace belongs to the pod {other} already")]
    Shared {
        /// The pod that has it.
        other: Uid,
    },
    /// It is captured, but has no traffic yet; the agent goes on trying.
    #[error("the pod is captured, but not served yet")]
    Pending(#[source] Shared),
    /// A step failed; everything before it was taken back.
    #[error("cannot {}; undone: {}", failed.words(), list(undone))]
    Undone {
        /// Which step.
        failed: Action,
        /// What was taken back.
        undone: Vec<Action>,
        /// Why.
        #[source]
        source: Shared,
    },
    /// A step failed and the pod stays as it is.
    #[error("cannot {}; the pod stays as it is", failed.words())]
    Stuck {
        /// Which step.
        failed: Action,
        /// Why.
        #[source]
        source: Shared,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped(#[source] TaskError),
}

/// Why a pod was not released.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such pod.
    #[error("the pod is not enrolled on this node")]
    Unknown,
    /// A step failed; removing it again goes on from there.
    #[error("cannot {}; remove the pod again to go on from there", failed.words())]
    Stuck {
        /// Which step.
        failed: Action,
        /// Why.
        #[source]
        source: Shared,
    },
    /// Whether it is still there cannot be said.
    #[error("the pod's network namespace cannot be opened")]
    Netns(#[source] OpenError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped(#[source] TaskError),
}

impl Enrolment {
    /// No pods yet.
    pub fn new(records: Records, capture: Capture, announcements: Announcements, tasks: Tasks) -> Self {
        let steps = Arc::new(Steps { records, capture, announcements });
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

    /// Every pod, by uid.
    pub fn list(&self) -> Vec<Status> {
        let held = self.places.list().into_iter();
        held.map(|held| Status { state: self.state(&held), netns: held.id, pod: held.pod }).collect()
    }

    /// The programs of this node.
    pub fn capture(&self) -> &Capture {
        &self.steps.capture
    }

    /// Takes over what an agent before this one has left: pods that are still there are announced and repaired, what is
    /// left of others is cleaned up. To be finished before the first ztunnel connects, or it would drop the pods that
    /// its snapshot lacks.
    pub async fn adopt(&self, records: Vec<Record>) {
        let adoptions = records.into_iter().map(|record| {
            let this = self.clone();
            self.tasks.spawn("adopt", async move { this.adopt_one(record).await })
        });
        // All of them run at once; a failure of one is in its own status.
        for adoption in adoptions.collect::<Vec<_>>() {
            if let Err(error) = adoption.await {
                tracing::error!(%error, "a recorded pod was not adopted");
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
                tracing::info!(uid = %pod.uid, "the pod has a new network namespace");
                if let Some(before) = before {
                    self.descend(&place, before)
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
        let mut held = place.held().ok_or(RemoveError::Unknown)?;
        if held.netns.is_none() {
            held.netns = reopen(&held).map_err(RemoveError::Netns)?;
        }
        let result = self.descend(&place, held).await;
        metrics::released(&result);
        result.map_err(|(failed, source)| RemoveError::Stuck { failed, source })
    }

    async fn adopt_one(&self, record: Record) {
        let place = self.places.occupy(&record.pod.uid).await;
        let leaving = record.intent == Intent::Leave;
        let mut held = Held::recorded(record, None, Rung::Announced);
        match reopen(&held) {
            Ok(Some(netns)) if !leaving => {
                held.netns = Some(netns);
                // Known to ztunnel before the repair, which may fail, and must not cost the pod its connections then.
                self.steps.announcements.announce_later(held.workload());
                drop(self.climb(&place, held, Duration::ZERO).await);
            }
            Ok(netns) => {
                held.netns = netns;
                tracing::info!(uid = %held.pod.uid, "the pod is gone or was leaving, cleaning up");
                drop(self.descend(&place, held).await);
            }
            Err(error) => {
                tracing::warn!(uid = %held.pod.uid, error = %Chain(&error), "the pod is kept as it is");
                self.steps.announcements.announce_later(held.workload());
                held.trouble = Some(Chain(&error).to_string());
                place.set(held);
            }
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
            Turn::Enrolled | Turn::Removed | Turn::Do(_) => Ok(()),
        };
        match &result {
            Ok(()) => {
                tracing::info!(pod = %held.pod.name, namespace = %held.pod.namespace, uid = %held.pod.uid, "enrolled")
            }
            Err(AddError::Pending(error)) => {
                tracing::info!(pod = %held.pod.name, namespace = %held.pod.namespace, uid = %held.pod.uid, error = %Chain(error), "captured, not served yet");
            }
            Err(error) => {
                tracing::error!(pod = %held.pod.name, namespace = %held.pod.namespace, uid = %held.pod.uid, error = %Chain(error), "not enrolled");
                held.trouble = Some(Chain(error).to_string());
            }
        }
        let left = held.standing.is_some();
        if left {
            place.set(held)
        } else {
            place.clear()
        }
        result
    }

    async fn descend(&self, place: &Occupied, mut held: Held) -> Result<(), (Action, Shared)> {
        if let Err(error) = self.steps.mark_leaving(&held) {
            tracing::warn!(uid = %held.pod.uid, error = %Chain(&error), "an agent that starts before this is done would capture the pod again");
        }
        held.trouble = None;
        let ladder = Ladder::down(held.standing, held.reach());
        let (mut held, end) = self.run(place, held, ladder, Duration::ZERO).await;
        let Turn::Stuck { failed, error, .. } = end else {
            tracing::info!(pod = %held.pod.name, namespace = %held.pod.namespace, uid = %held.pod.uid, "released");
            place.clear();
            return Ok(());
        };
        let trouble = format!("cannot {}: {}", failed.words(), Chain(&error));
        tracing::error!(pod = %held.pod.name, namespace = %held.pod.namespace, uid = %held.pod.uid, error = %trouble, "not released");
        held.trouble = Some(trouble);
        place.set(held);
        Err((failed, error))
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
                    tracing::debug!(uid = %held.pod.uid, ?action, "enrolment step");
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

/// The namespace of a recorded pod, if it is still the one that was recorded. An error means: it may be.
fn reopen(held: &Held) -> Result<Option<Netns>, OpenError> {
    match Netns::open(&held.pod.netns) {
        Ok(netns) => Ok((netns.id() == held.id).then_some(netns)),
        Err(OpenError::Gone { .. } | OpenError::NotANamespace { .. } | OpenError::Node { .. }) => Ok(None),
        Err(error @ OpenError::Unreadable { .. }) => Err(error),
    }
}

fn list(actions: &[Action]) -> String {
    actions.iter().map(|action| action.words()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
