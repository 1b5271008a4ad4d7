// SPDX-License-Identifier: Apache-2.0
//! When which identity is asked for next: what a live connection waits for first, then what was announced, then what only
//! grows old; after failures with growing pauses. No clock and no randomness: both are given.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use mesh::SpiffeId;

/// First pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(150);
/// Part of a pause that is left to chance, to either side.
const JITTER: f64 = 0.2;
/// A live connection waits no longer than this after a failure: it is not let down by pauses of minutes that were meant
/// for nobody in particular.
const LIVE_PAUSE: Duration = Duration::from_secs(1);
/// Shortest time between two renewals, should an authority issue what is nearly over.
const SHORTEST_LIFE: Duration = Duration::from_millis(500);

/// How urgent a certificate is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// The one in use grows old.
    Background,
    /// Somebody will want it soon.
    Warmup,
    /// A connection waits for it.
    RealTime,
}

#[derive(Debug, Default)]
pub(super) struct Schedule {
    entries: HashMap<SpiffeId, Entry>,
    generation: u64,
}

#[derive(Debug)]
struct Entry {
    /// Tells a forgotten identity from the same one wanted again.
    generation: u64,
    priority: Priority,
    due: SystemTime,
    /// When `due` was decided: a clock that shows less was set back, and `due` means nothing any more.
    decided: SystemTime,
    /// In a row.
    failures: u32,
    running: bool,
}

/// One attempt that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) identity: SpiffeId,
    generation: u64,
}

impl Schedule {
    /// Somebody wants an identity that has no valid certificate.
    pub(super) fn want(&mut self, identity: &SpiffeId, priority: Priority, now: SystemTime) {
        let generation = self.generation;
        let entry = self.entries.entry(identity.clone()).or_insert_with(|| {
            self.generation += 1;
            Entry { generation, priority, due: now, decided: now, failures: 0, running: false }
        });
        entry.priority = entry.priority.max(priority);
        if priority == Priority::RealTime {
            let soon = if entry.failures == 0 { now } else { entry.decided + LIVE_PAUSE };
            entry.due = entry.due.min(soon);
        }
    }

    pub(super) fn remove(&mut self, identity: &SpiffeId) {
        self.entries.remove(identity);
    }

    /// Starts the most urgent attempt of those that are due; among equals the one that was due first.
    pub(super) fn start(&mut self, now: SystemTime) -> Option<Attempt> {
        let due = self.entries.iter_mut().filter(|(_, entry)| !entry.running && entry.is_due(now));
        let (identity, entry) = due.min_by(|(_, left), (_, right)| {
            right.priority.cmp(&left.priority).then(left.due.cmp(&right.due))
        })?;
        entry.running = true;
        Some(Attempt { identity: identity.clone(), generation: entry.generation })
    }

    /// How long until the next attempt is due; nothing when none is planned.
    pub(super) fn next(&self, now: SystemTime) -> Option<Duration> {
        let waiting = self.entries.values().filter(|entry| !entry.running);
        let pauses = waiting.map(|entry| {
            if entry.is_due(now) { Duration::ZERO } else { entry.due.duration_since(now).unwrap_or_default() }
        });
        pauses.min()
    }

    /// An attempt brought a certificate that is valid during `life`. False when nobody wants it any more.
    pub(super) fn succeeded(
        &mut self,
        attempt: &Attempt,
        life: (SystemTime, SystemTime),
        now: SystemTime,
    ) -> bool {
        let Some(entry) = self.ended(attempt) else { return false };
        let (not_before, not_after) = life;
        // Authorities date certificates back a little for the sake of slow clocks; of a short life that may be all.
        let start = if midpoint(not_before, not_after) > now { not_before } else { now };
        entry.due = midpoint(start, not_after).min(not_after).max(now + SHORTEST_LIFE);
        entry.decided = now;
        entry.failures = 0;
        entry.priority = Priority::Background;
        true
    }

    /// An attempt failed; `expiry` is the end of the certificate that is in use, `chance` a random number from -1 to 1.
    /// False when nobody wants it any more.
    pub(super) fn failed(
        &mut self,
        attempt: &Attempt,
        expiry: Option<SystemTime>,
        chance: f64,
        now: SystemTime,
    ) -> bool {
        let Some(entry) = self.ended(attempt) else { return false };
        let doubled = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(entry.failures));
        let pause =
            doubled.min(LONGEST_PAUSE).mul_f64(1.0 + JITTER * chance.clamp(-1.0, 1.0)).min(LONGEST_PAUSE);
        let ahead = expiry.filter(|expiry| *expiry > now);
        entry.due = ahead.map_or(now + pause, |expiry| expiry.min(now + pause));
        entry.decided = now;
        entry.failures = entry.failures.saturating_add(1);
        // Whoever waited was told; a connection that still cares asks again.
        entry.priority = if ahead.is_some() { Priority::Background } else { Priority::Warmup };
        true
    }

    fn ended(&mut self, attempt: &Attempt) -> Option<&mut Entry> {
        let entry =
            self.entries.get_mut(&attempt.identity).filter(|entry| entry.generation == attempt.generation)?;
        entry.running = false;
        Some(entry)
    }
}

impl Entry {
    fn is_due(&self, now: SystemTime) -> bool {
        now >= self.due || now < self.decided
    }
}

fn midpoint(start: SystemTime, end: SystemTime) -> SystemTime {
    start + end.duration_since(start).unwrap_or_default() / 2
}

#[cfg(test)]
mod tests;
