// SPDX-License-Identifier: Apache-2.0
//! How a watch goes, for whoever asks: readiness, status, metrics, and those who must not act on a stale picture.

use std::{sync::Arc, time::Instant};

use parking_lot::RwLock;

/// Where a watch is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It reads the list.
    #[default]
    Listing,
    /// It hears of changes.
    Live,
    /// The server does not know the kind.
    Absent,
    /// It tries to get back to the server.
    Failing,
}

impl Phase {
    /// In a word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listing => "listing",
            Self::Live => "live",
            Self::Absent => "absent",
            Self::Failing => "failing",
        }
    }
}

/// How a watch goes.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Where it is.
    pub phase: Phase,
    /// Since when.
    pub since: Instant,
    /// Objects, as of the last list or event.
    pub objects: usize,
    /// Lists that were read to their end.
    pub lists: u64,
    /// The last error, while it is failing.
    pub error: Option<String>,
}

/// A handle to the progress; cheap to clone.
#[derive(Clone, Debug)]
pub struct View(Arc<RwLock<Progress>>);

impl Default for View {
    fn default() -> Self {
        let progress =
            Progress { phase: Phase::Listing, since: Instant::now(), objects: 0, lists: 0, error: None };
        Self(Arc::new(RwLock::new(progress)))
    }
}

impl View {
    /// As it is now.
    pub fn progress(&self) -> Progress {
        self.0.read().clone()
    }

    /// An attempt begins. One after a failure stays a failure until it has worked.
    pub(super) fn listing(&self, is_list: bool) {
        let mut progress = self.0.write();
        if is_list && progress.phase == Phase::Live {
            progress.enter(Phase::Listing);
        }
    }

    /// The list is complete.
    pub(super) fn live(&self, objects: usize) {
        let mut progress = self.0.write();
        progress.objects = objects;
        progress.lists += 1;
        progress.enter(Phase::Live);
    }

    /// The server has answered a watch that goes on from an earlier list.
    pub(super) fn heard(&self, objects: usize) {
        let mut progress = self.0.write();
        progress.objects = objects;
        progress.enter(Phase::Live);
    }

    /// The server does not know the kind; says whether that is new.
    pub(super) fn absent(&self) -> bool {
        let mut progress = self.0.write();
        progress.objects = 0;
        let is_new = progress.phase != Phase::Absent;
        progress.enter(Phase::Absent);
        is_new
    }

    /// It has failed; says whether that is worth a line in the log: it is new, or another error.
    pub(super) fn failed(&self, error: &str) -> bool {
        let mut progress = self.0.write();
        let is_new = progress.error.as_deref() != Some(error);
        progress.enter(Phase::Failing);
        progress.error = Some(error.to_owned());
        is_new
    }
}

impl Progress {
    fn enter(&mut self, phase: Phase) {
        if self.phase != phase {
            self.phase = phase;
            self.since = Instant::now();
        }
        if phase != Phase::Failing {
            self.error = None;
        }
    }
}
