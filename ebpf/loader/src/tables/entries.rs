// SPDX-License-Identifier: Apache-2.0
//! A pod's rules as keys of the maps. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ebpf_abi::map::{Address, Way, flag, network_key, network_prefix, own_key, port_key};
use ipnet::IpNet;

use crate::Rules;

/// The agent said that an address is the pod's.
const GIVEN: u32 = 1;
/// An interface of the pod has it.
const FOUND: u32 = 2;

/// What the maps must hold for a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// With who said so: [`GIVEN`], [`FOUND`] or both.
    pub(super) own: BTreeMap<[u32; 5], u32>,
    pub(super) networks: BTreeSet<(u32, [u32; 6])>,
    pub(super) ports: BTreeSet<[u32; 2]>,
    pub(super) flags: u32,
}

impl Entries {
    /// What follows from the rules and from the addresses that were found on interfaces.
    pub(super) fn of(slot: u32, rules: &Rules, found: &[IpAddr]) -> Self {
        let mut own: BTreeMap<[u32; 5], u32> = BTreeMap::new();
        let said = rules.ips.iter().map(|ip| (ip, GIVEN)).chain(found.iter().map(|ip| (ip, FOUND)));
        for (&ip, origin) in said {
            *own.entry(own_key(slot, words(ip))).or_default() |= origin;
        }
        let excluded = &rules.exclusions;
        let network = |way| move |network: &IpNet| network_entry(slot, way, *network);
        let exempt = rules.exempt_peers.iter().map(network(Way::In));
        let destinations = excluded.outbound_networks.iter().map(network(Way::Out));
        let inbound = excluded.inbound_ports.iter().map(|&port| port_key(slot, Way::In, port));
        let outbound = excluded.outbound_ports.iter().map(|&port| port_key(slot, Way::Out, port));
        let set = |flag, condition: bool| if condition { flag } else { 0 };
        Self {
            own,
            networks: exempt.chain(destinations).collect(),
            ports: inbound.chain(outbound).collect(),
            flags: set(flag::DNS, rules.dns)
                | set(flag::INBOUND_BYPASSED, excluded.inbound)
                | set(flag::EXEMPT_PEERS, !rules.exempt_peers.is_empty())
                | set(flag::EXCLUDED_DESTINATIONS, !excluded.outbound_networks.is_empty())
                | set(
                    flag::EXCLUDED_PORTS,
                    !(excluded.inbound_ports.is_empty() && excluded.outbound_ports.is_empty()),
                ),
        }
    }

    /// Adds the addresses that were found before.
    pub(super) fn keep_found(&mut self, before: &Self) {
        for (&key, origin) in &before.own {
            if origin & FOUND != 0 {
                *self.own.entry(key).or_default() |= FOUND;
            }
        }
    }
}

/// An address as the maps hold it.
fn words(ip: IpAddr) -> Address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let (quads, _rest) = octets.as_chunks::<4>();
    let mut words = [0; 4];
    words.iter_mut().zip(quads).for_each(|(word, quad)| *word = u32::from_ne_bytes(*quad));
    words
}

fn network_entry(slot: u32, way: Way, network: IpNet) -> (u32, [u32; 6]) {
    let network = network.trunc();
    let mapped = match network {
        IpNet::V4(_) => 96 + u32::from(network.prefix_len()),
        IpNet::V6(_) => u32::from(network.prefix_len()),
    };
    (network_prefix(mapped), network_key(slot, way, words(network.addr())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exclusions;

    #[test]
    fn both_families_lie_in_network_order() {
        let v4 = words("10.1.2.3".parse().unwrap());
        assert_eq!(v4.map(u32::to_ne_bytes).concat(), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 1, 2, 3]);
        let v6 = words("fd00::9".parse().unwrap());
        assert_eq!(v6.map(u32::to_ne_bytes).concat(), [253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn a_rule_without_entries_sets_no_flag() {
        assert_eq!(Entries::of(3, &Rules::default(), &[]), Entries::default());
    }

    #[test]
    fn every_rule_becomes_an_entry_and_its_flag() {
        let rules = Rules {
            ips: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            dns: true,
            exclusions: Exclusions {
                outbound_ports: vec![3306],
                outbound_networks: vec!["10.9.8.7/16".parse().unwrap()],
                inbound_ports: vec![9090],
                inbound: true,
                interfaces: vec![],
            },
            exempt_peers: vec!["fd00::/64".parse().unwrap()],
        };
        let entries = Entries::of(5, &rules, &[]);
        assert_eq!(entries.own.len(), 2);
        let out = network_key(5, Way::Out, words("10.9.0.0".parse().unwrap()));
        let inward = network_key(5, Way::In, words("fd00::".parse().unwrap()));
        assert_eq!(entries.networks, BTreeSet::from([(64 + 96 + 16, out), (64 + 64, inward)]));
        assert_eq!(entries.ports, BTreeSet::from([port_key(5, Way::Out, 3306), port_key(5, Way::In, 9090)]));
        assert_eq!(
            entries.flags,
            flag::DNS
                | flag::INBOUND_BYPASSED
                | flag::EXEMPT_PEERS
                | flag::EXCLUDED_DESTINATIONS
                | flag::EXCLUDED_PORTS
        );
    }

    #[test]
    fn an_address_that_was_found_survives_a_change_of_rules() {
        let [given, both, found] =
            ["10.0.0.1", "10.0.0.2", "fe80::1"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let rules = |ips: &[IpAddr]| Rules { ips: ips.to_vec(), ..Rules::default() };
        let before = Entries::of(1, &rules(&[given, both]), &[both, found]);
        let mut after = Entries::of(1, &rules(&[]), &[]);
        after.keep_found(&before);
        assert_eq!(after.own, BTreeMap::from([both, found].map(|ip| (own_key(1, words(ip)), FOUND))));
    }
}
