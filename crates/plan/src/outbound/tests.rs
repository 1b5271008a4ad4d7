// SPDX-License-Identifier: Apache-2.0
//! Every branch of the way out.

use std::collections::BTreeSet;

use mesh::{
    Change, Hostname, NetworkAddress, SpiffeId,
    service::{BalanceMode, LoadBalancing, WeightedWaypoint},
    workload::{Health, NetworkMode},
};
use proptest::prelude::*;

use super::*;
use crate::{
    fixtures::{
        failed, gateway_at, gateway_named, host, identity, index, ip, local, memberships, port_map, ready,
        service, vip, workload,
    },
    flow::Resolved,
};

/// A mesh around `client`, whose flows are decided on.
struct Mesh {
    changes: Vec<Change>,
    local: Local,
    resolved: Resolved,
    avoid: HashSet<WorkloadUid>,
}

impl Mesh {
    fn new() -> Self {
        let client = workload("client", &["10.0.0.1", "fd00::1"]);
        Self {
            local: local(&client),
            changes: vec![Change::Workload(client)],
            resolved: Resolved::default(),
            avoid: HashSet::new(),
        }
    }

    fn workload(mut self, workload: Workload) -> Self {
        self.changes.push(Change::Workload(workload));
        self
    }

    fn service(mut self, service: &Service) -> Self {
        self.changes.push(Change::Service(service.clone()));
        self
    }

    fn avoiding(mut self, names: &[&str]) -> Self {
        self.avoid = names.iter().map(|name| workload(name, &[]).uid).collect();
        self
    }

    fn ask(&self, destination: &str, seed: u64) -> Answer<Result<Hop, Failure>> {
        let flow = Flow {
            protocol: Protocol::TCP,
            source: "10.0.0.1:40000".parse().unwrap(),
            destination: destination.parse().unwrap(),
            seed,
            resolved: self.resolved.clone(),
        };
        decide(&index(self.changes.clone()), &self.local, &flow, &self.avoid)
    }

    #[track_caller]
    fn hop(&self, destination: &str) -> Hop {
        ready(self.ask(destination, 1))
    }

    #[track_caller]
    fn failure(&self, destination: &str) -> What {
        failed(self.ask(destination, 1))
    }
}

fn endpoint(name: &str, address: &str, service: &Service) -> Workload {
    Workload { services: memberships(&[(service, &[])]), ..workload(name, &[address]) }
}

fn tunnel(address: &str, authority: &str, expected: &[&str], end: End) -> Tunnel {
    Tunnel {
        address: address.parse().unwrap(),
        authority: authority.parse().unwrap(),
        expected: expected.iter().map(|name| identity(name)).collect(),
        end,
    }
}

fn name(workload: Option<&Arc<Workload>>) -> Option<&str> {
    workload.map(|workload| workload.name.as_str())
}

#[test]
fn a_workload_that_accepts_tunnels_is_reached_by_one() {
    let mesh = Mesh::new().workload(workload("server", &["10.0.1.1"]));
    let hop = mesh.hop("10.0.1.1:8080");
    let expected = tunnel("10.0.1.1:15008", "10.0.1.1:8080", &["server"], End::Workload);
    assert_eq!(hop.transport, Transport::Tunnel(expected));
    assert_eq!(name(hop.destination.as_ref()), Some("server"));
    assert_eq!(hop.endpoint(), hop.destination.as_ref().map(|known| &known.uid));
    assert_eq!(hop.source.name, "client");
    assert_eq!(hop.service, None);
    assert_eq!(hop.address(), "10.0.1.1:15008".parse().unwrap());
    assert_eq!(hop.authority().unwrap().to_string(), "10.0.1.1:8080");
}

#[test]
fn a_workload_without_tunnels_is_reached_in_plain_tcp() {
    for tunnel in [TunnelProtocol::None, TunnelProtocol::LegacyMtls] {
        let mesh = Mesh::new().workload(Workload { tunnel, ..workload("server", &["10.0.1.1"]) });
        let hop = mesh.hop("10.0.1.1:8080");
        assert_eq!(hop.transport, Transport::Plain("10.0.1.1:8080".parse().unwrap()));
        assert_eq!(name(hop.destination.as_ref()), Some("server"));
        assert_eq!(hop.authority(), None);
    }
}

#[test]
fn an_address_that_nobody_has_is_outside_the_mesh() {
    let hop = Mesh::new().hop("192.0.2.1:443");
    assert_eq!(hop.transport, Transport::Passthrough("192.0.2.1:443".parse().unwrap()));
    assert_eq!((hop.destination, hop.service), (None, None));
}

#[test]
fn a_service_is_reached_at_an_endpoint_and_its_port() {
    let web = Service { subject_alt_names: vec![identity("extra")], ..service("web", &["10.1.0.1"]) };
    let mesh = Mesh::new().service(&web).workload(endpoint("web-1", "10.0.1.1", &web));
    let hop = mesh.hop("10.1.0.1:80");
    let expected = tunnel("10.0.1.1:15008", "10.0.1.1:8080", &["web-1", "extra"], End::Workload);
    assert_eq!(hop.transport, Transport::Tunnel(expected));
    assert_eq!(hop.service.map(|service| service.key()), Some(web.key()));
    let own_port =
        Workload { services: memberships(&[(&web, &[(80, 9090)])]), ..workload("web-1", &["10.0.1.1"]) };
    let hop = Mesh::new().service(&web).workload(own_port).hop("10.1.0.1:80");
    assert_eq!(hop.authority().unwrap().to_string(), "10.0.1.1:9090");
}

#[test]
fn an_endpoint_of_the_family_of_the_destination_is_dialed_there() {
    let web = service("web", &["10.1.0.1", "fd01::1"]);
    let server =
        Workload { services: memberships(&[(&web, &[])]), ..workload("web-1", &["10.0.1.1", "fd00::2"]) };
    let mesh = Mesh::new().service(&web).workload(server);
    assert_eq!(mesh.hop("10.1.0.1:80").address(), "10.0.1.1:15008".parse().unwrap());
    assert_eq!(mesh.hop("[fd01::1]:80").address(), "[fd00::2]:15008".parse().unwrap());
}

#[test]
fn a_service_without_usable_endpoints_is_not_passed_through() {
    let web = service("web", &["10.1.0.1"]);
    let ill = Workload { health: Health::Unhealthy, ..endpoint("web-1", "10.0.1.1", &web) };
    let mesh = Mesh::new().service(&web).workload(ill);
    let address = |port: u16| SocketAddr::new(ip("10.1.0.1"), port);
    assert_eq!(mesh.failure("10.1.0.1:80"), What::NoHealthyUpstream(address(80)));
    let mesh = Mesh::new().service(&web).workload(endpoint("web-1", "10.0.1.1", &web));
    assert_eq!(
        mesh.failure("10.1.0.1:81"),
        What::NoHealthyUpstream(address(81)),
        "a port that it does not have"
    );
}

#[test]
fn a_service_that_says_so_is_passed_through_when_it_has_no_endpoint() {
    let load_balancing = LoadBalancing { mode: BalanceMode::Passthrough, ..LoadBalancing::default() };
    let external = Service { load_balancing, ..service("external", &["198.51.100.0/24"]) };
    let hop = Mesh::new().service(&external).hop("198.51.100.7:443");
    assert_eq!(hop.transport, Transport::Passthrough("198.51.100.7:443".parse().unwrap()));
    assert_eq!(hop.service.map(|service| service.key()), Some(external.key()));
}

#[test]
fn a_workload_goes_before_a_service_of_the_same_address() {
    let web = service("web", &["10.0.1.1"]);
    let mesh = Mesh::new().service(&web).workload(workload("server", &["10.0.1.1"]));
    assert_eq!(name(mesh.hop("10.0.1.1:80").destination.as_ref()), Some("server"));
}

#[test]
fn a_service_of_the_clients_namespace_goes_before_others() {
    let ours = service("ours", &["10.1.0.1"]);
    let theirs = Service { namespace: "bank".into(), ..service("theirs", &["10.1.0.1"]) };
    let mesh = Mesh::new()
        .service(&theirs)
        .service(&ours)
        .workload(endpoint("ours-1", "10.0.1.1", &ours))
        .workload(endpoint("theirs-1", "10.0.1.2", &theirs));
    assert_eq!(name(mesh.hop("10.1.0.1:80").destination.as_ref()), Some("ours-1"));
}

#[test]
fn a_workload_on_the_hosts_network_is_an_endpoint_but_not_an_address() {
    let web = service("web", &["10.1.0.1"]);
    let host = Workload {
        network_mode: NetworkMode::HostNetwork,
        tunnel: TunnelProtocol::None,
        ..endpoint("host", "192.0.2.1", &web)
    };
    let mesh = Mesh::new().service(&web).workload(host);
    assert_eq!(mesh.hop("10.1.0.1:80").transport, Transport::Plain("192.0.2.1:8080".parse().unwrap()));
    assert_eq!(mesh.hop("192.0.2.1:80").transport, Transport::Passthrough("192.0.2.1:80".parse().unwrap()));
}

#[test]
fn a_call_to_the_proxys_own_port_on_loopback_is_refused() {
    for destination in ["127.0.0.1:15001", "127.0.0.1:15006", "127.0.0.1:15008", "[::1]:15008"] {
        assert_eq!(Mesh::new().failure(destination), What::Recursive(destination.parse().unwrap()));
    }
    assert!(matches!(Mesh::new().hop("127.0.0.1:8080").transport, Transport::Passthrough(_)));
}

#[test]
fn nothing_passes_before_discovery_has_told_everything() {
    let mut mesh = Mesh::new().workload(workload("server", &["10.0.1.1"]));
    mesh.local.synced = false;
    assert_eq!(mesh.ask("10.0.1.1:80", 1), Answer::Needs(Missing::Sync));
    assert_eq!(mesh.ask("192.0.2.1:80", 1), Answer::Needs(Missing::Sync));
}

#[test]
fn nothing_passes_without_the_own_workload() {
    let mut mesh = Mesh::new();
    mesh.local.workload.service_account = "other".into();
    let needs = Answer::Needs(Missing::Workload(mesh.local.workload.clone()));
    assert_eq!(mesh.ask("192.0.2.1:80", 1), needs);
}

#[test]
fn of_several_workloads_of_the_same_key_the_one_of_this_cluster_is_meant() {
    let client = workload("client", &["10.0.0.1"]);
    let elsewhere = Workload {
        uid: WorkloadUid::parse("west//Pod/shop/client").unwrap(),
        cluster: "west".into(),
        network: Network("west".into()),
        ..client
    };
    let hop = Mesh::new().workload(elsewhere).hop("192.0.2.1:80");
    assert_eq!(hop.source.cluster, "Kubernetes");
}

#[test]
fn only_tcp_is_carried() {
    let mesh = Mesh::new();
    let flow = Flow {
        protocol: Protocol(17),
        source: "10.0.0.1:1".parse().unwrap(),
        destination: "10.0.0.2:53".parse().unwrap(),
        seed: 0,
        resolved: Resolved::default(),
    };
    let answer = decide(&index(mesh.changes), &mesh.local, &flow, &HashSet::new());
    assert_eq!(failed(answer), What::UnsupportedProtocol(17));
}

/// A service `waypoint` with one instance, and services of the same that use it.
fn waypoint() -> (Service, Workload) {
    let gateway =
        Service { subject_alt_names: vec![identity("any-waypoint")], ..service("waypoint", &["10.1.0.9"]) };
    let instance = endpoint("waypoint-1", "10.0.9.1", &gateway);
    (gateway, instance)
}

#[test]
fn a_service_with_a_waypoint_is_reached_through_it_under_its_original_address() {
    let (gateway, instance) = waypoint();
    let expected = ["waypoint-1", "any-waypoint"];
    for by in [gateway_named(gateway.key()), gateway_at("", "10.1.0.9")] {
        let web = Service { waypoint: Some(by), ..service("web", &["10.1.0.1"]) };
        let mesh = Mesh::new().service(&gateway).service(&web).workload(instance.clone());
        let hop = mesh.workload(endpoint("web-1", "10.0.1.1", &web)).hop("10.1.0.1:80");
        let expected = tunnel("10.0.9.1:15008", "10.1.0.1:80", &expected, End::Waypoint);
        assert_eq!(hop.transport, Transport::Tunnel(expected));
        assert_eq!(name(hop.destination.as_ref()), Some("waypoint-1"));
        assert_eq!(hop.service.map(|service| service.key()), Some(web.key()));
    }
}

#[test]
fn a_waypoint_known_by_its_own_address_is_dialed_there() {
    let server = Workload { waypoint: Some(gateway_at("", "10.0.9.1")), ..workload("server", &["10.0.1.1"]) };
    let (_, instance) = waypoint();
    let hop = Mesh::new().workload(server).workload(instance).hop("10.0.1.1:8080");
    let expected = tunnel("10.0.9.1:15008", "10.0.1.1:8080", &["waypoint-1"], End::Waypoint);
    assert_eq!(hop.transport, Transport::Tunnel(expected));
}

#[test]
fn a_waypoint_is_reached_by_a_tunnel_whatever_its_own_protocol() {
    let (gateway, instance) = waypoint();
    let web = Service { waypoint: Some(gateway_named(gateway.key())), ..service("web", &["10.1.0.1"]) };
    let instance = Workload { tunnel: TunnelProtocol::None, ..instance };
    let hop = Mesh::new().service(&gateway).service(&web).workload(instance).hop("10.1.0.1:80");
    assert!(matches!(hop.transport, Transport::Tunnel(Tunnel { end: End::Waypoint, .. })));
}

#[test]
fn traffic_is_refused_when_its_waypoint_is_not_there() {
    let (gateway, instance) = waypoint();
    let web = Service { waypoint: Some(gateway_named(gateway.key())), ..service("web", &["10.1.0.1"]) };
    let server = || endpoint("web-1", "10.0.1.1", &web);
    let unknown = What::UnknownWaypoint("shop/waypoint.shop.svc.cluster.local".to_owned());
    let mesh = || Mesh::new().service(&web).workload(server());
    assert_eq!(mesh().failure("10.1.0.1:80"), unknown, "no service");
    assert_eq!(mesh().service(&gateway).failure("10.1.0.1:80"), unknown, "no instance");
    let ill = Workload { health: Health::Unhealthy, ..instance };
    assert_eq!(mesh().service(&gateway).workload(ill).failure("10.1.0.1:80"), unknown, "no healthy instance");
    let at = Service { waypoint: Some(gateway_at("", "10.1.0.9")), ..web.clone() };
    let by_address = Mesh::new().service(&at).workload(server());
    assert_eq!(by_address.failure("10.1.0.1:80"), What::UnknownWaypoint("/10.1.0.9".to_owned()));
}

#[test]
fn the_waypoint_of_an_endpoint_is_not_for_traffic_to_its_service() {
    let (gateway, instance) = waypoint();
    let web = service("web", &["10.1.0.1"]);
    let server =
        Workload { waypoint: Some(gateway_named(gateway.key())), ..endpoint("web-1", "10.0.1.1", &web) };
    let mesh = Mesh::new().service(&gateway).service(&web).workload(instance).workload(server);
    assert_eq!(name(mesh.hop("10.1.0.1:80").destination.as_ref()), Some("web-1"));
    assert_eq!(name(mesh.hop("10.0.1.1:8080").destination.as_ref()), Some("waypoint-1"));
}

#[test]
fn what_comes_from_the_waypoint_does_not_go_back_to_it() {
    let (gateway, instance) = waypoint();
    let twin = Workload { addresses: vec![ip("10.0.9.2")], ..endpoint("waypoint-2", "10.0.9.2", &gateway) };
    for by in [gateway_named(gateway.key()), gateway_at("", "10.1.0.9"), gateway_at("", "10.0.9.1")] {
        let web = Service { waypoint: Some(by.clone()), ..service("web", &["10.1.0.1"]) };
        let server = Workload { waypoint: Some(by), ..endpoint("web-1", "10.0.1.1", &web) };
        let mut mesh =
            Mesh::new().service(&gateway).service(&web).workload(instance.clone()).workload(server);
        mesh.local.workload = instance.key();
        mesh = mesh.workload(twin.clone());
        for destination in ["10.1.0.1:80", "10.0.1.1:8080"] {
            assert_eq!(name(mesh.hop(destination).destination.as_ref()), Some("web-1"), "{destination}");
        }
    }
}

#[test]
fn weighted_waypoints_share_the_flows_and_go_before_the_single_one() {
    let instance = |name: &str, address: &str| {
        let gateway = service(name, &[]);
        (gateway.clone(), endpoint(&format!("{name}-1"), address, &gateway))
    };
    let (old, old_1) = instance("old", "10.0.9.1");
    let (new, new_1) = instance("new", "10.0.9.2");
    let (single, single_1) = instance("single", "10.0.9.3");
    let weighted =
        |gateway: &Service, weight| WeightedWaypoint { destination: gateway_named(gateway.key()), weight };
    let mut web = Service {
        waypoint: Some(gateway_named(single.key())),
        weighted_waypoints: vec![weighted(&old, 90), weighted(&new, 10)],
        ..service("web", &["10.1.0.1"])
    };
    let used = |web: &Service| -> (usize, BTreeSet<String>) {
        let services = [&old, &new, &single, web];
        let mesh = services.into_iter().fold(Mesh::new(), Mesh::service);
        let mesh =
            [&old_1, &new_1, &single_1].into_iter().fold(mesh, |mesh, known| mesh.workload(known.clone()));
        let next = |seed| ready(mesh.ask("10.1.0.1:80", seed)).next.map(|known| known.name.to_string());
        let names: Vec<String> = (0..500).filter_map(next).collect();
        (names.iter().filter(|name| *name == "new-1").count(), names.into_iter().collect())
    };
    let (canary, names) = used(&web);
    assert!((25..80).contains(&canary), "{canary} of 500");
    assert_eq!(names, ["new-1".to_owned(), "old-1".to_owned()].into());
    web.weighted_waypoints = vec![weighted(&old, 100), weighted(&new, 0)];
    assert_eq!(used(&web).1, ["old-1".to_owned()].into());
    web.weighted_waypoints = vec![weighted(&old, 0)];
    assert_eq!(used(&web).1, ["single-1".to_owned()].into());
}

#[test]
fn an_endpoint_to_avoid_is_taken_only_when_there_is_no_other() {
    let web = service("web", &["10.1.0.1"]);
    let mesh = || {
        Mesh::new()
            .service(&web)
            .workload(endpoint("web-1", "10.0.1.1", &web))
            .workload(endpoint("web-2", "10.0.1.2", &web))
    };
    let hop = mesh().avoiding(&["web-1"]).hop("10.1.0.1:80");
    assert_eq!((name(hop.next.as_ref()), hop.set_aside), (Some("web-2"), false));
    let hop = mesh().avoiding(&["web-1", "web-2"]).hop("10.1.0.1:80");
    assert!(hop.set_aside);
    let hop =
        Mesh::new().workload(workload("server", &["10.0.1.1"])).avoiding(&["server"]).hop("10.0.1.1:80");
    assert!(hop.set_aside, "there is no other of an address");
}

#[test]
fn a_workload_that_has_only_a_name_is_resolved_first() {
    let db = service("db", &["10.1.0.1"]);
    let hostname = host("db.example.com");
    let named = Workload {
        hostname: Some(hostname.clone()),
        addresses: vec![],
        tunnel: TunnelProtocol::None,
        ..endpoint("db-1", "10.0.0.9", &db)
    };
    let mut mesh = Mesh::new().service(&db).workload(named);
    assert_eq!(mesh.ask("10.1.0.1:80", 1), Answer::Needs(Missing::Host(hostname.clone())));
    mesh.resolved.insert(hostname.clone(), vec![ip("2001:db8::1"), ip("203.0.113.5")]);
    assert_eq!(mesh.hop("10.1.0.1:80").transport, Transport::Plain("203.0.113.5:8080".parse().unwrap()));
    mesh.resolved.insert(hostname.clone(), vec![]);
    assert_eq!(mesh.failure("10.1.0.1:80"), What::Unresolved(hostname));
}

/// A service with one endpoint on network `west`, which a gateway leads to.
fn west() -> (Service, Workload, Workload) {
    let web = Service {
        subject_alt_names: vec![identity("web"), identity("web2")],
        ..service("web", &["10.1.0.1"])
    };
    let network = Network("west".into());
    let remote = Workload {
        network: network.clone(),
        network_gateway: Some(gateway_at("west", "203.0.113.1")),
        addresses: vec![],
        ..endpoint("remote", "10.0.0.9", &web)
    };
    let gateway = Workload { network, ..workload("gateway", &["203.0.113.1"]) };
    (web, remote, gateway)
}

#[test]
fn an_endpoint_on_another_network_is_reached_by_two_tunnels() {
    let (web, remote, gateway) = west();
    let mesh = Mesh::new().service(&web).workload(remote).workload(gateway);
    let hop = mesh.hop("10.1.0.1:80");
    let authority = "web.shop.svc.cluster.local:80";
    let inner = Inner {
        authority: authority.parse().unwrap(),
        expected: Arc::new([identity("web"), identity("web2")]),
        forwarded_network: Network::default(),
    };
    let outer = tunnel("203.0.113.1:15008", authority, &["gateway"], End::Gateway);
    assert_eq!(hop.transport, Transport::Nested { outer, inner });
    assert_eq!(name(hop.next.as_ref()), Some("gateway"));
    assert_eq!(name(hop.destination.as_ref()), Some("remote"));
    assert_eq!(hop.authority().unwrap().to_string(), authority);
    assert!(!hop.set_aside);
}

#[test]
fn a_gateway_known_by_name_is_one_of_its_instances() {
    let (web, remote, gateway) = west();
    let service = Service { vips: vec![vip("west", "203.0.113.9")], ..service("gateway", &[]) };
    let remote = Workload { network_gateway: Some(gateway_named(service.key())), ..remote };
    let gateway = Workload { services: memberships(&[(&service, &[])]), ..gateway };
    let hop =
        Mesh::new().service(&web).service(&service).workload(remote).workload(gateway).hop("10.1.0.1:80");
    assert_eq!(hop.address(), "203.0.113.1:15008".parse().unwrap());
}

#[test]
fn another_network_without_a_way_there_is_refused() {
    let (web, remote, gateway) = west();
    let no_route = |mesh: Mesh| match mesh.failure("10.1.0.1:80") {
        What::NoRoute(cause) => cause,
        other => panic!("{other}"),
    };
    let stranded = Workload { network_gateway: None, ..remote.clone() };
    let cause = no_route(Mesh::new().service(&web).workload(stranded).workload(gateway.clone()));
    assert!(cause.starts_with("no gateway of network west"), "{cause}");
    let cause = no_route(Mesh::new().service(&web).workload(remote.clone()));
    assert_eq!(cause, "unknown gateway: west/203.0.113.1");
    let nameless = Service { subject_alt_names: vec![], ..web };
    let cause = no_route(Mesh::new().service(&nameless).workload(remote).workload(gateway));
    assert!(cause.starts_with("no identities known"), "{cause}");
}

#[test]
fn a_waypoint_on_another_network_is_reached_by_two_tunnels() {
    let (_, _, gateway) = west();
    let waypoint = Service { subject_alt_names: vec![identity("waypoint")], ..service("waypoint", &[]) };
    let instance = Workload {
        network: Network("west".into()),
        network_gateway: Some(gateway_at("west", "203.0.113.1")),
        addresses: vec![],
        ..endpoint("waypoint-west", "10.0.0.9", &waypoint)
    };
    let by = Some(gateway_named(waypoint.key()));
    let web = Service { waypoint: by.clone(), ..service("web", &["10.1.0.1"]) };
    let server = Workload { waypoint: by, ..workload("server", &["10.0.1.1"]) };
    let mesh =
        Mesh::new().service(&web).service(&waypoint).workload(instance).workload(gateway).workload(server);
    let hop = mesh.hop("10.1.0.1:80");
    let Transport::Nested { outer, inner } = hop.transport else { panic!("{hop:?}") };
    assert_eq!(outer.authority.to_string(), "web.shop.svc.cluster.local:80");
    assert_eq!(*inner.expected, [identity("waypoint")]);
    assert!(matches!(mesh.failure("10.0.1.1:8080"), What::NoRoute(_)), "only services cross networks");
}

fn any_workload() -> impl Strategy<Value = Workload> {
    let place = (0..3_u8, proptest::sample::select(&["", "west"]), any::<bool>(), any::<bool>());
    (0..6_u8, place, any::<bool>(), any::<bool>(), any::<bool>(), 0..3_u8).prop_map(
        |(number, (address, network, gateway, resolves), hbone, healthy, web, waypoint)| Workload {
            network: Network(network.into()),
            network_gateway: gateway.then(|| gateway_at("west", "10.0.0.1")),
            hostname: resolves.then(|| host("name.example")),
            tunnel: if hbone { TunnelProtocol::Hbone } else { TunnelProtocol::None },
            health: if healthy { Health::Healthy } else { Health::Unhealthy },
            waypoint: waypoint_choice(waypoint),
            services: if web { memberships(&[(&service("web", &[]), &[])]) } else { Arc::default() },
            ..workload(&format!("w{number}"), &[["10.0.0.1", "10.0.0.2", "fd00::2"][usize::from(address)]])
        },
    )
}

fn waypoint_choice(number: u8) -> Option<GatewayAddress> {
    match number {
        0 => None,
        1 => Some(gateway_named(service("web", &[]).key())),
        _ => Some(gateway_at("", "10.0.0.2")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever discovery says: the same question has the same answer, no tunnel is without expected identities, what
    /// belongs to the mesh never leaves as if it did not, and one name resolved is the most that is asked for.
    #[test]
    fn every_answer_is_safe(
        workloads in proptest::collection::vec(any_workload(), 0..6),
        waypoint in 0..3_u8,
        names in any::<bool>(),
        destination in proptest::sample::select(&["10.1.0.1:80", "10.0.0.1:80", "10.0.0.2:8080", "192.0.2.1:80"]),
        seed in any::<u64>(),
    ) {
        let subject_alt_names: Vec<SpiffeId> = if names { vec![identity("web")] } else { vec![] };
        let web = Service { waypoint: waypoint_choice(waypoint), subject_alt_names, ..service("web", &["10.1.0.1"]) };
        let mut mesh = workloads.into_iter().fold(Mesh::new().service(&web), Mesh::workload);
        let mut answer = mesh.ask(destination, seed);
        prop_assert_eq!(&answer, &mesh.ask(destination, seed));
        if let Answer::Needs(Missing::Host(name)) = &answer {
            mesh.resolved.insert(Hostname::clone(name), vec![ip("203.0.113.1")]);
            answer = mesh.ask(destination, seed);
        }
        let Answer::Ready(decision) = answer else { return Err(TestCaseError::fail(format!("{answer:?}"))) };
        let Ok(hop) = decision else { return Ok(()) };
        let address: SocketAddr = destination.parse().unwrap();
        let index = index(mesh.changes.clone());
        let known = index.workload_at(&NetworkAddress::new(Network::default(), address.ip())).is_some()
            || address.ip() == ip("10.1.0.1");
        match hop.transport {
            Transport::Passthrough(to) => prop_assert!(!known && to == address),
            Transport::Plain(_) => prop_assert_ne!(hop.next.unwrap().tunnel, TunnelProtocol::Hbone),
            Transport::Tunnel(tunnel) => prop_assert!(!tunnel.expected.is_empty()),
            Transport::Nested { outer, inner } => {
                prop_assert!(!outer.expected.is_empty() && !inner.expected.is_empty());
            }
        }
    }

    #[test]
    fn a_port_of_the_service_is_mapped_or_refused(port in 1..100_u16) {
        let web = Service { ports: port_map(&[(80, 8080), (81, 8081)]), ..service("web", &["10.1.0.1"]) };
        let mesh = Mesh::new().service(&web).workload(endpoint("web-1", "10.0.1.1", &web));
        let destination = format!("10.1.0.1:{port}");
        match mesh.ask(&destination, 0) {
            Answer::Ready(Ok(hop)) => {
                let expected = format!("10.0.1.1:{}", 8000 + port);
                prop_assert!(port == 80 || port == 81);
                prop_assert_eq!(hop.authority().unwrap().to_string(), expected);
            }
            other => prop_assert!(port != 80 && port != 81, "{:?}", other),
        }
    }
}
