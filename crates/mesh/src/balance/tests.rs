// SPDX-License-Identifier: Apache-2.0
//! Modes, weights, ports and addresses.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::subsequence};

use super::*;
use crate::{
    fixtures::{ip, memberships, port_map, service, uid, workload},
    index::Change,
    name::Network,
    service::HealthPolicy,
    workload::{
        ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, Health, Locality,
    },
};

const SEEDS: u64 = 2000;

/// A workload of service `web` at `region/zone/subzone` of a node and network.
fn endpoint(name: &str, place: &str, node: &str, network: &str) -> Workload {
    let mut parts = place.split('/').map(Into::into);
    let mut next = || parts.next().unwrap_or_default();
    Workload {
        services: memberships(&[(&service("web", &[]), &[])]),
        locality: Locality { region: next(), zone: next(), subzone: next() },
        node: node.into(),
        network: Network(network.into()),
        network_gateway: (!network.is_empty()).then(|| GatewayAddress {
            destination: GatewayDestination::Hostname(service("gateway", &[]).key()),
            hbone_port: 15008,
        }),
        ..workload(name, &["10.0.0.1"])
    }
}

fn client() -> Workload {
    endpoint("client", "r1/z1/s1", "n1", "")
}

fn balanced(mode: BalanceMode, scopes: &[Scope]) -> Service {
    let load_balancing =
        LoadBalancing { mode, routing_preference: scopes.to_vec(), health_policy: HealthPolicy::OnlyHealthy };
    Service { load_balancing, ..service("web", &[]) }
}

/// How often each endpoint is picked over many seeds.
fn picks(service: &Service, endpoints: &[Workload], avoid: &[&str]) -> BTreeMap<String, u64> {
    let mut index = Index::new();
    index.apply_all(endpoints);
    picks_of(&index, service, avoid)
}

impl Index {
    fn apply_all(&mut self, endpoints: &[Workload]) {
        for endpoint in endpoints {
            self.apply(Change::Workload(endpoint.clone()));
        }
    }
}

fn picks_of(index: &Index, service: &Service, avoid: &[&str]) -> BTreeMap<String, u64> {
    let client = client();
    let avoid = avoid.iter().map(|name| uid(&format!("Kubernetes//Pod/shop/{name}"))).collect();
    let mut picks = BTreeMap::new();
    for seed in 0..SEEDS {
        let request = Request { source: &client, port: PortMode::Service(80), seed, avoid: &avoid };
        let picked = pick(index, service, &request);
        assert_eq!(picked, pick(index, service, &request), "the same seed picks the same");
        if let Some(picked) = picked {
            assert_eq!(picked.port, 8080);
            *picks.entry(picked.workload.name.to_string()).or_default() += 1;
        }
    }
    picks
}

fn picked(service: &Service, endpoints: &[Workload], avoid: &[&str]) -> String {
    picks(service, endpoints, avoid).into_keys().collect::<Vec<_>>().join(" ")
}

#[test]
fn endpoints_are_picked_by_locality_as_the_mode_says() {
    use BalanceMode::{Failover, Passthrough, Strict, Unspecified};
    use Scope::{Network, Node, Region, Subzone, Zone};
    let here = || endpoint("here", "r1/z1/s1", "n1", "");
    let subzone = || endpoint("subzone", "r1/z1/s1", "n2", "");
    let zone = || endpoint("zone", "r1/z1/s2", "n3", "");
    let region = || endpoint("region", "r1/z2/s1", "n4", "");
    let far = || endpoint("far", "r2/z1/s1", "n5", "");
    let west_near = || endpoint("west-near", "r1/z1/s1", "w1", "west");
    let west_far = || endpoint("west-far", "r2/z1/s1", "w2", "west");
    let spread = [Network, Region, Zone, Subzone, Node];
    let cases = [
        (Unspecified, vec![], vec![here(), far()], "far here"),
        (Unspecified, vec![Node], vec![here(), far()], "far here"),
        (Passthrough, vec![Node], vec![here(), far()], "far here"),
        (Strict, vec![Node], vec![here(), far()], "here"),
        (Strict, vec![Node], vec![subzone(), far()], ""),
        (Strict, vec![Region, Zone], vec![here(), zone(), region()], "here zone"),
        (Strict, vec![], vec![here(), far()], "far here"),
        (Failover, spread.to_vec(), vec![here(), subzone(), zone(), region(), far()], "here"),
        (Failover, spread.to_vec(), vec![subzone(), zone(), region(), far()], "subzone"),
        (Failover, spread.to_vec(), vec![zone(), region(), far()], "zone"),
        (Failover, spread.to_vec(), vec![region(), far()], "region"),
        (Failover, spread.to_vec(), vec![far(), west_near()], "far"),
        (Failover, spread.to_vec(), vec![west_far(), west_near()], "west-near"),
        (Failover, vec![Region, Zone], vec![region(), west_near()], "west-near"),
        (Failover, vec![Zone], vec![far(), west_near()], "west-near"),
        (Strict, vec![Network], vec![west_near()], ""),
        (Failover, vec![Node, Region], vec![region(), far()], "far region"),
    ];
    for (mode, scopes, endpoints, expected) in cases {
        let service = balanced(mode, &scopes);
        let names: Vec<_> = endpoints.iter().map(|endpoint| endpoint.name.clone()).collect();
        assert_eq!(picked(&service, &endpoints, &[]), expected, "{mode:?} {scopes:?} of {names:?}");
    }
}

#[test]
fn an_empty_locality_is_the_same_as_an_empty_one() {
    let mut index = Index::new();
    let nowhere = Workload { locality: Locality::default(), ..endpoint("nowhere", "", "", "") };
    index.apply(Change::Workload(nowhere.clone()));
    let service = balanced(BalanceMode::Strict, &[Scope::Region, Scope::Zone, Scope::Subzone]);
    let avoid = HashSet::new();
    let request = Request { source: &nowhere, port: PortMode::Service(80), seed: 1, avoid: &avoid };
    assert!(pick(&index, &service, &request).is_some());
}

#[test]
fn avoided_endpoints_are_taken_only_when_nothing_else_is_left() {
    let near = || endpoint("near", "r1/z1/s1", "n1", "");
    let far = || endpoint("far", "r2/z1/s1", "n2", "");
    let failover = balanced(BalanceMode::Failover, &[Scope::Region]);
    assert_eq!(picked(&failover, &[near(), far()], &[]), "near");
    assert_eq!(picked(&failover, &[near(), far()], &["near"]), "far");
    assert_eq!(picked(&failover, &[near(), far()], &["near", "far"]), "near");
    let strict = balanced(BalanceMode::Strict, &[Scope::Region]);
    assert_eq!(picked(&strict, &[near(), far()], &["near"]), "near", "never against the mode");
    let mut index = Index::new();
    index.apply(Change::Workload(near()));
    let (client, avoid) = (client(), HashSet::from([near().uid]));
    let request = Request { source: &client, port: PortMode::Service(80), seed: 1, avoid: &avoid };
    assert!(pick(&index, &strict, &request).unwrap().set_aside);
}

#[test]
fn capacity_is_the_share_of_connections() {
    let weighted = |name: &str, capacity| Workload { capacity, ..endpoint(name, "r1", "n1", "") };
    let service = balanced(BalanceMode::Unspecified, &[]);
    let few = [weighted("one", 1), weighted("three", 3), weighted("none", 0)];
    let counts = picks(&service, &few, &[]);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["one", "three"]);
    assert!((400..600).contains(&counts["one"]), "{counts:?}");
    assert_eq!(picked(&service, &[weighted("none", 0)], &[]), "");
}

#[test]
fn large_services_are_balanced_like_small_ones() {
    let service = balanced(BalanceMode::Unspecified, &[]);
    let mut endpoints: Vec<_> = (0..99)
        .map(|number| Workload { capacity: 1, ..endpoint(&format!("light-{number}"), "r1", "n1", "") })
        .collect();
    endpoints.push(Workload { capacity: 99, ..endpoint("heavy", "r1", "n1", "") });
    endpoints.push(Workload { health: Health::Unhealthy, ..endpoint("ill", "r1", "n1", "") });
    let counts = picks(&service, &endpoints, &[]);
    assert!((900..1100).contains(&counts["heavy"]), "{counts:?}");
    assert!(!counts.contains_key("ill"));
    assert_eq!(counts.values().sum::<u64>(), SEEDS);
    assert!(!picks(&service, &endpoints, &["heavy"]).contains_key("heavy"));
}

#[test]
fn a_few_near_endpoints_of_a_large_service_share_its_connections() {
    let scopes = [Scope::Network, Scope::Region, Scope::Zone];
    let far = (0..300).map(|number| endpoint(&format!("far-{number}"), &format!("r2/z{number}"), "n2", ""));
    let near = ["near-1", "near-2", "near-3"].map(|name| endpoint(name, "r1/z1", "n3", ""));
    let west = endpoint("west", "r1/z1", "w1", "west");
    let endpoints: Vec<_> = far.chain(near).chain([west]).collect();
    for mode in [BalanceMode::Failover, BalanceMode::Strict] {
        let service = balanced(mode, &scopes);
        let mut index = Index::new();
        index.apply(Change::Service(service.clone()));
        index.apply_all(&endpoints);
        let counts = picks_of(&index, &service, &[]);
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["near-1", "near-2", "near-3"], "{mode:?}");
        assert!(counts.values().all(|count| (500..850).contains(count)), "{mode:?} {counts:?}");
    }
}

fn any_endpoint() -> impl Strategy<Value = Workload> {
    let place = (0..3_u8, 0..2_u8, 0..2_u8, 0..3_u8, 0..2_u8, any::<bool>());
    (0..150_u8, place, 0..3_u32, 0..8_u8).prop_map(|(number, place, capacity, health)| {
        let (region, zone, subzone, node, cluster, west) = place;
        Workload {
            cluster: format!("c{cluster}").into(),
            capacity,
            health: if health == 0 { Health::Unhealthy } else { Health::Healthy },
            network_gateway: (number.is_multiple_of(2)).then(|| GatewayAddress {
                destination: GatewayDestination::Hostname(service("gateway", &[]).key()),
                hbone_port: 15008,
            }),
            services: if number == 7 {
                Default::default()
            } else {
                memberships(&[(&service("web", &[]), &[])])
            },
            ..endpoint(
                &format!("e{number}"),
                &format!("r{region}/z{zone}/s{subzone}"),
                &format!("n{node}"),
                if west { "west" } else { "" },
            )
        }
    })
}

fn any_preference() -> impl Strategy<Value = Service> {
    use BalanceMode::{Failover, Passthrough, Strict, Unspecified};
    use Scope::{Cluster, Network, Node, Region, Subzone, Zone};
    let scopes = subsequence(vec![Region, Zone, Subzone, Node, Cluster, Network], 0..=4).prop_shuffle();
    let mode =
        prop_oneof![1 => Just(Unspecified), 1 => Just(Passthrough), 2 => Just(Strict), 4 => Just(Failover)];
    (mode, scopes).prop_map(|(mode, scopes)| balanced(mode, &scopes))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The contract: of all endpoints, those with the best rank.
    #[test]
    fn only_the_best_are_picked_whatever_came_in_which_order(
        before in vec(any_endpoint(), 0..200),
        after in vec(any_endpoint(), 0..60),
        services in (any_preference(), any_preference()),
        avoided in vec(0..150_u8, 0..100),
        gone in vec(0..150_u8, 0..40),
    ) {
        let uid_of = |number: &u8| uid(&format!("Kubernetes//Pod/shop/e{number}"));
        let mut index = Index::new();
        index.apply(Change::Service(services.0));
        index.apply_all(&before);
        index.apply(Change::Service(services.1.clone()));
        index.apply_all(&after);
        for number in &gone {
            index.apply(Change::WorkloadGone(uid_of(number)));
        }
        let (service, client) = (services.1, client());
        let avoid: HashSet<_> = avoided.iter().map(uid_of).collect();
        let members: Vec<_> = index.endpoints(&service).collect();
        for seed in 0..8 {
            let request = Request { source: &client, port: PortMode::Service(80), seed, avoid: &avoid };
            let rank = |workload: &Workload| {
                Candidate::of(&service, &service.key(), workload, &request).map(|candidate| candidate.rank)
            };
            let best = members.iter().filter_map(|workload| rank(workload)).max();
            let picked = pick(&index, &service, &request);
            prop_assert_eq!(picked.as_ref().and_then(|pick| rank(&pick.workload)), best);
            if let Some(picked) = picked {
                prop_assert!(members.contains(&&picked.workload));
                prop_assert_eq!(picked.set_aside, best.is_some_and(|best| best.standing != Standing::Good));
            }
        }
    }
}

#[test]
fn an_endpoint_without_the_port_is_not_picked() {
    let web = service("web", &[]);
    let with = |name: &str, ports: &[(u16, u16)]| Workload {
        services: memberships(&[(&web, ports)]),
        ..workload(name, &["10.0.0.1"])
    };
    let named = Service { ports: port_map(&[(80, 0)]), ..web.clone() };
    let cases = [
        (&web, with("a", &[]), 80, Some(8080)),
        (&web, with("a", &[(80, 9090)]), 80, Some(9090)),
        (&web, with("a", &[(80, 0)]), 80, Some(8080)),
        (&web, with("a", &[]), 81, None),
        (&named, with("a", &[]), 80, None),
        (&named, with("a", &[(80, 9090)]), 80, Some(9090)),
    ];
    for (service, workload, port, expected) in cases {
        assert_eq!(target_port(service, &workload, port), expected, "{:?} {port}", workload.services);
    }
    let tunnel = ApplicationTunnel { protocol: ApplicationTunnelProtocol::Proxy, port: Some(15088) };
    let waypoint = Workload { application_tunnel: Some(tunnel), ..with("a", &[]) };
    assert_eq!(target_port(&web, &waypoint, 81), Some(81));
}

#[test]
fn another_network_without_a_gateway_is_the_last_resort() {
    let stranded = Workload { network_gateway: None, ..endpoint("stranded", "r1", "w1", "west") };
    let gated = || endpoint("gated", "r1", "w1", "west");
    let service = balanced(BalanceMode::Unspecified, &[]);
    assert_eq!(picked(&service, &[stranded.clone(), gated()], &[]), "gated");
    assert_eq!(picked(&service, &[stranded.clone(), gated()], &["gated"]), "gated");
    assert_eq!(picked(&service, &[stranded], &[]), "stranded");
}

#[test]
fn the_address_is_the_requested_one_or_of_its_family() {
    let pod = || workload("pod", &["10.0.0.1", "fd00::1", "10.0.0.2"]);
    let of = |ip_families| Some(Service { ip_families, ..service("web", &[]) });
    let hostname = Hostname::parse("db.example.com").unwrap();
    let named = || Workload { hostname: Some(hostname.clone()), ..workload("named", &[]) };
    let at = |text| Place::Ip(ip(text));
    let cases = [
        (pod(), None, "10.0.0.2:80", at("10.0.0.2")),
        (pod(), None, "10.9.9.9:80", at("10.0.0.1")),
        (pod(), None, "[fd00::9]:80", at("fd00::1")),
        (pod(), of(IpFamilies::V6Only), "10.9.9.9:80", at("fd00::1")),
        (pod(), of(IpFamilies::V4Only), "[fd00::9]:80", at("10.0.0.1")),
        (pod(), of(IpFamilies::Dual), "[fd00::9]:80", at("fd00::1")),
        (workload("four", &["10.0.0.1"]), None, "[fd00::9]:80", at("10.0.0.1")),
        (workload("four", &["10.0.0.1"]), of(IpFamilies::V6Only), "[fd00::9]:80", Place::Nowhere),
        (workload("none", &[]), None, "10.9.9.9:80", Place::Nowhere),
        (named(), None, "10.9.9.9:80", Place::Resolve(hostname.clone())),
    ];
    for (workload, service, original, expected) in cases {
        let found = place(&workload, service.as_ref(), original.parse().unwrap());
        assert_eq!(found, expected, "{} for {original}", workload.name);
    }
}

#[test]
fn resolved_addresses_are_chosen_by_family_and_seed() {
    let addresses = [ip("10.0.0.1"), ip("10.0.0.2"), ip("fd00::1")];
    let chosen = |original: &str| -> std::collections::BTreeSet<IpAddr> {
        (0..100).filter_map(|seed| choose(&addresses, original.parse().unwrap(), seed)).collect()
    };
    assert_eq!(chosen("10.9.9.9:80"), [ip("10.0.0.1"), ip("10.0.0.2")].into());
    assert_eq!(chosen("[fd00::9]:80"), [ip("fd00::1")].into());
    assert_eq!(choose(&addresses[2..], "10.9.9.9:80".parse().unwrap(), 1), Some(ip("fd00::1")));
    assert_eq!(choose(&[], "10.9.9.9:80".parse().unwrap(), 1), None);
}
