// SPDX-License-Identifier: Apache-2.0
//! How fast an endpoint answers: an average that forgets, and that believes a bad answer at once (peak EWMA).

use std::time::Duration;

/// After this a latency counts about a third.
const MEMORY: Duration = Duration::from_secs(10);
/// What is assumed of an endpoint that has not answered yet, so that it is neither avoided nor flooded.
const ASSUMED: Duration = Duration::from_millis(20);

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    seconds: f64,
    stamp: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self { seconds: ASSUMED.as_secs_f64(), stamp: Duration::ZERO }
    }
}

impl Latency {
    /// Notes how long an answer took.
    pub fn observe(&mut self, now: Duration, took: Duration) {
        let took = took.as_secs_f64();
        let first = self.stamp == Duration::ZERO;
        let past = self.weight(now);
        self.seconds =
            if first || took > self.seconds { took } else { self.seconds * past + took * (1.0 - past) };
        self.stamp = now;
    }

    /// The latency in seconds to be expected now: what is long ago fades, so that a slow endpoint gets another try.
    pub fn at(&self, now: Duration) -> f64 {
        const LEAST: f64 = 1e-6;
        if self.stamp == Duration::ZERO {
            return self.seconds;
        }
        (self.seconds * self.weight(now)).max(LEAST)
    }

    fn weight(&self, now: Duration) -> f64 {
        (-(now.saturating_sub(self.stamp).as_secs_f64() / MEMORY.as_secs_f64())).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut latency = Latency::default();
        assert_eq!(latency.at(SECOND), ASSUMED.as_secs_f64());
        latency.observe(SECOND, Duration::from_millis(1));
        assert!((latency.at(SECOND) - 0.001).abs() < 1e-9);
        latency.observe(SECOND * 2, Duration::from_millis(100));
        assert!((latency.at(SECOND * 2) - 0.1).abs() < 1e-9, "at once");
        assert!(latency.at(SECOND * 32) < 0.01, "30 s later");
        latency.observe(SECOND * 3, Duration::from_millis(1));
        let after = latency.at(SECOND * 3);
        assert!(after > 0.05 && after < 0.1, "one good answer does not outweigh it: {after}");
    }
}
