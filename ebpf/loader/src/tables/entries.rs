// SPDX-License-Identifier: Apache-2.0
//! A pod's rules as keys of the maps. Pure.

use std::{collections::BTreeSet, net::IpAddr};

use ebpf_abi::map::{Address, Way, flag, network_key, network_prefix, own_key, port_key};
use ipnet::IpNet;

use crate::Rules;

/// What the maps must hold for a pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) own: BTreeSet<[u32; 5]>,
    pub(super) networks: BTreeSet<(u32, [u32; 6])>,
    pub(super) ports: BTreeSet<[u32; 2]>,
    pub(super) flags: u32,
}

impl Entries {
    pub(super) fn of(slot: u32, rules: &Rules) -> Self {
        let excluded = &rules.exclusions;
        let network = |way| move |network: &IpNet| network_entry(slot, way, *network);
        let exempt = rules.exempt_peers.iter().map(network(Way::In));
        let destinations = excluded.outbound_networks.iter().map(network(Way::Out));
        let inbound = excluded.inbound_ports.iter().map(|&port| port_key(slot, Way::In, port));
        let outbound = excluded.outbound_ports.iter().map(|&port| port_key(slot, Way::Out, port));
        let set = |flag, condition: bool| if condition { flag } else { 0 };
        Self {
            own: rules.ips.iter().map(|&ip| own_key(slot, words(ip))).collect(),
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
}

/// An address as the maps hold it.
pub(super) fn words(ip: IpAddr) -> Address {
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
        assert_eq!(Entries::of(3, &Rules::default()), Entries::default());
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
        let entries = Entries::of(5, &rules);
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
}
