// SPDX-License-Identifier: Apache-2.0
//! Smallest resources for tests: change the fields that a test is about.

use std::{net::IpAddr, sync::Arc};

use mesh::{
    Change, Hostname, Index, Network, NetworkAddress, Service, ServiceName, SpiffeId, TrustDomain, Workload,
    WorkloadUid,
    service::{IpFamilies, LoadBalancing, PortMap, ServicePort, Vip, Visibility},
    workload::{
        GatewayAddress, GatewayDestination, Health, Locality, Memberships, NetworkMode, TunnelProtocol,
        WorkloadType,
    },
};

use crate::{Answer, Failure, Local, What};

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn host(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

/// A healthy HBONE workload `name` of namespace `shop` and service account `name`.
pub(crate) fn workload(name: &str, addresses: &[&str]) -> Workload {
    Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap(),
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

/// Service ports with their targets.
pub(crate) fn port_map(ports: &[(u16, u16)]) -> PortMap {
    let port = |target| ServicePort { target: Some(target), ..ServicePort::default() };
    ports.iter().map(|(service, target)| (*service, port(*target))).collect()
}

/// A service `name` of namespace `shop`, port 80 to 8080.
pub(crate) fn service(name: &str, vips: &[&str]) -> Service {
    Service {
        name: name.into(),
        namespace: "shop".into(),
        hostname: host(&format!("{name}.shop.svc.cluster.local")),
        vips: vips.iter().map(|text| vip("", text)).collect(),
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

/// An address or range of a network.
pub(crate) fn vip(network: &str, text: &str) -> Vip {
    let net = text.parse().unwrap_or_else(|_| ip(text).into());
    Vip { network: Network(network.into()), net }
}

pub(crate) fn gateway_named(name: ServiceName) -> GatewayAddress {
    GatewayAddress { destination: GatewayDestination::Hostname(name), hbone_port: 15008 }
}

pub(crate) fn gateway_at(network: &str, address: &str) -> GatewayAddress {
    let address = NetworkAddress::new(Network(network.into()), ip(address));
    GatewayAddress { destination: GatewayDestination::Address(address), hbone_port: 15008 }
}

pub(crate) fn identity(account: &str) -> SpiffeId {
    format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap()
}

/// A node proxy of a workload, synced, as Istio's defaults are.
pub(crate) fn local(workload: &Workload) -> Local {
    Local {
        workload: workload.key(),
        network: Network::default(),
        cluster: "Kubernetes".into(),
        synced: true,
        preserve_source: true,
        tunnel_on_loopback: true,
    }
}

/// An index of these changes.
pub(crate) fn index(changes: impl IntoIterator<Item = Change>) -> Index {
    let mut index = Index::new();
    for change in changes {
        index.apply(change);
    }
    index
}

/// The decision of an answer that lacks nothing.
#[track_caller]
pub(crate) fn ready<T: std::fmt::Debug>(answer: Answer<Result<T, Failure>>) -> T {
    match answer {
        Answer::Ready(Ok(decision)) => decision,
        other => panic!("{other:?}"),
    }
}

/// Why a flow failed.
#[track_caller]
pub(crate) fn failed<T: std::fmt::Debug>(answer: Answer<Result<T, Failure>>) -> What {
    match answer {
        Answer::Ready(Err(failure)) => failure.what,
        other => panic!("{other:?}"),
    }
}
