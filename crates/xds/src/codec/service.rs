// SPDX-License-Identifier: Apache-2.0
//! `istio.workload.Service`.

use mesh::{
    Hostname, Network, Service,
    service::{
        BalanceMode, HealthPolicy, IpFamilies, LoadBalancing, Scope, Vip, Visibility, WeightedWaypoint,
    },
};
use proto::workload as wire;
use wire::load_balancing as balancing;

use super::field::{self, FieldError, In, Problem};

/// From the wire. Extensions are left alone: none that exists changes how a service is reached.
pub(super) fn decode(message: wire::Service) -> Result<Service, FieldError> {
    Ok(Service {
        name: message.name.into(),
        namespace: message.namespace.into(),
        hostname: Hostname::parse(&message.hostname).field("hostname")?,
        vips: message.addresses.into_iter().map(vip).collect::<Result<_, _>>().field("addresses")?,
        ports: field::ports(message.ports).field("ports")?,
        // Names that are not SPIFFE ids can be given in a ServiceEntry; no peer of the mesh presents one.
        subject_alt_names: message
            .subject_alt_names
            .iter()
            .filter_map(|name| field::name(name).ok())
            .collect(),
        waypoint: message.waypoint.map(field::gateway).transpose().field("waypoint")?,
        weighted_waypoints: message
            .weighted_waypoints
            .into_iter()
            .map(weighted_waypoint)
            .collect::<Result<_, _>>()
            .field("weighted_waypoints")?,
        load_balancing: load_balancing(&message.load_balancing.unwrap_or_default())?,
        ip_families: ip_families(message.ip_families)?,
        canonical: message.canonical,
        ingress_use_waypoint: message.ingress_use_waypoint,
        visibility: visibility(message.visibility)?,
    })
}

/// To the wire.
pub(super) fn encode(service: &Service) -> wire::Address {
    let weighted_waypoint = |waypoint: &WeightedWaypoint| wire::WeightedWaypoint {
        destination: Some(field::gateway_message(&waypoint.destination)),
        weight: waypoint.weight,
    };
    let message = wire::Service {
        name: service.name.to_string(),
        namespace: service.namespace.to_string(),
        hostname: service.hostname.to_string(),
        addresses: service.vips.iter().map(vip_message).collect(),
        ports: field::ports_message(&service.ports),
        subject_alt_names: service.subject_alt_names.iter().map(ToString::to_string).collect(),
        waypoint: service.waypoint.as_ref().map(field::gateway_message),
        weighted_waypoints: service.weighted_waypoints.iter().map(weighted_waypoint).collect(),
        load_balancing: load_balancing_message(&service.load_balancing),
        ip_families: ip_families_message(service.ip_families).into(),
        canonical: service.canonical,
        ingress_use_waypoint: service.ingress_use_waypoint,
        visibility: visibility_message(service.visibility).into(),
        extensions: Vec::new(),
    };
    wire::Address { r#type: Some(wire::address::Type::Service(message)) }
}

fn vip(message: wire::NetworkAddress) -> Result<Vip, Problem> {
    Ok(Vip { network: Network(message.network.into()), net: field::net(&message.address, message.length)? })
}

fn vip_message(vip: &Vip) -> wire::NetworkAddress {
    wire::NetworkAddress {
        network: vip.network.to_string(),
        address: field::ip_bytes(vip.net.addr()),
        length: vip.address().is_none().then(|| u32::from(vip.net.prefix_len())),
    }
}

fn weighted_waypoint(message: wire::WeightedWaypoint) -> Result<WeightedWaypoint, Problem> {
    let destination = field::gateway(message.destination.ok_or(Problem::Missing)?)?;
    Ok(WeightedWaypoint { destination, weight: message.weight })
}

fn load_balancing(message: &wire::LoadBalancing) -> Result<LoadBalancing, FieldError> {
    let mut routing_preference = Vec::with_capacity(message.routing_preference.len());
    for value in &message.routing_preference {
        routing_preference.extend(scope(field::known(*value).field("load_balancing.routing_preference")?));
    }
    Ok(LoadBalancing {
        routing_preference,
        mode: match field::known(message.mode).field("load_balancing.mode")? {
            balancing::Mode::UnspecifiedMode => BalanceMode::Unspecified,
            balancing::Mode::Strict => BalanceMode::Strict,
            balancing::Mode::Failover => BalanceMode::Failover,
            balancing::Mode::Passthrough => BalanceMode::Passthrough,
        },
        health_policy: match field::known(message.health_policy).field("load_balancing.health_policy")? {
            balancing::HealthPolicy::OnlyHealthy => HealthPolicy::OnlyHealthy,
            balancing::HealthPolicy::AllowAll => HealthPolicy::AllowAll,
        },
    })
}

/// A message only where something is not the default.
fn load_balancing_message(load_balancing: &LoadBalancing) -> Option<wire::LoadBalancing> {
    if *load_balancing == LoadBalancing::default() {
        return None;
    }
    let mode = match load_balancing.mode {
        BalanceMode::Unspecified => balancing::Mode::UnspecifiedMode,
        BalanceMode::Strict => balancing::Mode::Strict,
        BalanceMode::Failover => balancing::Mode::Failover,
        BalanceMode::Passthrough => balancing::Mode::Passthrough,
    };
    let health_policy = match load_balancing.health_policy {
        HealthPolicy::OnlyHealthy => balancing::HealthPolicy::OnlyHealthy,
        HealthPolicy::AllowAll => balancing::HealthPolicy::AllowAll,
    };
    Some(wire::LoadBalancing {
        routing_preference: load_balancing
            .routing_preference
            .iter()
            .map(|scope| scope_message(*scope).into())
            .collect(),
        mode: mode.into(),
        health_policy: health_policy.into(),
    })
}

/// An unspecified scope prefers nothing.
fn scope(scope: balancing::Scope) -> Option<Scope> {
    match scope {
        balancing::Scope::UnspecifiedScope => None,
        balancing::Scope::Region => Some(Scope::Region),
        balancing::Scope::Zone => Some(Scope::Zone),
        balancing::Scope::Subzone => Some(Scope::Subzone),
        balancing::Scope::Node => Some(Scope::Node),
        balancing::Scope::Cluster => Some(Scope::Cluster),
        balancing::Scope::Network => Some(Scope::Network),
    }
}

fn scope_message(scope: Scope) -> balancing::Scope {
    match scope {
        Scope::Region => balancing::Scope::Region,
        Scope::Zone => balancing::Scope::Zone,
        Scope::Subzone => balancing::Scope::Subzone,
        Scope::Node => balancing::Scope::Node,
        Scope::Cluster => balancing::Scope::Cluster,
        Scope::Network => balancing::Scope::Network,
    }
}

fn ip_families(value: i32) -> Result<IpFamilies, FieldError> {
    Ok(match field::known(value).field("ip_families")? {
        wire::IpFamilies::Automatic => IpFamilies::Automatic,
        wire::IpFamilies::Ipv4Only => IpFamilies::V4Only,
        wire::IpFamilies::Ipv6Only => IpFamilies::V6Only,
        wire::IpFamilies::Dual => IpFamilies::Dual,
    })
}

fn ip_families_message(families: IpFamilies) -> wire::IpFamilies {
    match families {
        IpFamilies::Automatic => wire::IpFamilies::Automatic,
        IpFamilies::V4Only => wire::IpFamilies::Ipv4Only,
        IpFamilies::V6Only => wire::IpFamilies::Ipv6Only,
        IpFamilies::Dual => wire::IpFamilies::Dual,
    }
}

fn visibility(value: i32) -> Result<Visibility, FieldError> {
    Ok(match field::known(value).field("visibility")? {
        wire::Visibility::Public => Visibility::Public,
        wire::Visibility::Namespace => Visibility::Namespace,
    })
}

fn visibility_message(visibility: Visibility) -> wire::Visibility {
    match visibility {
        Visibility::Public => wire::Visibility::Public,
        Visibility::Namespace => wire::Visibility::Namespace,
    }
}
