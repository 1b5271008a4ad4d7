// SPDX-License-Identifier: Apache-2.0
//! Whether an endpoint answers: after failures in a row it is set aside for a while, each time for longer.

use std::time::Duration;

/// When an endpoint is set aside, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Failures in a row; 0: never.
    pub failures: u32,
    /// The first time; grows by itself with each further one.
    pub first: Duration,
    /// The longest time.
    pub longest: Duration,
    /// Share of a service's endpoints that may be set aside at a time, in percent.
    pub most: u8,
}

impl Default for Limits {
    fn default() -> Self {
        Self { failures: 3, first: Duration::from_secs(2), longest: Duration::from_secs(30), most: 50 }
    }
}

/// What became of a request, as far as it tells something of the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered, whatever.
    Answered,
    /// It could not be reached, or broke off before it answered.
    Failed,
}

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct Health {
    failures: u32,
    times: u32,
    until: Duration,
}

impl Health {
    /// Notes an outcome; says whether the endpoint is set aside because of it.
    pub fn note(&mut self, outcome: Outcome, limits: &Limits, now: Duration) -> bool {
        match outcome {
            Outcome::Answered => {
                self.failures = 0;
                if !self.is_aside(now) {
                    self.times = 0;
                }
                false
            }
            Outcome::Failed => {
                self.failures = self.failures.saturating_add(1);
                if limits.failures == 0 || self.failures < limits.failures || self.is_aside(now) {
                    return false;
                }
                self.times = self.times.saturating_add(1);
                self.until = now + (limits.first * self.times).min(limits.longest);
                true
            }
        }
    }

    /// Leaves it alone until then: it said so itself. Never longer than the longest time.
    pub fn rest(&mut self, wish: Duration, limits: &Limits, now: Duration) {
        self.until = self.until.max(now + wish.min(limits.longest));
    }

    /// Until when it is set aside.
    pub fn until(&self) -> Duration {
        self.until
    }

    /// Whether it is set aside now. Afterwards one more failure is enough to set it aside again.
    pub fn is_aside(&self, now: Duration) -> bool {
        now < self.until
    }
}

/// Of the endpoints of a service that are set aside, with the time until when, those that are really left out: as many as may
/// be, those for longest first.
pub fn left_out<T>(limits: &Limits, endpoints: usize, mut aside: Vec<(T, Duration)>) -> Vec<T> {
    aside.sort_by_key(|(_, until)| std::cmp::Reverse(*until));
    aside.into_iter().take(allowance(limits, endpoints)).map(|(endpoint, _)| endpoint).collect()
}

/// How many of so many endpoints may be set aside: always one less than all.
pub fn allowance(limits: &Limits, endpoints: usize) -> usize {
    (endpoints * usize::from(limits.most) / 100).min(endpoints.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits =
        Limits { failures: 3, first: Duration::from_secs(2), longest: Duration::from_secs(5), most: 50 };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn failures_in_a_row_set_an_endpoint_aside_and_longer_each_time() {
        let mut health = Health::default();
        assert!(!health.note(Outcome::Failed, &LIMITS, at(1)));
        assert!(!health.note(Outcome::Answered, &LIMITS, at(1)));
        let outcomes: Vec<bool> = (0..3).map(|_| health.note(Outcome::Failed, &LIMITS, at(1))).collect();
        assert_eq!(outcomes, [false, false, true]);
        assert!(health.is_aside(at(2)) && !health.is_aside(at(3)));
        assert!(health.note(Outcome::Failed, &LIMITS, at(4)), "one more is enough");
        assert!(health.is_aside(at(7)) && !health.is_aside(at(8)));
        assert!(health.note(Outcome::Failed, &LIMITS, at(10)));
        assert!(health.is_aside(at(14)) && !health.is_aside(at(15)), "the longest time");
        health.note(Outcome::Answered, &LIMITS, at(20));
        let outcomes: Vec<bool> = (0..3).map(|_| health.note(Outcome::Failed, &LIMITS, at(21))).collect();
        assert_eq!(outcomes, [false, false, true]);
        assert!(!health.is_aside(at(23)), "the first time again");
    }

    #[test]
    fn an_endpoint_that_asks_for_rest_gets_it_within_bounds() {
        let mut health = Health::default();
        health.rest(at(3), &LIMITS, at(1));
        assert!(health.is_aside(at(3)) && !health.is_aside(at(4)));
        health.rest(at(3600), &LIMITS, at(10));
        assert!(health.is_aside(at(14)) && !health.is_aside(at(15)));
    }

    #[test]
    fn of_too_many_those_for_longest_are_left_out() {
        let aside = vec![("a", at(1)), ("b", at(3)), ("c", at(2))];
        assert_eq!(left_out(&LIMITS, 4, aside.clone()), ["b", "c"]);
        assert!(left_out(&LIMITS, 1, aside).is_empty());
    }

    #[test]
    fn never_all_are_set_aside() {
        let allowed = |endpoints| allowance(&LIMITS, endpoints);
        assert_eq!([0, 1, 2, 3, 10].map(allowed), [0, 0, 1, 1, 5]);
        assert_eq!(allowance(&Limits { most: 100, ..LIMITS }, 4), 3);
    }
}
