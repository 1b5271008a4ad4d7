// SPDX-License-Identifier: Apache-2.0
//! Automatic addresses for hosts of service entries that have none: one of 240.240.0.0/16 and one of 2001:2::/48 each.
//!
//! Who gets which depends only on who asks, not on the order of asking: a claim's name says where its search begins, and
//! where two meet the older stays. So every replica gives the same, and who comes later moves nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use jiff::Timestamp;
use mesh::Hostname;
use sha2::{Digest, Sha256};

use super::objects::Name;

/// Who wants addresses; in the order of who may stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    /// Age of the service entry; the far end of time when it has none.
    pub(crate) created: Timestamp,
    /// The service entry.
    pub(crate) entry: Name,
    /// One of its hosts.
    pub(crate) host: Hostname,
}

/// The addresses of a host, one of each family.
pub(crate) type Pair = [IpAddr; 2];

/// First and last number that is given: those of the network and of broadcast are not.
const FIRST: u16 = 1;
const LAST: u16 = u16::MAX - 1;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Automatic {
    slots: BTreeMap<Claim, u16>,
}

impl Automatic {
    /// Gives every claim a number that nobody has otherwise; when they run out, the youngest go without.
    pub(crate) fn allocate(
        claims: impl IntoIterator<Item = Claim>,
        taken: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut used: BTreeSet<u16> = taken.into_iter().filter_map(number).collect();
        let mut claims: Vec<Claim> = claims.into_iter().collect();
        claims.sort();
        let room = usize::from(LAST - FIRST) + 1;
        claims.truncate(room.saturating_sub(used.len()));
        let mut slots = BTreeMap::new();
        for claim in claims {
            let mut slot = start(&claim);
            while !used.insert(slot) {
                slot = if slot == LAST { FIRST } else { slot + 1 };
            }
            slots.insert(claim, slot);
        }
        Self { slots }
    }

    /// The addresses that a claim has got.
    pub(crate) fn of(&self, claim: &Claim) -> Option<Pair> {
        self.slots.get(claim).map(|slot| pair(*slot))
    }

    /// The service entries that have others here than there.
    pub(crate) fn differences(&self, other: &Self) -> BTreeSet<Name> {
        let only = |these: &Self, those: &Self| -> Vec<Name> {
            let moved = these.slots.iter().filter(|(claim, slot)| those.slots.get(claim) != Some(slot));
            moved.map(|(claim, _)| claim.entry.clone()).collect()
        };
        only(self, other).into_iter().chain(only(other, self)).collect()
    }
}

fn pair(slot: u16) -> Pair {
    let [high, low] = slot.to_be_bytes();
    [Ipv4Addr::new(240, 240, high, low).into(), Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, slot).into()]
}

/// The number of an address that could have been given.
fn number(address: IpAddr) -> Option<u16> {
    match address {
        IpAddr::V4(address) => match address.octets() {
            [240, 240, high, low] => Some(u16::from_be_bytes([high, low])),
            _ => None,
        },
        IpAddr::V6(address) => match address.segments() {
            [0x2001, 2, 0, 0, 0, 0, 0, low] => Some(low),
            _ => None,
        },
    }
    .filter(|number| (FIRST..=LAST).contains(number))
}

/// Where the search of a claim begins: the same in every version and on every machine.
fn start(claim: &Claim) -> u16 {
    let (namespace, name) = &claim.entry;
    let hash = Sha256::digest(format!("{namespace}/{name}/{}", claim.host));
    let head = hash.iter().take(4).fold(0_u32, |head, byte| head << 8 | u32::from(*byte));
    let room = u32::from(LAST - FIRST) + 1;
    u16::try_from(head % room).map_or(FIRST, |slot| slot + FIRST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(name: &str, created: Timestamp) -> Claim {
        let entry = ("shop".into(), name.into());
        Claim { created, entry, host: Hostname::parse("db.example.com").unwrap() }
    }

    #[test]
    fn who_comes_later_moves_nobody_and_nobody_has_the_address_of_another() {
        let old: Vec<Claim> =
            (0..2000).map(|at| claim(&format!("old-{at}"), Timestamp::UNIX_EPOCH)).collect();
        let new = (0..2000).map(|at| claim(&format!("new-{at}"), Timestamp::MAX));
        let before = Automatic::allocate(old.clone(), []);
        let after = Automatic::allocate(new.chain(old.clone()), []);
        for claim in &old {
            assert_eq!(before.of(claim), after.of(claim), "{claim:?}");
        }
        let given: BTreeSet<u16> = after.slots.values().copied().collect();
        assert_eq!(given.len(), 4000);
        assert_eq!(after.differences(&before).len(), 2000);
    }

    #[test]
    fn an_address_that_stands_in_a_status_is_given_to_nobody_else() {
        let claim = claim("a", Timestamp::MAX);
        let first = Automatic::allocate([claim.clone()], []).of(&claim).unwrap();
        let second = Automatic::allocate([claim.clone()], first).of(&claim).unwrap();
        assert_ne!(first, second);
        assert!(
            first.into_iter().chain(second).all(|address| number(address).is_some()),
            "{first:?} {second:?}"
        );
    }

    #[test]
    fn when_addresses_run_out_the_youngest_go_without() {
        let young = claim("young", Timestamp::MAX);
        let old = (0..u32::from(LAST)).map(|at| claim(&format!("old-{at}"), Timestamp::UNIX_EPOCH));
        let full = Automatic::allocate([young.clone()].into_iter().chain(old), []);
        assert_eq!(full.of(&young), None);
        assert_eq!(full.slots.len(), usize::from(LAST));
    }
}
