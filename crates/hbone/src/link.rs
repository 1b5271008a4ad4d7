// SPDX-License-Identifier: Apache-2.0
//! What a connection's driver and its tunnels share: why it ended, how many streams it carries, how much it moves.

use crate::end::Cause;
use crate::window::STEP;
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Context;

/// Why a connection ended other than by the peer's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Closed(Cause),
    Silent,
}

#[derive(Debug, Default)]
pub(crate) struct Link {
    fate: OnceLock<Fate>,
    ended: AtomicBool,
    driver: AtomicWaker,
    streams: AtomicUsize,
    moved: AtomicU64,
    held: AtomicU64,
}

impl Link {
    /// Ends the connection at once; the first fate counts. Tunnels stop at their next poll, and the driver wakes them.
    pub(crate) fn end(&self, fate: Fate) -> bool {
        let first = self.fate.set(fate).is_ok();
        self.driver.wake();
        first
    }

    pub(crate) fn fate(&self) -> Option<Fate> {
        self.fate.get().copied()
    }

    /// The driver's part: to be woken by [`Self::end`].
    pub(crate) fn poll_fate(&self, cx: &Context<'_>) -> Option<Fate> {
        self.driver.register(cx.waker());
        self.fate()
    }

    pub(crate) fn mark_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire) || self.fate.get().is_some()
    }

    pub(crate) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Bytes that went over the wire in both directions, without what TLS adds.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Bytes that tunnels have received and not yet credited.
    pub(crate) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    pub(crate) fn hold(&self, count: usize) {
        let before = self.held.fetch_add(count as u64, Ordering::Relaxed);
        if before / STEP != (before + count as u64) / STEP {
            // The driver is to widen the connection's window.
            self.driver.wake();
        }
    }

    pub(crate) fn let_go(&self, count: u64) {
        self.held.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn add_moved(&self, bytes: usize) {
        // Only the driver writes: a plain store spares the locked instruction.
        self.moved.store(self.moved() + bytes as u64, Ordering::Relaxed);
    }
}

/// One stream's place on a connection, counted from before it is opened until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit(Arc<Link>);

impl Permit {
    pub(crate) fn new(link: &Arc<Link>) -> Self {
        link.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(link))
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
