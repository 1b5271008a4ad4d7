// SPDX-License-Identifier: Apache-2.0
//! The codec against arbitrary values, and against bytes put together from field numbers alone.

use std::{collections::BTreeMap, sync::Arc};

use mesh::{
    Hostname, Network, NetworkAddress, Policy, PolicyName, Service, SpiffeId, TrustDomain, Workload,
    WorkloadUid,
    policy::{Action, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch},
    service::{
        AppProtocol, BalanceMode, HealthPolicy, IpFamilies, LoadBalancing, Scope, ServicePort, Vip,
        Visibility, WeightedWaypoint,
    },
    workload::{
        ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, Health, Locality,
        NetworkMode, TunnelProtocol, WorkloadType,
    },
};
use proptest::prelude::*;

use super::*;
use crate::arbitrary;

/// A protobuf message written by hand: tags and wire types, no schema.
#[derive(Clone, Default)]
struct Raw(Vec<u8>);

impl Raw {
    fn new() -> Self {
        Self::default()
    }

    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut raw = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        raw.0.extend_from_slice(bytes);
        raw
    }

    fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, message.0)
    }
}

fn decoded(kind: Kind, name: &str, raw: &Raw) -> Resource {
    decode(kind, name, &raw.0).unwrap()
}

fn domain(text: &str) -> TrustDomain {
    TrustDomain::parse(text).unwrap()
}

fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(resource in arbitrary::resource()) {
        let name = resource.name();
        let decoded = decode(resource.kind(), &name, &resource.encode());
        prop_assert_eq!(decoded.as_ref(), Ok(&resource));
        prop_assert_eq!(decoded.unwrap().encode(), resource.encode());
    }

    #[test]
    fn arbitrary_bytes_are_refused_or_mean_something_that_encodes(bytes in any::<Vec<u8>>(), name in ".{0,8}") {
        for kind in Kind::ALL {
            if let Ok(resource) = decode(kind, &name, &bytes) {
                prop_assert_eq!(decode(kind, &name, &resource.encode()), Ok(resource));
            }
        }
    }

    #[test]
    fn a_message_with_a_flipped_bit_never_panics(
        resource in arbitrary::resource(), at in any::<proptest::sample::Index>(), bit in 0_u8..8,
    ) {
        let mut bytes = resource.encode();
        if !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        decode(resource.kind(), &resource.name(), &bytes).ok();
    }
}

fn raw_port(service: u64, target: u64, protocol: u64) -> Raw {
    Raw::new().number(1, service).number(2, target).number(3, protocol)
}

fn raw_gateway_by_name(namespace: &str, host: &str, port: u64) -> Raw {
    Raw::new().message(1, Raw::new().bytes(1, namespace).bytes(2, host)).number(3, port)
}

fn raw_gateway_by_address(network: &str, ip: &[u8], port: u64) -> Raw {
    Raw::new().message(2, Raw::new().bytes(1, network).bytes(2, ip)).number(3, port)
}

const MAPPED: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 9];

fn raw_workload() -> Raw {
    let ports = Raw::new().message(1, raw_port(80, 8080, 1)).message(1, raw_port(443, 0, 5));
    Raw::new()
        .bytes(1, "web-1")
        .bytes(2, "shop")
        .bytes(3, [10, 0, 0, 7])
        .bytes(3, MAPPED)
        .bytes(4, "east")
        .number(5, 1)
        .bytes(6, "example.org")
        .bytes(7, "web")
        .message(8, raw_gateway_by_name("shop", "waypoint.shop.svc.cluster.local", 15008))
        .bytes(9, "node-a")
        .bytes(10, "web")
        .bytes(11, "v2")
        .number(12, 2)
        .bytes(13, "web-deployment")
        .number(14, 1)
        .bytes(16, "shop/allow-front")
        .bytes(16, "istio-system/istio_converted_static_strict")
        .number(17, 1)
        .bytes(18, "cluster-7")
        .message(19, raw_gateway_by_address("west", &[192, 0, 2, 1], 15009))
        .bytes(20, "cluster-7//Pod/shop/web-1")
        .bytes(21, "web.example.org")
        .message(22, Raw::new().bytes(1, "shop/web.shop.svc.cluster.local").message(2, ports))
        .message(23, Raw::new().number(1, 1).number(2, 15088))
        .message(24, Raw::new().bytes(1, "r1").bytes(2, "z1").bytes(3, "s1"))
        .number(25, 1)
        .message(27, Raw::new().number(1, 3))
}

fn expected_workload() -> Workload {
    let ports = BTreeMap::from([
        (80, ServicePort { target: Some(8080), protocol: AppProtocol::Http11 }),
        (443, ServicePort { target: None, protocol: AppProtocol::Tls }),
    ]);
    Workload {
        uid: WorkloadUid::parse("cluster-7//Pod/shop/web-1").unwrap(),
        name: "web-1".into(),
        namespace: "shop".into(),
        trust_domain: domain("example.org"),
        service_account: "web".into(),
        addresses: vec!["10.0.0.7".parse().unwrap(), "10.0.0.9".parse().unwrap()],
        hostname: Some(host("web.example.org")),
        network: Network("east".into()),
        network_gateway: Some(GatewayAddress {
            destination: GatewayDestination::Address(NetworkAddress::new(
                Network("west".into()),
                "192.0.2.1".parse().unwrap(),
            )),
            hbone_port: 15009,
        }),
        network_mode: NetworkMode::HostNetwork,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: true,
        application_tunnel: Some(ApplicationTunnel {
            protocol: ApplicationTunnelProtocol::Proxy,
            port: Some(15088),
        }),
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Hostname(
                "shop/waypoint.shop.svc.cluster.local".parse().unwrap(),
            ),
            hbone_port: 15008,
        }),
        node: "node-a".into(),
        locality: Locality { region: "r1".into(), zone: "z1".into(), subzone: "s1".into() },
        cluster: "cluster-7".into(),
        canonical_name: "web".into(),
        canonical_revision: "v2".into(),
        workload_type: WorkloadType::Pod,
        workload_name: "web-deployment".into(),
        policies: vec![
            "shop/allow-front".parse().unwrap(),
            "istio-system/istio_converted_static_strict".parse().unwrap(),
        ],
        services: Arc::new(BTreeMap::from([("shop/web.shop.svc.cluster.local".parse().unwrap(), ports)])),
        health: Health::Unhealthy,
        capacity: 3,
    }
}

#[test]
fn a_route_with_a_field_of_a_later_version_is_refused_and_not_cut() {
    let route = |raw: Raw| raw.number(1, 1).bytes(2, "shop").bytes(3, "web");
    let name = "HTTPRoute/shop/web";
    assert!(decode(Kind::Route, name, &route(Raw::new()).0).is_ok());
    assert_eq!(decode(Kind::Route, name, &route(Raw::new()).number(99, 1).0), Err(Refused::Newer));
    let rule = route(Raw::new()).message(6, Raw::new().bytes(99, "x"));
    assert_eq!(decode(Kind::Route, name, &rule.0), Err(Refused::Newer));
    let kind = Raw::new().number(1, 9).bytes(2, "shop").bytes(3, "web");
    let refused = decode(Kind::Route, name, &kind.0).unwrap_err();
    assert_eq!(refused.to_string(), "field kind");
}

#[test]
fn a_workload_written_by_field_numbers_means_what_they_say() {
    let raw = Raw::new().message(1, raw_workload());
    let expected = expected_workload();
    assert_eq!(decoded(Kind::Address, expected.uid.as_str(), &raw), expected.into());
}

#[test]
fn what_a_newer_schema_adds_to_a_workload_is_passed_over() {
    let raw = raw_workload()
        .message(26, Raw::new().bytes(1, "some.extension"))
        .number(200, 7)
        .bytes(201, "later")
        .number(12, 99);
    let expected = Workload { workload_type: WorkloadType::Deployment, ..expected_workload() };
    let raw = Raw::new().message(1, raw);
    assert_eq!(decoded(Kind::Address, expected.uid.as_str(), &raw), expected.into());
}

#[test]
fn a_workload_that_leaves_out_everything_has_the_defaults_of_the_wire() {
    let raw = Raw::new().message(1, Raw::new().bytes(20, "uid"));
    let Resource::Workload(workload) = decoded(Kind::Address, "uid", &raw) else { panic!("a workload") };
    assert_eq!(workload.trust_domain.as_str(), "cluster.local");
    assert_eq!(workload.service_account, "default");
    assert_eq!(workload.cluster, "Kubernetes");
    assert_eq!(workload.capacity, 1);
    assert_eq!(workload.tunnel, TunnelProtocol::None);
    assert_eq!(workload.health, Health::Healthy);
    assert_eq!(Resource::from(*workload).encode(), raw.0);
}

#[test]
fn a_capacity_of_zero_is_not_an_absent_one() {
    let raw = Raw::new().message(1, Raw::new().bytes(20, "uid").message(27, Raw::new()));
    let Resource::Workload(workload) = decoded(Kind::Address, "uid", &raw) else { panic!("a workload") };
    assert_eq!(workload.capacity, 0);
}

fn raw_service() -> Raw {
    let balancing = Raw::new().bytes(1, [1, 2, 3, 4, 5, 6]).number(2, 2).number(3, 1);
    Raw::new()
        .bytes(1, "web")
        .bytes(2, "shop")
        .bytes(3, "Web.Shop.svc.cluster.local.")
        .message(4, Raw::new().bytes(1, "east").bytes(2, [10, 1, 0, 1]))
        .message(4, Raw::new().bytes(2, [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]))
        .message(4, Raw::new().bytes(2, [10, 9, 8, 7]).number(3, 16))
        .message(4, Raw::new().bytes(2, MAPPED).number(3, 120))
        .message(5, raw_port(80, 8080, 2))
        .message(5, raw_port(9090, 9090, 4))
        .bytes(6, "spiffe://cluster.local/ns/shop/sa/web")
        .bytes(6, "web.example.org")
        .message(7, raw_gateway_by_address("", &[10, 1, 0, 2], 0))
        .message(8, balancing)
        .number(9, 3)
        .number(11, 1)
        .number(12, 1)
        .message(13, Raw::new().message(1, raw_gateway_by_name("shop", "canary", 15008)).number(2, 20))
        .number(14, 1)
}

fn expected_service() -> Service {
    let vip = |network: &str, net: &str| Vip { network: Network(network.into()), net: net.parse().unwrap() };
    Service {
        name: "web".into(),
        namespace: "shop".into(),
        hostname: host("web.shop.svc.cluster.local"),
        vips: vec![
            vip("east", "10.1.0.1/32"),
            vip("", "fd00::1/128"),
            vip("", "10.9.0.0/16"),
            vip("", "10.0.0.0/24"),
        ],
        ports: BTreeMap::from([
            (80, ServicePort { target: Some(8080), protocol: AppProtocol::Http2 }),
            (9090, ServicePort { target: Some(9090), protocol: AppProtocol::Tcp }),
        ]),
        subject_alt_names: vec![SpiffeId::new(domain("cluster.local"), "shop".into(), "web".into())],
        waypoint: Some(GatewayAddress {
            destination: GatewayDestination::Address(NetworkAddress::new(
                Network::default(),
                "10.1.0.2".parse().unwrap(),
            )),
            hbone_port: 15008,
        }),
        weighted_waypoints: vec![WeightedWaypoint {
            destination: GatewayAddress {
                destination: GatewayDestination::Hostname("shop/canary".parse().unwrap()),
                hbone_port: 15008,
            },
            weight: 20,
        }],
        load_balancing: LoadBalancing {
            routing_preference: vec![
                Scope::Region,
                Scope::Zone,
                Scope::Subzone,
                Scope::Node,
                Scope::Cluster,
                Scope::Network,
            ],
            mode: BalanceMode::Failover,
            health_policy: HealthPolicy::AllowAll,
        },
        ip_families: IpFamilies::Dual,
        canonical: true,
        ingress_use_waypoint: true,
        visibility: Visibility::Namespace,
    }
}

#[test]
fn a_service_written_by_field_numbers_means_what_they_say() {
    let raw = Raw::new().message(2, raw_service());
    let name = "shop/Web.Shop.svc.cluster.local.";
    assert_eq!(decoded(Kind::Address, name, &raw), expected_service().into());
}

#[test]
fn an_application_protocol_of_a_newer_schema_is_not_declared() {
    let raw = Raw::new().message(2, Raw::new().bytes(2, "a").bytes(3, "b").message(5, raw_port(80, 80, 99)));
    let Resource::Service(service) = decoded(Kind::Address, "a/b", &raw) else { panic!("a service") };
    assert_eq!(service.ports[&80].protocol, AppProtocol::Unknown);
}

fn raw_string(sort: u64, text: &str) -> Raw {
    Raw::new().bytes(sort, text)
}

fn raw_policy() -> Raw {
    let raw_net = |ip: &[u8], length| Raw::new().bytes(1, ip).number(2, length);
    let account = Raw::new().bytes(1, "shop").bytes(2, "front");
    let everything = Raw::new()
        .message(1, raw_string(1, "shop"))
        .message(2, raw_string(2, "kube-"))
        .message(3, raw_string(1, "spiffe://cluster.local/ns/shop/sa/front"))
        .message(3, raw_string(3, "/sa/front"))
        .message(4, Raw::new().message(4, Raw::new()))
        .message(5, raw_net(&[10, 0, 0, 0], 8))
        .message(6, raw_net(&[10, 1, 2, 3], 32))
        .message(7, raw_net(&[0; 16], 0))
        .message(8, raw_net(&MAPPED, 128))
        .bytes(9, [80, 0xbb, 0x03])
        .number(10, 8080)
        .message(11, account.clone())
        .message(12, account);
    let clause = Raw::new().message(2, everything).message(2, Raw::new());
    Raw::new()
        .bytes(1, "front-only")
        .bytes(2, "istio-system")
        .number(3, 0)
        .number(4, 1)
        .message(5, Raw::new().message(1, clause).message(1, Raw::new()))
        .message(5, Raw::new())
        .number(6, 1)
}

fn expected_policy() -> Policy {
    let account = ServiceAccountMatch { namespace: "shop".into(), service_account: "front".into() };
    let everything = Match {
        namespaces: vec![StringMatch::Exact("shop".into())],
        not_namespaces: vec![StringMatch::Prefix("kube-".into())],
        principals: vec![
            StringMatch::Exact("cluster.local/ns/shop/sa/front".into()),
            StringMatch::Suffix("/sa/front".into()),
        ],
        not_principals: vec![StringMatch::Presence],
        service_accounts: vec![account.clone()],
        not_service_accounts: vec![account],
        source_ips: vec!["10.0.0.0/8".parse().unwrap()],
        not_source_ips: vec!["10.1.2.3/32".parse().unwrap()],
        destination_ips: vec!["::/0".parse().unwrap()],
        not_destination_ips: vec!["10.0.0.9/32".parse().unwrap()],
        destination_ports: vec![80, 443],
        not_destination_ports: vec![8080],
    };
    Policy {
        // Global, and still under the namespace that it is named by.
        name: PolicyName { namespace: "istio-system".into(), name: "front-only".into() },
        scope: PolicyScope::Global,
        action: Action::Deny,
        rules: vec![
            Rule { clauses: vec![Clause { matches: vec![everything, Match::default()] }, Clause::default()] },
            Rule::default(),
        ],
        dry_run: true,
    }
}

#[test]
fn a_policy_written_by_field_numbers_means_what_they_say() {
    let policy = decoded(Kind::Authorization, "istio-system/front-only", &raw_policy());
    assert_eq!(policy, expected_policy().into());
}

#[test]
fn what_cannot_be_honoured_is_refused_with_its_field() {
    let workload = |raw: Raw| (Kind::Address, "uid", Raw::new().message(1, raw.bytes(20, "uid")));
    let service = |raw: Raw| (Kind::Address, "a/b", Raw::new().message(2, raw.bytes(2, "a").bytes(3, "b")));
    let policy = |raw: Raw| (Kind::Authorization, "a/p", raw.bytes(1, "p").bytes(2, "a"));
    let matching = |raw: Raw| Raw::new().message(5, Raw::new().message(1, Raw::new().message(2, raw)));
    let cases = [
        (workload(Raw::new().bytes(3, [1, 2, 3])), "field addresses: is an address of 3 bytes"),
        (workload(Raw::new().number(5, 9)), "field tunnel_protocol: has the unknown value 9"),
        (
            workload(Raw::new().bytes(6, "a/b")),
            "field trust_domain: invalid trust domain \"a/b\": may only have letters, digits, '.', '-' and '_'",
        ),
        (workload(Raw::new().message(8, Raw::new())), "field waypoint: is missing"),
        (
            workload(Raw::new().bytes(16, "bare")),
            "field authorization_policies: invalid policy name \"bare\": must be <namespace>/<name>",
        ),
        (workload(Raw::new().number(17, 2)), "field status: has the unknown value 2"),
        (workload(Raw::new().number(25, 2)), "field network_mode: has the unknown value 2"),
        (
            workload(Raw::new().message(
                22,
                Raw::new().bytes(1, "a/b").message(2, Raw::new().message(1, raw_port(70_000, 1, 0))),
            )),
            "field services.ports: 70000 is not a port",
        ),
        (service(Raw::new().message(5, raw_port(0, 80, 0))), "field ports: 0 is not a port"),
        (
            service(Raw::new().message(4, Raw::new().bytes(2, [1, 2, 3, 4]).number(3, 33))),
            "field addresses: has a prefix length of 33",
        ),
        (
            service(Raw::new().message(8, Raw::new().number(2, 4))),
            "field load_balancing.mode: has the unknown value 4",
        ),
        (policy(Raw::new().number(3, 3)), "field scope: has the unknown value 3"),
        (policy(Raw::new().number(4, 2)), "field action: has the unknown value 2"),
        (policy(Raw::new().message(7, Raw::new().bytes(1, "x"))), "field extensions: \"x\" is not supported"),
        (policy(matching(Raw::new().message(1, Raw::new()))), "field rules.namespaces: is missing"),
        (
            policy(matching(Raw::new().message(13, Raw::new().bytes(1, "method")))),
            "field rules.extensions: \"method\" is not supported",
        ),
        (
            policy(matching(Raw::new().number(9, 65_536))),
            "field rules.destination_ports: 65536 is not a port",
        ),
    ];
    for ((kind, name, raw), expected) in cases {
        let refused = decode(kind, name, &raw.0).unwrap_err();
        let source = std::error::Error::source(&refused).map(ToString::to_string).unwrap_or_default();
        assert_eq!(format!("{refused}: {source}"), expected);
    }
}

#[test]
fn a_resource_is_held_to_the_name_it_was_sent_under() {
    let workload = Resource::from(arbitrary::plain_workload("web", "10.0.0.1"));
    let service = Resource::from(arbitrary::plain_service("web", "10.1.0.1"));
    let policy = Resource::from(arbitrary::plain_policy("deny"));
    let cases = [
        (&workload, "Kubernetes//Pod/shop/web", true),
        (&workload, "Kubernetes//Pod/shop/other", false),
        (&service, "shop/web.shop.svc.cluster.local", true),
        (&service, "shop/WEB.shop.svc.cluster.local", true),
        (&service, "bank/web.shop.svc.cluster.local", false),
        (&policy, "shop/deny", true),
        (&policy, "shop/allow", false),
    ];
    for (resource, name, accepted) in cases {
        let decoded = decode(resource.kind(), name, &resource.encode());
        assert_eq!(decoded.is_ok(), accepted, "{name}: {decoded:?}");
    }
}

#[test]
fn what_is_no_resource_of_its_type_is_refused() {
    let refused = decode(Kind::Address, "x", &[]).unwrap_err();
    assert_eq!(refused, Refused::Empty);
    let refused = decode(Kind::Authorization, "x", &[0xff]).unwrap_err();
    assert!(matches!(refused, Refused::Malformed { kind: Kind::Authorization, .. }), "{refused}");
}
