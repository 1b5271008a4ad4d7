// SPDX-License-Identifier: Apache-2.0
//! The mesh as this process knows it, in the JSON that `istioctl ztunnel-config` reads.

use std::sync::Arc;

use mesh::{
    Index, Policy, Service, Workload,
    policy::{Action, Match, PolicyScope, StringMatch},
    service::{BalanceMode, HealthPolicy, IpFamilies, PortMap, Scope},
    workload::{GatewayAddress, GatewayDestination, Health, TunnelProtocol},
};
use serde_json::{Map, Value, json};

/// Workloads, services, policies and staged services; one read of the Index.
pub fn index(index: &Index) -> Map<String, Value> {
    let mut workloads: Vec<_> = index.workloads().collect();
    workloads.sort_by(|left, right| left.uid.cmp(&right.uid));
    let mut services: Vec<_> = index.services().collect();
    services.sort_by_key(|service| service.key());
    let mut policies: Vec<_> = index.policies().collect();
    policies.sort_by(|left, right| left.name.cmp(&right.name));
    let staged = index.staged().map(|(name, endpoints)| {
        let endpoints: Vec<_> = endpoints.iter().map(|workload| workload.uid.as_str().to_owned()).collect();
        (name.to_string(), json!(endpoints))
    });
    let mut out = Map::new();
    out.insert("workloads".into(), workloads.into_iter().map(|found| workload(found)).collect());
    out.insert("services".into(), services.into_iter().map(|found| service(index, found)).collect());
    out.insert("policies".into(), policies.into_iter().map(|found| policy(found)).collect());
    out.insert("stagedServices".into(), Value::Object(staged.collect()));
    out
}

fn workload(workload: &Workload) -> Value {
    let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
    let policies: Vec<_> = workload.policies.iter().map(ToString::to_string).collect();
    let services: Map<_, _> =
        workload.services.iter().map(|(name, map)| (name.to_string(), ports(map))).collect();
    json!({
        "uid": workload.uid.as_str(),
        "name": workload.name,
        "namespace": workload.namespace,
        "workloadIps": addresses,
        "hostname": workload.hostname.as_ref().map_or("", |name| name.as_str()),
        "protocol": match workload.tunnel {
            TunnelProtocol::None => "TCP",
            TunnelProtocol::Hbone => "HBONE",
            TunnelProtocol::LegacyMtls => "LegacyIstioMtls",
        },
        "trustDomain": workload.trust_domain.as_str(),
        "serviceAccount": workload.service_account,
        "node": workload.node,
        "network": workload.network.to_string(),
        "networkGateway": workload.network_gateway.as_ref().map(gateway),
        "waypoint": workload.waypoint.as_ref().map(gateway),
        "canonicalName": workload.canonical_name,
        "canonicalRevision": workload.canonical_revision,
        "workloadType": workload.workload_type.as_str(),
        "workloadName": workload.workload_name,
        "status": match workload.health {
            Health::Healthy => "Healthy",
            Health::Unhealthy => "Unhealthy",
        },
        "clusterId": workload.cluster,
        "locality": {
            "region": workload.locality.region,
            "zone": workload.locality.zone,
            "subzone": workload.locality.subzone,
        },
        "authorizationPolicies": policies,
        "capacity": workload.capacity,
        "services": services,
    })
}

fn ports(map: &PortMap) -> Value {
    let pairs = map.iter().map(|(port, found)| (port.to_string(), json!(found.target.unwrap_or_default())));
    Value::Object(pairs.collect())
}

fn gateway(gateway: &GatewayAddress) -> Value {
    let destination = match &gateway.destination {
        GatewayDestination::Hostname(name) => name.to_string(),
        GatewayDestination::Address(address) => address.to_string(),
    };
    json!({ "destination": destination, "hboneMtlsPort": gateway.hbone_port })
}

fn service(index: &Index, service: &Service) -> Value {
    let vips: Vec<_> = service
        .vips
        .iter()
        .map(|vip| match vip.address() {
            Some(ip) => format!("{}/{ip}", vip.network),
            None => format!("{}/{}", vip.network, vip.net),
        })
        .collect();
    let key = service.key();
    let endpoint = |workload: &Arc<Workload>| {
        let port = workload.services.get(&key).map_or(Value::Null, ports);
        (workload.uid.as_str().to_owned(), json!({ "workloadUid": workload.uid.as_str(), "port": port }))
    };
    let endpoints: Map<_, _> = index.endpoints(service).map(endpoint).collect();
    let names: Vec<_> = service.subject_alt_names.iter().map(ToString::to_string).collect();
    json!({
        "name": service.name,
        "namespace": service.namespace,
        "hostname": service.hostname.as_str(),
        "vips": vips,
        "ports": ports(&service.ports),
        "endpoints": endpoints,
        "subjectAltNames": names,
        "waypoint": service.waypoint.as_ref().map(gateway),
        "loadBalancer": balancing(service),
        "ipFamilies": match service.ip_families {
            IpFamilies::Automatic => Value::Null,
            IpFamilies::V4Only => json!("IPv4"),
            IpFamilies::V6Only => json!("IPv6"),
            IpFamilies::Dual => json!("Dual"),
        },
        "canonical": service.canonical,
    })
}

fn balancing(service: &Service) -> Value {
    let scopes: Vec<_> = service
        .load_balancing
        .routing_preference
        .iter()
        .map(|scope| match scope {
            Scope::Region => "Region",
            Scope::Zone => "Zone",
            Scope::Subzone => "Subzone",
            Scope::Node => "Node",
            Scope::Cluster => "Cluster",
            Scope::Network => "Network",
        })
        .collect();
    json!({
        "routingPreferences": scopes,
        "mode": match service.load_balancing.mode {
            BalanceMode::Unspecified => "Standard",
            BalanceMode::Strict => "Strict",
            BalanceMode::Failover => "Failover",
            BalanceMode::Passthrough => "Passthrough",
        },
        "healthPolicy": match service.load_balancing.health_policy {
            HealthPolicy::OnlyHealthy => "OnlyHealthy",
            HealthPolicy::AllowAll => "AllowAll",
        },
    })
}

fn policy(policy: &Policy) -> Value {
    let rules: Vec<Vec<Vec<Value>>> = policy
        .rules
        .iter()
        .map(|rule| {
            rule.clauses.iter().map(|clause| clause.matches.iter().map(found_match).collect()).collect()
        })
        .collect();
    json!({
        "name": policy.name.name,
        "namespace": policy.name.namespace,
        "scope": match policy.scope {
            PolicyScope::Global => "Global",
            PolicyScope::Namespace => "Namespace",
            PolicyScope::WorkloadSelector => "WorkloadSelector",
        },
        "action": match policy.action {
            Action::Allow => "Allow",
            Action::Deny => "Deny",
        },
        "rules": rules,
        "dryRun": policy.dry_run,
    })
}

/// Fields that are empty are left out.
fn found_match(found: &Match) -> Value {
    let texts = |values: &[StringMatch]| values.iter().map(text).collect::<Vec<_>>();
    let accounts = |values: &[mesh::policy::ServiceAccountMatch]| {
        values
            .iter()
            .map(|account| json!(format!("{}/{}", account.namespace, account.service_account)))
            .collect()
    };
    let nets = |values: &[ipnet::IpNet]| values.iter().map(|net| json!(net.to_string())).collect::<Vec<_>>();
    let numbers = |values: &[u16]| values.iter().map(|port| json!(port)).collect::<Vec<_>>();
    let fields: [(&str, Vec<Value>); 12] = [
        ("namespaces", texts(&found.namespaces)),
        ("notNamespaces", texts(&found.not_namespaces)),
        ("serviceAccounts", accounts(&found.service_accounts)),
        ("notServiceAccounts", accounts(&found.not_service_accounts)),
        ("principals", texts(&found.principals)),
        ("notPrincipals", texts(&found.not_principals)),
        ("sourceIps", nets(&found.source_ips)),
        ("notSourceIps", nets(&found.not_source_ips)),
        ("destinationIps", nets(&found.destination_ips)),
        ("notDestinationIps", nets(&found.not_destination_ips)),
        ("destinationPorts", numbers(&found.destination_ports)),
        ("notDestinationPorts", numbers(&found.not_destination_ports)),
    ];
    let set = fields.into_iter().filter(|(_name, values)| !values.is_empty());
    Value::Object(set.map(|(name, values)| (name.to_owned(), Value::Array(values))).collect())
}

/// A text as a policy asks for it.
pub fn text(value: &StringMatch) -> Value {
    match value {
        StringMatch::Exact(text) => json!({ "Exact": text }),
        StringMatch::Prefix(text) => json!({ "Prefix": text }),
        StringMatch::Suffix(text) => json!({ "Suffix": text }),
        StringMatch::Presence => json!("Presence"),
    }
}
