// SPDX-License-Identifier: Apache-2.0
//! Pods for which a step failed: when it is tried again, and whether there is anything new to say about it. Pure but for
//! the type of time.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{ledger::Step, pod::Uid};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(15);

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    by_uid: BTreeMap<Uid, Trouble>,
}

#[derive(Debug)]
struct Trouble {
    text: String,
    wait: Duration,
    again: Instant,
}

impl Troubles {
    /// It failed, once more; whether that is news.
    pub(super) fn again(&mut self, uid: &Uid, text: &str, now: Instant) -> bool {
        let before = self.by_uid.get(uid);
        let wait = before.map_or(FIRST, |trouble| LONGEST.min(trouble.wait * 2));
        // A pod that has just been made may not be found at once; that is worth no event.
        let told_before = before.is_some_and(|trouble| trouble.text == text && trouble.wait > FIRST * 2);
        let news = wait > FIRST * 2 && !told_before;
        self.by_uid.insert(uid.clone(), Trouble { text: text.to_owned(), wait, again: now + wait });
        news
    }

    /// It worked.
    pub(super) fn over(&mut self, uid: &Uid) {
        self.by_uid.remove(uid);
    }

    /// These steps are all that is left.
    pub(super) fn keep(&mut self, steps: &[Step]) {
        let uids: BTreeSet<_> = steps.iter().map(Step::uid).collect();
        self.by_uid.retain(|uid, _| uids.contains(uid));
    }

    /// Whether it is too early to try.
    pub(super) fn is_waiting(&self, uid: &Uid, now: Instant) -> bool {
        self.by_uid.get(uid).is_some_and(|trouble| trouble.again > now)
    }

    /// When the next one may be tried.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_uid.values().map(|trouble| trouble.again).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pod_waits_longer_each_time_and_says_each_thing_once() {
        let (mut troubles, uid, now) = (Troubles::default(), Uid::parse("a").unwrap(), Instant::now());
        let news: Vec<_> = (0..4).map(|_| troubles.again(&uid, "no memory", now)).collect();
        assert_eq!(news, [false, false, true, false]);
        assert!(troubles.again(&uid, "no netns", now), "something else");
        assert!(troubles.is_waiting(&uid, now) && !troubles.is_waiting(&uid, now + LONGEST));
        for _ in 0..20 {
            troubles.again(&uid, "no netns", now);
        }
        assert_eq!(troubles.next(), Some(now + LONGEST));
        troubles.keep(&[Step::Absent(uid.clone())]);
        troubles.over(&uid);
        assert_eq!(troubles.next(), None);
        troubles.again(&uid, "x", now);
        troubles.keep(&[]);
        assert!(!troubles.is_waiting(&uid, now));
    }
}
