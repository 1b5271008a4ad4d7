// SPDX-License-Identifier: Apache-2.0
//! How the watches go, for status, metrics and those who must not act on a stale picture.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use kubernetes::{Phase, Progress, View};
use serde::Serialize;

use super::kinds::watched;
use crate::objects::Kind;

/// A watch that is opened again from where it was is out for less.
const BRIEF: Duration = Duration::from_secs(15);

/// The watches of a cluster; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClusterView {
    watches: Arc<[(Kind, View)]>,
}

/// One watch as `/status` shows it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ShownWatch {
    kind: &'static str,
    phase: &'static str,
    seconds: u64,
    objects: usize,
    lists: u64,
    error: Option<String>,
}

impl ClusterView {
    pub(super) fn new() -> Self {
        Self { watches: watched().map(|kind| (kind, View::default())).collect() }
    }

    pub(super) fn of(&self, kind: Kind) -> View {
        let found = self.watches.iter().find(|(other, _)| *other == kind);
        found.map(|(_, view)| view.clone()).unwrap_or_default()
    }

    /// Every watch.
    pub(crate) fn shown(&self) -> Vec<ShownWatch> {
        let shown = |(kind, view): &(Kind, View)| {
            let Progress { phase, since, objects, lists, error } = view.progress();
            let seconds = since.elapsed().as_secs();
            ShownWatch { kind: kind.as_str(), phase: phase.as_str(), seconds, objects, lists, error }
        };
        self.watches.iter().map(shown).collect()
    }

    /// Kinds whose picture is old: their watch has been failing for more than a moment.
    pub(crate) fn stale(&self) -> Vec<&'static str> {
        let stale = self.watches.iter().filter(|(_, view)| is_stale(&view.progress()));
        stale.map(|(kind, _)| kind.as_str()).collect()
    }

    /// Whether what is known of a kind is what there is, but for a moment.
    pub(crate) fn is_current(&self, kind: Kind) -> bool {
        !is_stale(&self.of(kind).progress())
    }
}

fn is_stale(progress: &Progress) -> bool {
    progress.phase == Phase::Failing && Instant::now().duration_since(progress.since) > BRIEF
}
