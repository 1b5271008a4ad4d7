// SPDX-License-Identifier: Apache-2.0
//! Consistent hashing by a table (Maglev, NSDI 2016 §3.4): endpoints take turns in filling it, each in an order of its own.
//! Shares are nearly exact and a look-up is one access; when an endpoint leaves, few keys of others move too.

use super::hash::{hash, mix};
use crate::name::WorkloadUid;

/// Prime, and a hundred times the endpoints at least: the shares differ by a hundredth then.
const SIZES: [u32; 3] = [65_537, 655_373, 5_000_011];
const START: u64 = 0x6D61_676C;
const STEP: u64 = 0x6D61_676D;
/// Other places that a key tries whose first one cannot be used.
const TRIES: u64 = 64;
const FREE: u32 = u32::MAX;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Maglev(Vec<u32>);

/// An endpoint while the table is filled.
struct Filling {
    place: u32,
    weight: u32,
    /// Where it looks next, and how far from there after that.
    next: u32,
    step: u32,
    /// Weight times turns that it has taken already.
    taken: u64,
}

impl Maglev {
    /// Of endpoints by name and weight; an endpoint is told by its place in the list.
    pub(super) fn new(endpoints: &[(WorkloadUid, u32)]) -> Self {
        let [small, middle, large] = SIZES;
        let size = match endpoints.len() * 100 {
            ..65_537 => small,
            65_537..655_373 => middle,
            _ => large,
        };
        let remainder = |number: u64, of: u32| u32::try_from(number % u64::from(of)).unwrap_or_default();
        let mut filling: Vec<Filling> = endpoints
            .iter()
            .zip(0_u32..)
            .filter(|((_, weight), _)| *weight > 0)
            .map(|((uid, weight), place)| Filling {
                place,
                weight: *weight,
                next: remainder(hash(uid.as_str().as_bytes(), START), size),
                step: remainder(hash(uid.as_str().as_bytes(), STEP), size - 1) + 1,
                taken: 0,
            })
            .collect();
        let Some(heaviest) = filling.iter().map(|endpoint| u64::from(endpoint.weight)).max() else {
            return Self::default();
        };
        let mut table = vec![FREE; size as usize];
        let mut left = size;
        for turn in 1_u64.. {
            for endpoint in &mut filling {
                // The heaviest comes every time, others as often as their weight is a part of its.
                if turn * u64::from(endpoint.weight) < endpoint.taken {
                    continue;
                }
                if left == 0 {
                    return Self(table);
                }
                endpoint.taken += heaviest;
                endpoint.place_in(&mut table, size);
                left -= 1;
            }
        }
        Self(table)
    }

    /// Places of endpoints in the order in which a key tries them; the same one may come several times.
    pub(super) fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let size = self.0.len().max(1) as u64;
        let tries = (0..TRIES).map(move |number| if number == 0 { key } else { mix(key ^ (number << 40)) });
        tries.filter_map(move |key| self.0.get((key % size) as usize).map(|place| *place as usize))
    }
}

impl Filling {
    /// Takes the next free one of its places.
    fn place_in(&mut self, table: &mut [u32], size: u32) {
        // The step and the size have no common divisor, so all places are visited.
        for _ in 0..size {
            let at = self.next;
            self.next = u32::try_from((u64::from(at) + u64::from(self.step)) % u64::from(size)).unwrap_or(0);
            if let Some(slot) = table.get_mut(at as usize).filter(|slot| **slot == FREE) {
                *slot = self.place;
                return;
            }
        }
    }
}
