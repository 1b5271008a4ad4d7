// SPDX-License-Identifier: Apache-2.0
//! Smallest resources for tests: change the fields that a test is about.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::{
    name::{Hostname, Network, PolicyName, ServiceName, SpiffeId, TrustDomain, WorkloadUid},
    policy::{Action, Clause, Match, Policy, PolicyScope, Rule},
    service::{IpFamilies, LoadBalancing, PortMap, Service, ServicePort, Vip, Visibility},
    workload::{Health, Locality, Memberships, NetworkMode, TunnelProtocol, Workload, WorkloadType},
};

pub(crate) fn uid(text: &str) -> WorkloadUid {
    WorkloadUid::parse(text).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A healthy HBONE workload `name` of namespace `shop` and service account `name`, on node `n1`.
pub(crate) fn workload(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: uid(&format!("Kubernetes//Pod/shop/{name}")),
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        service_account: name.into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "n1".into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::default(),
        health: Health::Healthy,
        capacity: 1,
    }
}

/// Services with the ports that a workload has of its own for each.
pub(crate) fn memberships(services: &[(&Service, &[(u16, u16)])]) -> Arc<Memberships> {
    Arc::new(services.iter().map(|(service, ports)| (service.key(), port_map(ports))).collect())
}

/// Service ports with their targets; 0 is a target that only the workload knows.
pub(crate) fn port_map(ports: &[(u16, u16)]) -> PortMap {
    let port =
        |target: u16| ServicePort { target: (target != 0).then_some(target), ..ServicePort::default() };
    ports.iter().map(|(service, target)| (*service, port(*target))).collect::<BTreeMap<_, _>>()
}

/// A service `name` of namespace `shop`, port 80 to 8080.
pub(crate) fn service(name: &str, vips: &[&str]) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("{name}.shop.svc.cluster.local")).unwrap(),
        vips: vips.iter().map(|text| vip(text)).collect(),
        ports: port_map(&[(80, 8080)]),
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

/// An address or range on the default network.
pub(crate) fn vip(text: &str) -> Vip {
    let net = text.parse().unwrap_or_else(|_| ip(text).into());
    Vip { network: Network::default(), net }
}

pub(crate) fn policy_name(text: &str) -> PolicyName {
    text.parse().unwrap()
}

/// A policy of scope NAMESPACE with one rule of one clause of these matches.
pub(crate) fn policy(name: &str, action: Action, matches: Vec<Match>) -> Policy {
    Policy {
        name: policy_name(name),
        scope: PolicyScope::Namespace,
        action,
        rules: vec![Rule { clauses: vec![Clause { matches }] }],
        dry_run: false,
    }
}

pub(crate) fn identity(namespace: &str, account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/{namespace}/sa/{account}").parse().unwrap()
}

pub(crate) fn service_name(text: &str) -> ServiceName {
    text.parse().unwrap()
}
