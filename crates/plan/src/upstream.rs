// SPDX-License-Identifier: Apache-2.0
//! Which of the endpoints that a balancer proposes is the better one: by what it has shown so far. Pure: time is given as
//! what has passed since any fixed moment.

pub mod health;
pub mod latency;

use std::time::Duration;

use self::{health::Health, latency::Latency};

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// Of two at random the one with the lower product of latency and requests under way.
    #[default]
    PeakEwma,
    /// Of two at random the one with fewer requests under way.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
}

/// What is known of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// How fast it answers.
    pub latency: Latency,
    /// Whether it answers.
    pub health: Health,
    /// Requests under way.
    pub in_flight: u32,
    /// When it was first seen.
    pub since: Duration,
}

/// A new endpoint gets its full share after this; before, one that grows with its age.
pub const SLOW_START: Duration = Duration::from_secs(10);
/// The least share of a new endpoint.
const LEAST_SHARE: f64 = 0.1;

impl Standing {
    /// One that was first seen now.
    pub fn new(now: Duration) -> Self {
        Self { since: now, ..Self::default() }
    }

    /// What one more request would cost it; less is better.
    pub fn cost(&self, algorithm: Algorithm, now: Duration) -> f64 {
        let waiting = f64::from(self.in_flight) + 1.0;
        let cost = match algorithm {
            Algorithm::PeakEwma => self.latency.at(now) * waiting,
            Algorithm::LeastRequest => waiting,
            Algorithm::RoundRobin | Algorithm::Random => 1.0,
        };
        cost / self.share(now)
    }

    fn share(&self, now: Duration) -> f64 {
        let age = now.saturating_sub(self.since);
        (age.as_secs_f64() / SLOW_START.as_secs_f64()).clamp(LEAST_SHARE, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_secs(1000);

    fn seen(in_flight: u32, latency: Duration) -> Standing {
        let mut standing = Standing { in_flight, ..Standing::default() };
        standing.latency.observe(MOMENT, latency);
        standing
    }

    #[test]
    fn the_faster_and_the_less_busy_one_is_cheaper() {
        let cost = |standing: &Standing| standing.cost(Algorithm::PeakEwma, MOMENT);
        let fast = seen(0, Duration::from_millis(1));
        assert!(cost(&fast) < cost(&seen(0, Duration::from_millis(5))));
        assert!(cost(&fast) < cost(&seen(3, Duration::from_millis(1))));
        let busy = seen(3, Duration::from_millis(1));
        assert!(cost(&busy) < cost(&seen(0, Duration::from_millis(100))), "busy but fast");
        let least = |standing: &Standing| standing.cost(Algorithm::LeastRequest, MOMENT);
        assert!(least(&busy) > least(&seen(2, Duration::from_secs(1))));
    }

    #[test]
    fn a_new_endpoint_is_dearer_until_it_has_warmed_up() {
        let new = Standing::new(MOMENT);
        let at = |after: u64| new.cost(Algorithm::LeastRequest, MOMENT + Duration::from_secs(after));
        assert_eq!(at(0), 10.0);
        assert_eq!(at(5), 2.0);
        assert_eq!(at(10), 1.0);
        assert_eq!(at(60), 1.0);
    }
}
