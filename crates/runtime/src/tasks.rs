// SPDX-License-Identifier: Apache-2.0
//! Tasks with a name, an owner and an end: a group is asked to finish, given until a deadline, and then dropped.
//!
//! Groups nest (process → pod → connection): draining a group drains what is below it and nothing beside it. It does not
//! know what the tasks do.

mod guarded;
mod signal;

use std::{
    any::Any,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use guarded::Guarded;
use parking_lot::RwLock;
use signal::Signal;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    task::JoinHandle,
};

/// How long tasks that were dropped by force may take to notice, before they are reported as stuck.
const FORCE_GRACE: Duration = Duration::from_secs(1);

/// A group of tasks; cheap to clone, every clone is the same group.
#[derive(Clone)]
pub struct Tasks {
    group: Arc<Group>,
    runtime: Option<Handle>,
}

struct Group {
    owner: Arc<str>,
    parent: Option<Arc<Self>>,
    signals: Shutdown,
    live: AtomicUsize,
    empty: Notify,
    names: RwLock<Vec<(&'static str, Arc<AtomicUsize>)>>,
    failure: watch::Sender<Option<Failed>>,
}

/// The two signals of a group: please finish, and too late.
#[derive(Clone, Debug)]
pub struct Shutdown {
    requested: Signal,
    forced: Signal,
}

/// How a drain ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Tasks that had not finished at the deadline and were dropped: name and how many.
    pub forced: Vec<(&'static str, usize)>,
}

/// A vital task that ended although nobody asked it to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task {name} of {owner} {how}")]
pub struct Failed {
    /// Its group.
    pub owner: Arc<str>,
    /// Its name.
    pub name: &'static str,
    /// What it did instead of running on: `ended` or `panicked: ...`.
    pub how: String,
}

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TaskError {
    /// It panicked; the panic is in the log already.
    #[error("task {name} panicked: {message}")]
    Panicked {
        /// Its name.
        name: &'static str,
        /// What it said.
        message: String,
    },
    /// It was dropped: by force at the end of a drain, by `abort`, or with its runtime.
    #[error("task {name} was stopped")]
    Stopped {
        /// Its name.
        name: &'static str,
    },
}

/// A running task: await it for its result, or drop it to let the task run on alone.
pub struct Task<T> {
    name: &'static str,
    join: JoinHandle<Result<T, TaskError>>,
}

impl Tasks {
    /// The group of a whole process.
    pub fn new() -> Self {
        let signals = Shutdown { requested: Signal::new(), forced: Signal::new() };
        Self {
            group: Arc::new(Group::new("process".into(), None, signals, watch::Sender::new(None))),
            runtime: None,
        }
    }

    /// A group below this one, for what lives and ends together (a pod, a connection). It is asked to finish when this
    /// one is, and this one's drain waits for it.
    #[must_use]
    pub fn group(&self, owner: impl Into<Arc<str>>) -> Self {
        let signals = Shutdown {
            requested: self.group.signals.requested.child(),
            forced: self.group.signals.forced.child(),
        };
        let parent = Some(Arc::clone(&self.group));
        let group = Group::new(owner.into(), parent, signals, self.group.failure.clone());
        Self { group: Arc::new(group), runtime: self.runtime.clone() }
    }

    /// The same group, spawning on another runtime than the caller's.
    #[must_use]
    pub fn on(&self, runtime: Handle) -> Self {
        Self { group: Arc::clone(&self.group), runtime: Some(runtime) }
    }

    /// Starts a task. At the end of a drain it is dropped at its next await, so what must not be cut short listens to
    /// [`Tasks::shutdown`]. A panic is logged and is the task's result.
    ///
    /// Call it inside a runtime or on a group made with [`Tasks::on`].
    pub fn spawn<F>(&self, name: &'static str, future: F) -> Task<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let guarded = Guarded::new(Live::enter(&self.group, name), future);
        let join = match &self.runtime {
            Some(runtime) => runtime.spawn(guarded),
            None => Handle::current().spawn(guarded),
        };
        Task { name, join }
    }

    /// Starts a task without which the process is not doing its job: when it panics, or ends before anybody asked it
    /// to, [`Tasks::failed`] says so.
    pub fn spawn_vital(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Task<()> {
        let failure = self.group.failure.clone();
        let owner = Arc::clone(&self.group.owner);
        let requested = self.group.signals.requested.clone();
        self.spawn(name, async move {
            let how = match AssertUnwindSafe(future).catch_unwind().await {
                Ok(()) if requested.is_raised() => return,
                Ok(()) => "ended".to_owned(),
                Err(panic) => format!("panicked: {}", panic_message(panic.as_ref())),
            };
            let failed = Failed { owner, name, how };
            tracing::error!(error = %failed, "vital task failed");
            failure.send_if_modified(|first| {
                let unset = first.is_none();
                if unset {
                    *first = Some(failed);
                }
                unset
            });
        })
    }

    /// The signals of this group.
    pub fn shutdown(&self) -> Shutdown {
        self.group.signals.clone()
    }

    /// Resolves when the first vital task of the whole process has failed. Cancel-safe.
    pub async fn failed(&self) -> Failed {
        let mut failure = self.group.failure.subscribe();
        match failure.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(failed)) => failed.clone(),
            // The sender lives in the group, which `self` holds.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// How many tasks of this group, and of those below it, are running.
    pub fn running(&self) -> usize {
        self.group.live.load(Ordering::Acquire)
    }

    /// Asks the group to finish, waits for it, and drops what is left at the deadline. The group stays drained: what
    /// is spawned on it afterwards is dropped at once.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.group.signals.requested.raise();
        let finished = tokio::time::timeout(deadline, self.group.emptied()).await;
        let forced = if finished.is_ok() { Vec::new() } else { self.group.names() };
        self.group.signals.forced.raise();
        if !forced.is_empty() && tokio::time::timeout(FORCE_GRACE, self.group.emptied()).await.is_err() {
            tracing::warn!(owner = %self.group.owner, tasks = ?self.group.names(), "tasks do not stop");
        }
        Drained { forced }
    }
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("owner", &self.group.owner).field("running", &self.running()).finish()
    }
}

impl Shutdown {
    /// Resolves when the group is asked to finish. Cancel-safe.
    pub async fn requested(&self) {
        self.requested.raised().await;
    }

    /// Whether the group was asked to finish.
    pub fn is_requested(&self) -> bool {
        self.requested.is_raised()
    }
}

impl<T> Task<T> {
    /// Drops the task at its next await.
    pub fn abort(&self) {
        self.join.abort();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.join.is_finished()
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.join)
            .poll(context)
            .map(|joined| joined.unwrap_or(Err(TaskError::Stopped { name })))
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("finished", &self.is_finished()).finish()
    }
}

impl Group {
    fn new(
        owner: Arc<str>,
        parent: Option<Arc<Self>>,
        signals: Shutdown,
        failure: watch::Sender<Option<Failed>>,
    ) -> Self {
        Self {
            owner,
            parent,
            signals,
            live: AtomicUsize::new(0),
            empty: Notify::new(),
            names: RwLock::new(Vec::new()),
            failure,
        }
    }

    /// This group and those above it.
    fn lineage(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |group| group.parent.as_deref())
    }

    async fn emptied(&self) {
        loop {
            let notified = self.empty.notified();
            tokio::pin!(notified);
            // Registered before the count is read, or the last task could end in between.
            notified.as_mut().enable();
            if self.live.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    fn names(&self) -> Vec<(&'static str, usize)> {
        let names = self.names.read();
        let counted = names.iter().map(|(name, count)| (*name, count.load(Ordering::Relaxed)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    fn count(&self, name: &'static str) -> Arc<AtomicUsize> {
        let find = |names: &Vec<(&'static str, Arc<AtomicUsize>)>| {
            names.iter().find(|(known, _)| *known == name).map(|(_, count)| Arc::clone(count))
        };
        if let Some(count) = find(&self.names.read()) {
            return count;
        }
        let mut names = self.names.write();
        find(&names).unwrap_or_else(|| {
            let count = Arc::new(AtomicUsize::new(0));
            names.push((name, Arc::clone(&count)));
            count
        })
    }
}

/// Counts one task in its group and in those above, for as long as it lives.
struct Live {
    group: Arc<Group>,
    name: &'static str,
}

impl Live {
    fn enter(group: &Arc<Group>, name: &'static str) -> Self {
        for level in group.lineage() {
            level.live.fetch_add(1, Ordering::AcqRel);
            level.count(name).fetch_add(1, Ordering::Relaxed);
        }
        Self { group: Arc::clone(group), name }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for level in self.group.lineage() {
            level.count(self.name).fetch_sub(1, Ordering::Relaxed);
            if level.live.fetch_sub(1, Ordering::AcqRel) == 1 {
                level.empty.notify_waiters();
            }
        }
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests;
