// SPDX-License-Identifier: Apache-2.0
//! Exchanges the filters of freshly captured pods for links, on a thread of its own. Each link makes the kernel wait for a
//! grace period with its lock for all interfaces held; three of them would be most of what a pod costs, and thirty pods
//! that start at once would queue. So pods are captured by filters first, and links follow when no pod waits.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{AttachError, state::State};
use crate::{
    hooks::{self, HookError, Point},
    netns::{self, Interface},
};

/// Pods that may wait, each with one open descriptor. What does not fit stays with filters until it is attached again.
const QUEUE: usize = 256;
/// How long links give way to pods that are being attached.
const COURTESY: Duration = Duration::from_secs(2);

/// A pod that was captured by filters.
pub(super) struct Job {
    pub(super) uid: String,
    pub(super) cookie: u64,
    pub(super) netns: OwnedFd,
    pub(super) interfaces: Vec<Interface>,
}

/// What the thread and the verbs of [`super::Capture`] share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) state: Mutex<State>,
    /// Held while a link of a pod comes or its pins go, before `state`.
    pins: Mutex<()>,
    attaching: Mutex<usize>,
    idle: Condvar,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Exchange {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// As long as it lives, a pod is being attached.
pub(super) struct Attaching<'a>(&'a Shared);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            pins: Mutex::new(()),
            attaching: Mutex::new(0),
            idle: Condvar::new(),
        }
    }

    pub(super) fn attaching(&self) -> Attaching<'_> {
        *self.attaching.lock() += 1;
        Attaching(self)
    }

    /// Keeps links from being pinned meanwhile.
    pub(super) fn hold_pins(&self) -> MutexGuard<'_, ()> {
        self.pins.lock()
    }

    fn wait_until_idle(&self) {
        let mut attaching = self.attaching.lock();
        if *attaching > 0 {
            self.idle.wait_for(&mut attaching, COURTESY);
        }
    }

    fn exchange(&self, job: &Job) -> Result<(), AttachError> {
        let (mut ebpf, pins, points) = {
            let mut state = self.state.lock();
            let Some((held, programs)) = state.same(&job.uid, job.cookie) else { return Ok(()) };
            let unlinked = held.unlinked(&job.interfaces)?;
            (programs.of_pod(held.identity()).map_err(HookError::from)?, held.pins.clone(), unlinked)
        };
        let mut one = |point: &Point| -> Result<(), AttachError> {
            self.wait_until_idle();
            let _pins = self.hold_pins();
            // It may have left, or been released, while this waited.
            if self.state.lock().is_enrolled(&job.uid, job.cookie) {
                hooks::link(&mut ebpf, point, &pins)?;
                hooks::unfilter(std::slice::from_ref(point))?;
            }
            Ok(())
        };
        netns::inside(job.netns.as_fd(), || points.iter().try_for_each(&mut one))?
    }
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        let mut attaching = self.0.attaching.lock();
        *attaching -= 1;
        if *attaching == 0 {
            self.0.idle.notify_all();
        }
    }
}

impl Exchange {
    pub(super) fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, queue) = sync_channel(QUEUE);
        let shared = Arc::clone(shared);
        let thread =
            thread::Builder::new().name("capture-links".to_owned()).spawn(move || work(&shared, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    pub(super) fn queue(&self, job: Job) {
        if let Some(Err(error)) = self.jobs.as_ref().map(|jobs| jobs.try_send(job)) {
            tracing::warn!(%error, "a pod stays with filters for now");
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // Ends the thread after what it is at; the rest has its filters.
        drop(self.jobs.take());
        if let Some(Err(_panic)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the thread that makes links panicked");
        }
    }
}

fn work(shared: &Shared, queue: &Receiver<Job>) {
    for job in queue {
        match shared.exchange(&job) {
            Ok(()) => tracing::debug!(uid = job.uid, "captured by links"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(uid = job.uid, error, "a pod stays with filters for now");
            }
        }
    }
}
