// SPDX-License-Identifier: Apache-2.0
//! The endpoints of a service in a fixed order, for choices that are no draw: one after the other, by a key, or the one of a
//! session. It is made once and holds until endpoints change; whoever it proposes is looked at again ([`select`]).
//!
//! Of several that differ in how near they are only the nearest are in the line; who falls behind them comes by [`pick`].
//!
//! [`select`]: super::select
//! [`pick`]: super::pick

use std::{collections::HashMap, sync::OnceLock};

use super::{Candidate, PortMode, Request, Standing, hash::hash, maglev::Maglev, ring::Ring};
use crate::{index::Index, name::WorkloadUid, service::Service, workload::Workload};

/// So that the two halves of a mark have nothing to do with each other.
const MARKS: [u64; 2] = [0x6D61_726B, 0x6D61_726C];

/// What a session is told by instead of the endpoint's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mark(pub u128);

impl Mark {
    /// Of an endpoint.
    pub fn new(uid: &WorkloadUid) -> Self {
        let [first, second] = MARKS.map(|salt| u128::from(hash(uid.as_str().as_bytes(), salt)));
        Self(first << 64 | second)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lineup {
    /// The nearest, and where the turns of each end in the order of turns.
    nearest: Vec<(WorkloadUid, u32)>,
    ends: Vec<u64>,
    members: Vec<WorkloadUid>,
    ring: OnceLock<Ring>,
    maglev: OnceLock<Maglev>,
    marks: OnceLock<HashMap<Mark, WorkloadUid>>,
}

impl Lineup {
    /// Of a port of a service as it is now, seen from a client.
    pub fn new(index: &Index, service: &Service, source: &Workload, port: PortMode) -> Self {
        let (name, avoid) = (service.key(), Default::default());
        let request = Request { source, port, seed: 0, avoid: &avoid };
        let members = index.members(&name);
        let admitted = members.iter().filter(|workload| service.admits(workload));
        let candidates = admitted.filter_map(|workload| {
            let candidate = Candidate::of(service, &name, workload, &request)?;
            (candidate.rank.standing != Standing::OutOfReach).then_some((candidate.rank, workload))
        });
        let candidates: Vec<_> = candidates.collect();
        let best = candidates.iter().map(|(rank, _)| *rank).max();
        let nearest = candidates.iter().filter(|(rank, _)| Some(*rank) == best);
        let nearest: Vec<_> =
            nearest.map(|(_, workload)| (workload.uid.clone(), workload.capacity)).collect();
        let common = nearest.iter().fold(0, |common, (_, weight)| divisor(common, *weight)).max(1);
        let ends = nearest.iter().scan(0, |end, (_, weight)| {
            *end += u64::from(weight / common);
            Some(*end)
        });
        let members = members.iter().map(|workload| workload.uid.clone()).collect();
        Self { ends: ends.collect(), nearest, members, ..Self::default() }
    }

    /// One after the other: who has the turn of this number, then who comes after. In a full round each has as many turns
    /// as it weighs, and they are spread over the round.
    pub fn turns(&self, number: u64) -> impl Iterator<Item = &WorkloadUid> {
        let total = self.ends.last().copied().unwrap_or_default();
        let stride = stride(total);
        let rounds = (0..total).take(self.nearest.len().saturating_mul(2));
        let at = move |turn: u64| {
            let turn = u128::from(number.wrapping_add(turn) % total.max(1)) * u128::from(stride);
            let position = u64::try_from(turn % u128::from(total.max(1))).unwrap_or_default();
            self.ends.partition_point(|end| *end <= position)
        };
        rounds.filter_map(move |turn| self.nearest.get(at(turn)).map(|(uid, _)| uid))
    }

    /// By a key, on a ring.
    pub fn ring(&self, key: u64) -> impl Iterator<Item = &WorkloadUid> {
        let ring = self.ring.get_or_init(|| Ring::new(&self.nearest));
        ring.walk(key).filter_map(|place| self.nearest.get(place).map(|(uid, _)| uid))
    }

    /// By a key, in a table.
    pub fn maglev(&self, key: u64) -> impl Iterator<Item = &WorkloadUid> {
        let table = self.maglev.get_or_init(|| Maglev::new(&self.nearest));
        table.walk(key).filter_map(|place| self.nearest.get(place).map(|(uid, _)| uid))
    }

    /// The endpoint with a mark, however near it is.
    pub fn marked(&self, mark: Mark) -> Option<&WorkloadUid> {
        let marks =
            self.marks.get_or_init(|| self.members.iter().map(|uid| (Mark::new(uid), uid.clone())).collect());
        marks.get(&mark)
    }
}

/// The greatest that divides both.
fn divisor(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { divisor(other, one % other) }
}

/// A step through so many places that visits all of them and does not dwell: near the golden section.
fn stride(total: u64) -> u64 {
    let common = |mut one: u64, mut other: u64| {
        while other != 0 {
            (one, other) = (other, one % other);
        }
        one
    };
    let section = u64::try_from(u128::from(total) * 618 / 1000).unwrap_or_default().max(1);
    (section..section.saturating_add(total)).find(|step| common(*step, total) == 1).unwrap_or(1)
}

#[cfg(test)]
mod tests;
