// SPDX-License-Identifier: Apache-2.0
//! How long to wait before the next attempt: doubling, with jitter, so that what lost the same server does not come back
//! at the same moment.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// It has worked: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        self.next = SHORTEST;
    }

    /// The wait after a failure.
    pub(crate) fn wait(&mut self) -> Duration {
        let wait = jitter(self.next);
        self.next = LONGEST.min(self.next * 2);
        wait
    }
}

/// A duration between half of this one and all of it.
pub(crate) fn jitter(longest: Duration) -> Duration {
    // Every RandomState has keys of its own.
    let random = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(u32::MAX);
    longest.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
