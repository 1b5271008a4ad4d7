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
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{AttachError, state::State};
use crate::{
    hooks::{self, HookError, Point},
    netns::{self, Interface},
};

/// Pods that may wait, each with one open descriptor. What does not fit stays with filters until it is attached again.
const QUEUE: usize = 256;
/// Pods come in bursts: a link waits until none has come for so long,
const LULL: Duration = Duration::from_secs(1);
/// but not longer than this.
const COURTESY: Duration = Duration::from_secs(30);

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
    traffic: Mutex<Traffic>,
    lull: Condvar,
}

/// Pods that are being attached.
#[derive(Debug, Default)]
struct Traffic {
    count: usize,
    last: Option<Instant>,
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
            traffic: Mutex::default(),
            lull: Condvar::new(),
        }
    }

    pub(super) fn attaching(&self) -> Attaching<'_> {
        self.traffic.lock().count += 1;
        Attaching(self)
    }

    /// Keeps links from being pinned meanwhile.
    pub(super) fn hold_pins(&self) -> MutexGuard<'_, ()> {
        self.pins.lock()
    }

    fn wait_for_lull(&self) {
        let deadline = Instant::now() + COURTESY;
        let mut traffic = self.traffic.lock();
        while let Some(left) = traffic.left(Instant::now(), deadline) {
            self.lull.wait_for(&mut traffic, left);
        }
    }

    fn exchange(&self, job: &Job) -> Result<(), AttachError> {
        let (mut ebpf, pins, points) = {
            let mut state = self.state.lock();
            let Some((held, programs)) = state.same(&job.uid, job.cookie) else {
                // It has left, and its filters are all that is left of it. The lock keeps others from coming there.
                return if state.is_captured(job.cookie) { Ok(()) } else { unfilter(job) };
            };
            let unlinked = held.unlinked(&job.interfaces)?;
            (programs.of_pod(held.identity()).map_err(HookError::from)?, held.pins.clone(), unlinked)
        };
        let mut one = |point: &Point| -> Result<(), AttachError> {
            self.wait_for_lull();
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

fn unfilter(job: &Job) -> Result<(), AttachError> {
    Ok(netns::inside(job.netns.as_fd(), || hooks::unfilter(&hooks::points(&job.interfaces)))??)
}

impl Drop for Attaching<'_> {
    fn drop(&mut self) {
        let mut traffic = self.0.traffic.lock();
        traffic.count -= 1;
        traffic.last = Some(Instant::now());
        self.0.lull.notify_all();
    }
}

impl Traffic {
    /// How long a link has to wait; none when it may come now.
    fn left(&self, now: Instant, deadline: Instant) -> Option<Duration> {
        let patience = deadline.checked_duration_since(now).filter(|patience| !patience.is_zero())?;
        if self.count > 0 {
            return Some(patience);
        }
        let quiet = now.duration_since(self.last?);
        LULL.checked_sub(quiet).filter(|left| !left.is_zero()).map(|left| left.min(patience))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_comes_in_a_lull_and_at_the_latest_when_patience_ends() {
        let start = Instant::now();
        let deadline = start + COURTESY;
        let traffic = |count, last| Traffic { count, last };
        assert_eq!(traffic(0, None).left(start, deadline), None);
        assert_eq!(traffic(1, None).left(start, deadline), Some(COURTESY));
        assert_eq!(traffic(0, Some(start)).left(start, deadline), Some(LULL));
        assert_eq!(traffic(0, Some(start)).left(start + LULL, deadline), None);
        assert_eq!(traffic(1, Some(start)).left(deadline, deadline), None);
    }
}
