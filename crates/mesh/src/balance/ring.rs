// SPDX-License-Identifier: Apache-2.0
//! Consistent hashing on a ring: every endpoint has points on it, by weight, and a key goes to the next point. When an
//! endpoint leaves only its own keys move, each to whoever comes next.

use super::hash::hash;
use crate::name::WorkloadUid;

/// Points of an endpoint of average weight: shares are within about a tenth of what they should be. Not more where there are
/// few endpoints: those that stay would get new points when one leaves, and with them keys of one another.
const POINTS: usize = 160;
const MOST: usize = 1 << 18;
/// So that an endpoint's points have nothing to do with keys.
const SALT: u64 = 0x7269_6E67;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Ring(Vec<(u64, u32)>);

impl Ring {
    /// Of endpoints by name and weight; an endpoint is told by its place in the list.
    pub(super) fn new(endpoints: &[(WorkloadUid, u32)]) -> Self {
        let total: u64 = endpoints.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let size = (endpoints.len() * POINTS).min(MOST) as u64;
        let mut points = Vec::new();
        for ((uid, weight), place) in endpoints.iter().zip(0_u32..) {
            // Of those that count at all, none is left out.
            let share = (u64::from(*weight) * size).div_ceil(total.max(1));
            points.extend(
                (0..share).map(|number| (hash(uid.as_str().as_bytes(), SALT ^ (number << 32)), place)),
            );
        }
        points.sort_unstable();
        Self(points)
    }

    /// Places of endpoints in the order in which a key tries them; the same one may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let start = self.0.partition_point(|(point, _)| *point < key);
        let (before, after) = self.0.split_at_checked(start).unwrap_or_default();
        after.iter().chain(before).map(|(_, place)| *place as usize)
    }
}
