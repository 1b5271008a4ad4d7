// SPDX-License-Identifier: Apache-2.0
//! Endpoints set aside for a while, because they refused or were slow a moment ago.
//!
//! Shared by all pods of the node: what one pod learned at its own cost, the others need not. An endpoint that is set
//! aside is still used when nothing else is left, so a whole service that was down comes back at once.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use mesh::WorkloadUid;
use parking_lot::RwLock;

/// After the first strike; doubles with each further one.
const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
/// Strikes older than this are forgotten.
const FORGIVEN: Duration = Duration::from_secs(120);
/// A connection that took longer to be made counts as a strike.
pub const SLOW: Duration = Duration::from_secs(2);
/// Endpoints remembered at most.
const CAPACITY: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Strikes {
    count: u32,
    until: Instant,
    last: Instant,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Aside {
    strikes: RwLock<HashMap<WorkloadUid, Strikes>>,
    /// So that the usual case, nobody set aside, takes no lock.
    count: AtomicUsize,
}

impl Aside {
    /// Notes that an endpoint refused or was slow.
    pub fn strike(&self, endpoint: &WorkloadUid, now: Instant) {
        let mut strikes = self.strikes.write();
        if strikes.len() >= CAPACITY {
            strikes.retain(|_endpoint, strikes| strikes.until > now);
        }
        if strikes.len() < CAPACITY {
            let entry =
                strikes.entry(endpoint.clone()).or_insert(Strikes { count: 0, until: now, last: now });
            if now.saturating_duration_since(entry.last) > FORGIVEN {
                entry.count = 0;
            }
            entry.until = now + (FIRST * 2_u32.saturating_pow(entry.count.min(8))).min(LONGEST);
            entry.count = entry.count.saturating_add(1);
            entry.last = now;
        }
        self.count.store(strikes.len(), Ordering::Relaxed);
    }

    /// Notes that an endpoint took a connection.
    pub fn forgive(&self, endpoint: &WorkloadUid) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut strikes = self.strikes.write();
        strikes.remove(endpoint);
        self.count.store(strikes.len(), Ordering::Relaxed);
    }

    /// Who is set aside now.
    pub fn held(&self, now: Instant) -> HashSet<WorkloadUid> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return HashSet::new();
        }
        let strikes = self.strikes.read();
        strikes
            .iter()
            .filter(|(_endpoint, strikes)| strikes.until > now)
            .map(|(uid, _)| uid.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> WorkloadUid {
        WorkloadUid::parse(text).unwrap()
    }

    fn holds(aside: &Aside, endpoint: &str, now: Instant) -> bool {
        aside.held(now).contains(&uid(endpoint))
    }

    #[test]
    fn a_refusing_endpoint_is_set_aside_longer_each_time() {
        let (aside, start) = (Aside::default(), Instant::now());
        assert!(!holds(&aside, "a", start));
        aside.strike(&uid("a"), start);
        assert!(holds(&aside, "a", start + FIRST / 2));
        assert!(!holds(&aside, "a", start + FIRST));
        aside.strike(&uid("a"), start + FIRST);
        assert!(holds(&aside, "a", start + FIRST * 2));
        assert!(!holds(&aside, "a", start + FIRST * 3));
        assert!(!holds(&aside, "b", start));
    }

    #[test]
    fn nobody_is_set_aside_longer_than_the_longest_time() {
        let (aside, start) = (Aside::default(), Instant::now());
        for _ in 0..40 {
            aside.strike(&uid("a"), start);
        }
        assert!(!holds(&aside, "a", start + LONGEST));
    }

    #[test]
    fn one_success_forgives() {
        let (aside, start) = (Aside::default(), Instant::now());
        aside.strike(&uid("a"), start);
        aside.forgive(&uid("a"));
        assert!(!holds(&aside, "a", start));
    }

    #[test]
    fn it_never_remembers_more_than_its_capacity() {
        let (aside, start) = (Aside::default(), Instant::now());
        for number in 0..CAPACITY + 10 {
            aside.strike(&uid(&number.to_string()), start);
        }
        assert_eq!(aside.strikes.read().len(), CAPACITY);
    }
}
