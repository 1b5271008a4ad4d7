// SPDX-License-Identifier: Apache-2.0
//! Few keys move, shares are what weights say, turns come round.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    fixtures::{memberships, service, uid, workload},
    index::Change,
};

const KEYS: u64 = 20_000;

fn lineup(weights: &[u32]) -> Lineup {
    let mut index = Index::new();
    let web = service("web", &[]);
    for (number, weight) in weights.iter().enumerate() {
        let endpoint = Workload {
            services: memberships(&[(&web, &[(80, 8080)])]),
            capacity: *weight,
            ..workload(&format!("w{number}"), &["10.0.0.1"])
        };
        index.apply(Change::Workload(endpoint));
    }
    Lineup::new(&index, &web, &workload("client", &["10.0.0.9"]), PortMode::Service(80))
}

fn first(mut walk: impl Iterator<Item = usize>) -> usize {
    walk.next().unwrap()
}

fn key(number: u64) -> u64 {
    hash(&number.to_le_bytes(), 7)
}

fn names(weights: &[u32]) -> Vec<(WorkloadUid, u32)> {
    weights.iter().enumerate().map(|(number, weight)| (uid(&format!("pod/{number}")), *weight)).collect()
}

/// Where each key goes, by both tables.
fn tables(endpoints: &[(WorkloadUid, u32)]) -> [Vec<usize>; 2] {
    let (ring, maglev) = (Ring::new(endpoints), Maglev::new(endpoints));
    [
        (0..KEYS).map(|number| first(ring.walk(key(number)))).collect(),
        (0..KEYS).map(|number| first(maglev.walk(key(number)))).collect(),
    ]
}

fn shares(places: &[usize], endpoints: usize) -> Vec<f64> {
    let mut counts = vec![0.0; endpoints];
    for place in places {
        counts[*place] += 1.0 / KEYS as f64;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn shares_of_keys_are_what_weights_say(weights in vec(1_u32..5, 2..24)) {
        let endpoints = names(&weights);
        let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
        // A share varies with the lengths of arcs, of which an endpoint of the ring has 160 on average, and with the keys that are
        // tried. Six standard deviations: one endpoint in a million is farther off by chance.
        let arcs = 160.0 * weights.len() as f64;
        for (places, arcs) in tables(&endpoints).iter().zip([Some(arcs), None]) {
            for (share, weight) in shares(places, weights.len()).iter().zip(&weights) {
                let wanted = f64::from(*weight) / total;
                let tried = 1.0 / (KEYS as f64 * wanted);
                let slack = 6.0 * (tried + arcs.map_or(0.0, |arcs| 1.0 / (arcs * wanted))).sqrt() + 0.01;
                prop_assert!((share / wanted - 1.0).abs() < slack, "{share} instead of {wanted}, within {slack}");
            }
        }
    }

    #[test]
    fn when_an_endpoint_leaves_few_keys_of_others_move(count in 3_usize..24, gone in 0_usize..24) {
        let endpoints = names(&vec![1; count]);
        let gone = gone % count;
        let mut fewer = endpoints.clone();
        fewer.remove(gone);
        let [ring, maglev] = tables(&endpoints);
        let [ring_after, maglev_after] = tables(&fewer);
        let moved = |before: &[usize], after: &[usize]| {
            let others = before.iter().zip(after).filter(|(place, _)| **place != gone);
            others.filter(|(place, now)| endpoints[**place] != fewer[**now]).count() as f64 / KEYS as f64
        };
        prop_assert!(moved(&ring, &ring_after) == 0.0, "{}", moved(&ring, &ring_after));
        prop_assert!(moved(&maglev, &maglev_after) < 0.12, "{}", moved(&maglev, &maglev_after));
    }

    #[test]
    fn in_a_full_round_everybody_has_the_turns_of_its_weight(weights in vec(1_u32..9, 1..12), start: u64) {
        let lineup = lineup(&weights);
        let round: u64 = *lineup.ends.last().unwrap();
        let start = start / 2;
        let mut turns: BTreeMap<&WorkloadUid, u64> = BTreeMap::new();
        for number in start..start + round {
            *turns.entry(lineup.turns(number).next().unwrap()).or_default() += 1;
        }
        let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        for (uid, weight) in &lineup.nearest {
            prop_assert_eq!(turns[uid] * total, u64::from(*weight) * round);
        }
    }
}

#[test]
fn a_key_whose_endpoint_is_taken_out_goes_to_one_of_the_others() {
    let lineup = lineup(&[1; 5]);
    for number in 0..200 {
        let key = key(number);
        for mut walk in
            [Box::new(lineup.ring(key)) as Box<dyn Iterator<Item = _>>, Box::new(lineup.maglev(key))]
        {
            let first = walk.next().unwrap();
            assert!(walk.any(|other| other != first));
        }
    }
}

#[test]
fn a_mark_finds_its_endpoint_and_no_other() {
    let lineup = lineup(&[1; 5]);
    for (uid, _) in &lineup.nearest {
        assert_eq!(lineup.marked(Mark::new(uid)), Some(uid));
    }
    assert_eq!(lineup.marked(Mark(1)), None);
}

#[test]
fn nobody_in_the_line_is_nobody() {
    let lineup = lineup(&[]);
    assert!(lineup.turns(3).next().is_none() && lineup.ring(3).next().is_none());
    assert!(lineup.maglev(3).next().is_none());
}

#[test]
fn a_thousand_endpoints_share_a_table_evenly() {
    let endpoints = names(&vec![1; 1000]);
    let table = Maglev::new(&endpoints);
    let mut counts = vec![0_u32; endpoints.len()];
    for number in 0..655_373 {
        counts[table.walk(number).next().unwrap()] += 1;
    }
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 1, "{least} to {most}");
}
