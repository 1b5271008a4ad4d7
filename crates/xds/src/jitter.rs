// SPDX-License-Identifier: Apache-2.0
//! Randomness that needs no seed and no secrecy: proxies that lost the same server must not come back at the same
//! moment.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// A duration between half of this one and all of it.
pub(crate) fn at_most(longest: Duration) -> Duration {
    // Every RandomState has keys of its own.
    let random = u32::try_from(RandomState::new().hash_one(0_u8) >> 32).unwrap_or(u32::MAX);
    longest.mul_f64(0.5 + 0.5 * f64::from(random) / f64::from(u32::MAX))
}
