// SPDX-License-Identifier: Apache-2.0
//! `istio.workload.Workload`. Defaults that the wire leaves out: trust domain `cluster.local`, service account `default`,
//! cluster `Kubernetes`, capacity 1.

use std::sync::Arc;

use mesh::{
    Hostname, Network, TrustDomain, Workload, WorkloadUid,
    workload::{
        ApplicationTunnel, ApplicationTunnelProtocol, Health, Locality, Memberships, NetworkMode,
        TunnelProtocol, WorkloadType,
    },
};
use proto::workload as wire;

use super::field::{self, FieldError, In};

const TRUST_DOMAIN: &str = "cluster.local";
const SERVICE_ACCOUNT: &str = "default";
const CLUSTER: &str = "Kubernetes";
const CAPACITY: u32 = 1;

/// From the wire. Extensions are left alone: none that exists changes how a workload is reached.
pub(super) fn decode(message: wire::Workload) -> Result<Workload, FieldError> {
    Ok(Workload {
        uid: WorkloadUid::parse(&message.uid).field("uid")?,
        name: message.name.into(),
        namespace: message.namespace.into(),
        trust_domain: TrustDomain::parse(or(&message.trust_domain, TRUST_DOMAIN)).field("trust_domain")?,
        service_account: or(&message.service_account, SERVICE_ACCOUNT).into(),
        addresses: message
            .addresses
            .iter()
            .map(|bytes| field::ip(bytes))
            .collect::<Result<_, _>>()
            .field("addresses")?,
        hostname: hostname(&message.hostname)?,
        network: Network(message.network.into()),
        network_gateway: message.network_gateway.map(field::gateway).transpose().field("network_gateway")?,
        network_mode: network_mode(message.network_mode)?,
        tunnel: tunnel(message.tunnel_protocol)?,
        native_tunnel: message.native_tunnel,
        application_tunnel: message.application_tunnel.map(application_tunnel).transpose()?,
        waypoint: message.waypoint.map(field::gateway).transpose().field("waypoint")?,
        node: message.node.into(),
        locality: locality(message.locality.unwrap_or_default()),
        cluster: or(&message.cluster_id, CLUSTER).into(),
        canonical_name: message.canonical_name.into(),
        canonical_revision: message.canonical_revision.into(),
        workload_type: workload_type(message.workload_type),
        workload_name: message.workload_name.into(),
        policies: message
            .authorization_policies
            .iter()
            .map(|name| field::name(name))
            .collect::<Result<_, _>>()
            .field("authorization_policies")?,
        services: memberships(message.services)?,
        health: health(message.status)?,
        capacity: message.capacity.unwrap_or(CAPACITY),
    })
}

/// To the wire, without what is a default there.
pub(super) fn encode(workload: &Workload) -> wire::Address {
    let message = wire::Workload {
        uid: workload.uid.to_string(),
        name: workload.name.to_string(),
        namespace: workload.namespace.to_string(),
        trust_domain: unless(workload.trust_domain.as_str(), TRUST_DOMAIN),
        service_account: unless(&workload.service_account, SERVICE_ACCOUNT),
        addresses: workload.addresses.iter().map(|ip| field::ip_bytes(*ip)).collect(),
        hostname: workload.hostname.as_ref().map(ToString::to_string).unwrap_or_default(),
        network: workload.network.to_string(),
        network_gateway: workload.network_gateway.as_ref().map(field::gateway_message),
        network_mode: network_mode_message(workload.network_mode).into(),
        tunnel_protocol: tunnel_message(workload.tunnel).into(),
        native_tunnel: workload.native_tunnel,
        application_tunnel: workload.application_tunnel.map(application_tunnel_message),
        waypoint: workload.waypoint.as_ref().map(field::gateway_message),
        node: workload.node.to_string(),
        locality: locality_message(&workload.locality),
        cluster_id: unless(&workload.cluster, CLUSTER),
        canonical_name: workload.canonical_name.to_string(),
        canonical_revision: workload.canonical_revision.to_string(),
        workload_type: workload_type_message(workload.workload_type).into(),
        workload_name: workload.workload_name.to_string(),
        authorization_policies: workload.policies.iter().map(ToString::to_string).collect(),
        services: memberships_message(&workload.services),
        status: health_message(workload.health).into(),
        capacity: (workload.capacity != CAPACITY).then_some(workload.capacity),
        extensions: Vec::new(),
    };
    wire::Address { r#type: Some(wire::address::Type::Workload(message)) }
}

fn or<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

fn unless(text: &str, default: &str) -> String {
    if text == default { String::new() } else { text.to_owned() }
}

fn hostname(text: &str) -> Result<Option<Hostname>, FieldError> {
    (!text.is_empty()).then(|| Hostname::parse(text)).transpose().field("hostname")
}

fn memberships(
    services: impl IntoIterator<Item = (String, wire::PortList)>,
) -> Result<Arc<Memberships>, FieldError> {
    let mut memberships = Memberships::new();
    for (name, list) in services {
        let ports = field::ports(list.ports).field("services.ports")?;
        memberships.insert(field::name(&name).field("services")?, ports);
    }
    Ok(Arc::new(memberships))
}

fn memberships_message(memberships: &Memberships) -> std::collections::BTreeMap<String, wire::PortList> {
    let message = |(name, ports): (&mesh::ServiceName, _)| {
        (name.to_string(), wire::PortList { ports: field::ports_message(ports) })
    };
    memberships.iter().map(message).collect()
}

fn network_mode(value: i32) -> Result<NetworkMode, FieldError> {
    Ok(match field::known(value).field("network_mode")? {
        wire::NetworkMode::Standard => NetworkMode::Standard,
        wire::NetworkMode::HostNetwork => NetworkMode::HostNetwork,
    })
}

fn network_mode_message(mode: NetworkMode) -> wire::NetworkMode {
    match mode {
        NetworkMode::Standard => wire::NetworkMode::Standard,
        NetworkMode::HostNetwork => wire::NetworkMode::HostNetwork,
    }
}

fn tunnel(value: i32) -> Result<TunnelProtocol, FieldError> {
    Ok(match field::known(value).field("tunnel_protocol")? {
        wire::TunnelProtocol::None => TunnelProtocol::None,
        wire::TunnelProtocol::Hbone => TunnelProtocol::Hbone,
        wire::TunnelProtocol::LegacyIstioMtls => TunnelProtocol::LegacyMtls,
    })
}

fn tunnel_message(tunnel: TunnelProtocol) -> wire::TunnelProtocol {
    match tunnel {
        TunnelProtocol::None => wire::TunnelProtocol::None,
        TunnelProtocol::Hbone => wire::TunnelProtocol::Hbone,
        TunnelProtocol::LegacyMtls => wire::TunnelProtocol::LegacyIstioMtls,
    }
}

fn application_tunnel(message: wire::ApplicationTunnel) -> Result<ApplicationTunnel, FieldError> {
    let protocol = match field::known(message.protocol).field("application_tunnel.protocol")? {
        wire::application_tunnel::Protocol::None => ApplicationTunnelProtocol::None,
        wire::application_tunnel::Protocol::Proxy => ApplicationTunnelProtocol::Proxy,
    };
    Ok(ApplicationTunnel { protocol, port: field::port(message.port).field("application_tunnel.port")? })
}

fn application_tunnel_message(tunnel: ApplicationTunnel) -> wire::ApplicationTunnel {
    let protocol = match tunnel.protocol {
        ApplicationTunnelProtocol::None => wire::application_tunnel::Protocol::None,
        ApplicationTunnelProtocol::Proxy => wire::application_tunnel::Protocol::Proxy,
    };
    wire::ApplicationTunnel { protocol: protocol.into(), port: tunnel.port.map_or(0, u32::from) }
}

fn locality(message: wire::Locality) -> Locality {
    Locality { region: message.region.into(), zone: message.zone.into(), subzone: message.subzone.into() }
}

fn locality_message(locality: &Locality) -> Option<wire::Locality> {
    (*locality != Locality::default()).then(|| wire::Locality {
        region: locality.region.to_string(),
        zone: locality.zone.to_string(),
        subzone: locality.subzone.to_string(),
    })
}

/// Telemetry only: what is newer than this code counts as a Deployment.
fn workload_type(value: i32) -> WorkloadType {
    match wire::WorkloadType::try_from(value) {
        Ok(wire::WorkloadType::Deployment) | Err(_) => WorkloadType::Deployment,
        Ok(wire::WorkloadType::Cronjob) => WorkloadType::CronJob,
        Ok(wire::WorkloadType::Pod) => WorkloadType::Pod,
        Ok(wire::WorkloadType::Job) => WorkloadType::Job,
    }
}

fn workload_type_message(workload_type: WorkloadType) -> wire::WorkloadType {
    match workload_type {
        WorkloadType::Deployment => wire::WorkloadType::Deployment,
        WorkloadType::CronJob => wire::WorkloadType::Cronjob,
        WorkloadType::Pod => wire::WorkloadType::Pod,
        WorkloadType::Job => wire::WorkloadType::Job,
    }
}

fn health(value: i32) -> Result<Health, FieldError> {
    Ok(match field::known(value).field("status")? {
        wire::WorkloadStatus::Healthy => Health::Healthy,
        wire::WorkloadStatus::Unhealthy => Health::Unhealthy,
    })
}

fn health_message(health: Health) -> wire::WorkloadStatus {
    match health {
        Health::Healthy => wire::WorkloadStatus::Healthy,
        Health::Unhealthy => wire::WorkloadStatus::Unhealthy,
    }
}
