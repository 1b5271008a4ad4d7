// SPDX-License-Identifier: Apache-2.0
//! Which slot the next pod gets. A slot that was given back rests: a program that was running when its pod left must
//! have ended before another pod is entered there. Slots are handed out in turn, so that the rest is long.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ebpf_abi::MAX_PODS;

/// Programs run for microseconds.
const REST: Duration = Duration::from_secs(1);

/// The slots of a generation.
#[derive(Debug)]
pub(super) struct Slots {
    free: VecDeque<(u32, Option<Instant>)>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { free: (0..MAX_PODS).map(|slot| (slot, None)).collect() }
    }
}

impl Slots {
    /// Takes a slot that is known to be in use; false when it cannot be.
    pub(super) fn take(&mut self, slot: u32) -> bool {
        let place = self.free.iter().position(|&(free, _since)| free == slot);
        place.and_then(|place| self.free.remove(place)).is_some()
    }

    /// The next slot; none when all are taken or at rest.
    pub(super) fn next(&mut self) -> Option<u32> {
        self.next_at(Instant::now())
    }

    fn next_at(&mut self, now: Instant) -> Option<u32> {
        let &(slot, since) = self.free.front()?;
        if since.is_some_and(|since| now.duration_since(since) < REST) {
            return None;
        }
        self.free.pop_front();
        Some(slot)
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        self.give_back_at(slot, Instant::now());
    }

    fn give_back_at(&mut self, slot: u32, now: Instant) {
        self.free.push_back((slot, Some(now)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_was_given_back_comes_last() {
        let mut slots = Slots::default();
        let now = Instant::now();
        assert_eq!(slots.next_at(now), Some(0));
        slots.give_back_at(0, now);
        assert_eq!(slots.next_at(now), Some(1));
    }

    #[test]
    fn a_slot_rests_before_another_pod_gets_it() {
        let mut slots = Slots::default();
        let now = Instant::now();
        while slots.next_at(now).is_some() {}
        slots.give_back_at(7, now);
        assert_eq!(slots.next_at(now), None);
        assert_eq!(slots.next_at(now + REST), Some(7));
    }

    #[test]
    fn a_slot_in_use_is_not_given_twice() {
        let mut slots = Slots::default();
        assert!(slots.take(0));
        assert!(!slots.take(0));
        assert!(!slots.take(MAX_PODS));
        assert_eq!(slots.next_at(Instant::now()), Some(1));
    }
}
