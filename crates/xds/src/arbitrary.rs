// SPDX-License-Identifier: Apache-2.0
//! Arbitrary resources for properties: every value that `mesh` can hold and the wire can carry.

mod guard;
mod route;
mod telemetry;
mod traffic;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use arcstr::ArcStr;
use ipnet::IpNet;
use mesh::{
    Hostname, Network, NetworkAddress, Policy, PolicyName, Service, ServiceName, SpiffeId, TrustDomain,
    Workload, WorkloadUid,
    policy::{Action, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch},
    service::{
        AppProtocol, BalanceMode, HealthPolicy, IpFamilies, LoadBalancing, PortMap, Scope, ServicePort, Vip,
        Visibility, WeightedWaypoint,
    },
    workload::{
        ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination, Health, Locality,
        NetworkMode, TunnelProtocol, WorkloadType,
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::codec::Resource;

fn text(pattern: &'static str) -> impl Strategy<Value = ArcStr> {
    pattern.prop_map(ArcStr::from)
}

fn any_text() -> impl Strategy<Value = ArcStr> {
    prop_oneof![Just(ArcStr::new()), text("[a-z]{1,6}"), text(".{1,6}")]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80_u16), Just(15008), 1..=u16::MAX]
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
        .prop_map(|ip| ip.to_canonical())
}

fn net() -> impl Strategy<Value = IpNet> {
    (ip(), any::<u8>()).prop_map(|(ip, length)| {
        let longest = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length % (longest + 1)).unwrap().trunc()
    })
}

fn network() -> impl Strategy<Value = Network> {
    prop_oneof![Just(Network::default()), text("[a-z]{1,4}").prop_map(Network)]
}

fn hostname() -> impl Strategy<Value = Hostname> {
    prop_oneof!["[a-z][a-z0-9-]{0,5}(\\.[a-z]{1,4}){0,2}", "\\*\\.[a-z]{1,4}"]
        .prop_map(|text| Hostname::parse(&text).unwrap())
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (text("[a-z]{1,3}"), hostname()).prop_map(|(namespace, hostname)| ServiceName { namespace, hostname })
}

fn policy_name() -> impl Strategy<Value = PolicyName> {
    (text("[a-z]{0,3}"), text("[a-z_/]{1,6}")).prop_map(|(namespace, name)| PolicyName { namespace, name })
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    prop_oneof!["cluster\\.local", "[a-zA-Z0-9._-]{1,8}"].prop_map(|text| TrustDomain::parse(&text).unwrap())
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let destination = prop_oneof![
        service_name().prop_map(GatewayDestination::Hostname),
        (network(), ip())
            .prop_map(|(network, ip)| GatewayDestination::Address(NetworkAddress::new(network, ip))),
    ];
    (destination, port()).prop_map(|(destination, hbone_port)| GatewayAddress { destination, hbone_port })
}

fn ports() -> impl Strategy<Value = PortMap> {
    let protocol = select(vec![
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ]);
    let target =
        (option::of(port()), protocol).prop_map(|(target, protocol)| ServicePort { target, protocol });
    proptest::collection::btree_map(port(), target, 0..4)
}

prop_compose! {
    fn locality()(region in any_text(), zone in any_text(), subzone in any_text()) -> Locality {
        Locality { region, zone, subzone }
    }
}

prop_compose! {
    fn identity()(
        uid in ".{1,12}", name in any_text(), namespace in any_text(), trust_domain in trust_domain(),
        service_account in prop_oneof![Just(ArcStr::from("default")), text("[a-z]{1,6}")],
        policies in vec(policy_name(), 0..3),
        workload_type in
            select(vec![WorkloadType::Deployment, WorkloadType::CronJob, WorkloadType::Pod, WorkloadType::Job]),
        owner in any_text(), canonical in (any_text(), any_text()),
    ) -> Workload {
        Workload {
            uid: WorkloadUid::parse(&uid).unwrap(), name, namespace, trust_domain, service_account, policies,
            workload_type, workload_name: owner, canonical_name: canonical.0, canonical_revision: canonical.1,
            addresses: Vec::new(), hostname: None, network: Network::default(), network_gateway: None,
            network_mode: NetworkMode::Standard, tunnel: TunnelProtocol::None, native_tunnel: false,
            application_tunnel: None, waypoint: None, node: ArcStr::new(), locality: Locality::default(),
            cluster: "Kubernetes".into(), services: Arc::default(), health: Health::Healthy, capacity: 1,
        }
    }
}

prop_compose! {
    fn application_tunnel()(proxy in any::<bool>(), port in option::of(port())) -> ApplicationTunnel {
        let protocol = if proxy { ApplicationTunnelProtocol::Proxy } else { ApplicationTunnelProtocol::None };
        ApplicationTunnel { protocol, port }
    }
}

prop_compose! {
    /// Any workload.
    pub(crate) fn workload()(
        workload in identity(),
        addresses in vec(ip(), 0..3), hostname in option::of(hostname()), network in network(),
        gateways in (option::of(gateway()), option::of(gateway())), host_network in any::<bool>(),
        tunnel in select(vec![TunnelProtocol::None, TunnelProtocol::Hbone, TunnelProtocol::LegacyMtls]),
        native_tunnel in any::<bool>(), application_tunnel in option::of(application_tunnel()),
        place in (any_text(), locality(), prop_oneof![Just(ArcStr::from("Kubernetes")), text("[a-z]{1,6}")]),
        services in proptest::collection::btree_map(service_name(), ports(), 0..3),
        (unhealthy, capacity) in (any::<bool>(), prop_oneof![Just(1_u32), any::<u32>()]),
    ) -> Workload {
        Workload {
            addresses, hostname, network, network_gateway: gateways.0, waypoint: gateways.1, tunnel, native_tunnel,
            network_mode: if host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
            application_tunnel, node: place.0, locality: place.1, cluster: place.2, services: Arc::new(services),
            health: if unhealthy { Health::Unhealthy } else { Health::Healthy }, capacity, ..workload
        }
    }
}

prop_compose! {
    fn load_balancing()(
        routing_preference in vec(
            select(vec![Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node, Scope::Cluster, Scope::Network]), 0..4
        ),
        mode in select(vec![
            BalanceMode::Unspecified, BalanceMode::Strict, BalanceMode::Failover, BalanceMode::Passthrough
        ]),
        all in any::<bool>(),
    ) -> LoadBalancing {
        let health_policy = if all { HealthPolicy::AllowAll } else { HealthPolicy::OnlyHealthy };
        LoadBalancing { routing_preference, mode, health_policy }
    }
}

fn spiffe_id() -> impl Strategy<Value = SpiffeId> {
    (trust_domain(), text("[a-z]{1,4}"), text("[a-z]{1,4}"))
        .prop_map(|(domain, namespace, account)| SpiffeId::new(domain, namespace, account))
}

prop_compose! {
    /// Any service.
    pub(crate) fn service()(
        (name, key) in (any_text(), service_name()),
        vips in vec((network(), net()).prop_map(|(network, net)| Vip { network, net }), 0..3),
        ports in ports(), subject_alt_names in vec(spiffe_id(), 0..3), waypoint in option::of(gateway()),
        weighted_waypoints in vec(
            (gateway(), any::<u32>()).prop_map(|(destination, weight)| WeightedWaypoint { destination, weight }), 0..3
        ),
        load_balancing in load_balancing(),
        ip_families in
            select(vec![IpFamilies::Automatic, IpFamilies::V4Only, IpFamilies::V6Only, IpFamilies::Dual]),
        (canonical, ingress_use_waypoint, private) in any::<(bool, bool, bool)>(),
    ) -> Service {
        Service {
            name, namespace: key.namespace, hostname: key.hostname, vips, ports, subject_alt_names, waypoint,
            weighted_waypoints, load_balancing, ip_families, canonical, ingress_use_waypoint,
            visibility: if private { Visibility::Namespace } else { Visibility::Public },
        }
    }
}

fn strings() -> impl Strategy<Value = Vec<StringMatch>> {
    let string = prop_oneof![
        any_text().prop_map(StringMatch::Exact),
        any_text().prop_map(StringMatch::Prefix),
        any_text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ];
    vec(string, 0..3)
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccountMatch>> {
    let account = (any_text(), any_text())
        .prop_map(|(namespace, service_account)| ServiceAccountMatch { namespace, service_account });
    vec(account, 0..2)
}

prop_compose! {
    fn matching()(
        namespaces in (strings(), strings()), principals in (strings(), strings()),
        accounts in (accounts(), accounts()), sources in (vec(net(), 0..2), vec(net(), 0..2)),
        destinations in (vec(net(), 0..2), vec(net(), 0..2)),
        ports in (vec(any::<u16>(), 0..2), vec(any::<u16>(), 0..2)),
    ) -> Match {
        Match {
            namespaces: namespaces.0, not_namespaces: namespaces.1,
            principals: principals.0, not_principals: principals.1,
            service_accounts: accounts.0, not_service_accounts: accounts.1,
            source_ips: sources.0, not_source_ips: sources.1,
            destination_ips: destinations.0, not_destination_ips: destinations.1,
            destination_ports: ports.0, not_destination_ports: ports.1,
        }
    }
}

prop_compose! {
    /// Any policy.
    pub(crate) fn policy()(
        name in policy_name(),
        scope in select(vec![PolicyScope::Global, PolicyScope::Namespace, PolicyScope::WorkloadSelector]),
        rules in vec(vec(vec(matching(), 0..3), 0..3), 0..3),
        (deny, dry_run) in any::<(bool, bool)>(),
    ) -> Policy {
        let clause = |matches| Clause { matches };
        let rule = |clauses: Vec<_>| Rule { clauses: clauses.into_iter().map(clause).collect() };
        Policy {
            name, scope, action: if deny { Action::Deny } else { Action::Allow },
            rules: rules.into_iter().map(rule).collect(), dry_run,
        }
    }
}

/// Any resource.
pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        workload().prop_map(Resource::from),
        service().prop_map(Resource::from),
        policy().prop_map(Resource::from),
        route::route().prop_map(Resource::from),
        telemetry::telemetry().prop_map(Resource::from),
        traffic::traffic().prop_map(Resource::from),
        guard::guard().prop_map(Resource::from),
        guard::authentication().prop_map(Resource::from),
    ]
}

/// A plain workload.
pub(crate) fn plain_workload(name: &str, ip: &str) -> Workload {
    Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap(),
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        service_account: name.into(),
        addresses: vec![ip.parse().unwrap()],
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "node-1".into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
}

/// A plain service with one address.
pub(crate) fn plain_service(name: &str, vip: &str) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("{name}.shop.svc.cluster.local")).unwrap(),
        vips: vec![Vip { network: Network::default(), net: vip.parse::<IpAddr>().unwrap().into() }],
        ports: BTreeMap::new(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    }
}

/// A policy that denies everything in its namespace.
pub(crate) fn plain_policy(name: &str) -> Policy {
    Policy {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        scope: PolicyScope::Namespace,
        action: Action::Deny,
        rules: vec![Rule::default()],
        dry_run: false,
    }
}

/// A route of one rule for everything to service `web`.
pub(crate) fn plain_route(name: &str, created: u64) -> mesh::Route {
    route::plain(name, created)
}
