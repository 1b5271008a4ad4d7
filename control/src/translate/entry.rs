// SPDX-License-Identifier: Apache-2.0
//! A service entry: each of its hosts as a mesh service, its endpoints as workloads.
//!
//! In a namespace one object has a host: a Service before a service entry, else the oldest. In the mesh, one is canonical by
//! the same order. Names that DNS is asked for are workloads without addresses.

mod check;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use arcstr::{ArcStr, literal};
use ipnet::IpNet;
use jiff::Timestamp;
use mesh::{
    Hostname, Network, Service, ServiceName, SpiffeId, Workload, WorkloadUid,
    service::{
        AppProtocol, BalanceMode, HealthPolicy, IpFamilies, LoadBalancing, PortMap, ServicePort, Vip,
        Visibility,
    },
    workload::{Health, Memberships, NetworkMode, TunnelProtocol, WorkloadType},
};

pub(crate) use self::check::{check, endpoint_notes};
use super::{
    Translation, member,
    service::{self, distribution_of},
    waypoint::{self, Binder, Binding, Traffic},
};
use crate::{
    objects::{self, EntryPort, Kind, Labels, Resolution, ServiceEntry, WorkloadEntrySpec},
    report::Reports,
    world::{Claim, Name, Objects, Settings},
};

const AUTOMATIC: &str = "networking.istio.io/enable-autoallocate-ip";

/// What a service entry becomes.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    pub(crate) services: Vec<Service>,
    pub(crate) workloads: Vec<Workload>,
}

/// See the module.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &ServiceEntry,
) -> Translation<Output> {
    let mut reports = Reports::of(object.metadata.key(Kind::ServiceEntry));
    check(object, &mut reports);
    check::notes(object, &mut reports);
    let binder = Binder { objects, settings };
    let binding = binder.binding(&object.metadata, Traffic::Service, None);
    binder.report(&object.metadata, binding.as_ref(), Traffic::Service, &mut reports);
    let waypoint = binding.as_ref().and_then(Binding::waypoint);
    let weighted_waypoints = binding.as_ref().map(Binding::weighted).unwrap_or_default();
    let ingress_use_waypoint = binder.ingress(&object.metadata, waypoint.is_some(), &mut reports);
    rivals(objects, settings, object, &mut reports);
    let names: Vec<ServiceName> = names(objects, settings, object).collect();
    let services = names.iter().map(|name| Service {
        name: object.metadata.name.clone(),
        namespace: name.namespace.clone(),
        hostname: name.hostname.clone(),
        vips: vips(objects, settings, object, &name.hostname, &mut reports),
        ports: ports(object),
        subject_alt_names: alt_names(object),
        waypoint: waypoint.clone(),
        weighted_waypoints: weighted_waypoints.clone(),
        load_balancing: load_balancing(objects, object),
        ip_families: IpFamilies::Automatic,
        canonical: is_canonical(objects, settings, object, &name.hostname),
        ingress_use_waypoint,
        visibility: Visibility::Public,
    });
    let services = services.collect();
    let workloads = workloads(&binder, object, &names, &mut reports);
    Translation { output: Some(Output { services, workloads }), reports: reports.done() }
}

/// Its hosts, each once. A host that is a pattern is none: a node proxy sees addresses, no names.
pub(crate) fn hosts(object: &ServiceEntry) -> BTreeSet<Hostname> {
    let exact = object.spec.hosts.iter().filter(|host| !host.contains('*'));
    exact.filter_map(|host| Hostname::parse(host).ok()).collect()
}

/// The mesh services of its hosts that no other object of the namespace has.
pub(crate) fn names(
    objects: &Objects,
    settings: &Settings,
    object: &ServiceEntry,
) -> impl Iterator<Item = ServiceName> {
    let namespace = object.metadata.namespace.clone();
    let won = |host: &Hostname| {
        let own = |candidate: &ServiceEntry| candidate.metadata.namespace == object.metadata.namespace;
        let service = service::of_host(objects, settings, host);
        service.is_none_or(|service| service.metadata.namespace != object.metadata.namespace)
            && is_oldest(objects, object, host, own)
    };
    let won: Vec<Hostname> = hosts(object).into_iter().filter(won).collect();
    won.into_iter().map(move |hostname| ServiceName { namespace: namespace.clone(), hostname })
}

fn is_canonical(objects: &Objects, settings: &Settings, object: &ServiceEntry, host: &Hostname) -> bool {
    service::of_host(objects, settings, host).is_none() && is_oldest(objects, object, host, |_| true)
}

fn is_oldest(
    objects: &Objects,
    object: &ServiceEntry,
    host: &Hostname,
    among: impl Fn(&ServiceEntry) -> bool,
) -> bool {
    let candidates = objects.entries_for(host).map(|(_, candidate)| candidate).filter(|other| among(other));
    candidates.min_by_key(|candidate| age(candidate)).is_none_or(|first| age(first) == age(object))
}

/// The smallest is the oldest.
fn age(object: &ServiceEntry) -> (Timestamp, &ArcStr, &ArcStr) {
    let metadata = &object.metadata;
    (metadata.creation_timestamp.unwrap_or(Timestamp::MAX), &metadata.namespace, &metadata.name)
}

/// Says which hosts are another object's.
fn rivals(objects: &Objects, settings: &Settings, object: &ServiceEntry, reports: &mut Reports) {
    let namespace = &object.metadata.namespace;
    let won: BTreeSet<Hostname> = names(objects, settings, object).map(|name| name.hostname).collect();
    for (at, text) in object.spec.hosts.iter().enumerate() {
        let Ok(host) = Hostname::parse(text) else { continue };
        if text.contains('*') || won.contains(&host) {
            continue;
        }
        let service = service::of_host(objects, settings, &host)
            .filter(|service| service.metadata.namespace == *namespace)
            .map(|service| format!("Service {}", service.metadata.name));
        let older = || {
            let same = objects.entries_for(&host).map(|(_, other)| other);
            let same =
                same.filter(|other| other.metadata.namespace == *namespace).min_by_key(|other| age(other));
            same.map(|other| format!("the older ServiceEntry {}", other.metadata.name))
        };
        if let Some(holder) = service.or_else(older) {
            reports.warning(
                format!("spec.hosts[{at}]"),
                format!("{host} is that of {holder} in this namespace"),
            );
        }
    }
}

/// Whether pods and workload entries of its namespace with these labels are its endpoints.
pub(crate) fn selects(object: &ServiceEntry, labels: &Labels) -> bool {
    let selector = object.spec.workload_selector.as_ref();
    selector
        .is_some_and(|selector| !selector.labels.is_empty() && objects::contains(labels, &selector.labels))
}

/// Its ports, with the number at an endpoint that has none of its own.
pub(crate) fn ports(object: &ServiceEntry) -> PortMap {
    let ports = object.spec.ports.iter().filter(|port| port.number != 0 && !is_udp(port));
    ports
        .map(|port| {
            let target = port.target_port.filter(|target| *target != 0).unwrap_or(port.number);
            let protocol = protocol(port.protocol.as_deref().unwrap_or_default());
            (port.number, ServicePort { target: Some(target), protocol })
        })
        .collect()
}

fn is_udp(port: &EntryPort) -> bool {
    port.protocol.as_deref().is_some_and(|protocol| protocol.eq_ignore_ascii_case("UDP"))
}

fn protocol(text: &str) -> AppProtocol {
    match text.to_ascii_uppercase().as_str() {
        "HTTP" => AppProtocol::Http11,
        "HTTP2" => AppProtocol::Http2,
        "GRPC" | "GRPC-WEB" => AppProtocol::Grpc,
        "HTTPS" | "TLS" => AppProtocol::Tls,
        "TCP" | "MONGO" => AppProtocol::Tcp,
        _ => AppProtocol::Unknown,
    }
}

fn load_balancing(objects: &Objects, object: &ServiceEntry) -> LoadBalancing {
    if object.spec.resolution == Resolution::None {
        return LoadBalancing {
            mode: BalanceMode::Passthrough,
            health_policy: HealthPolicy::AllowAll,
            ..LoadBalancing::default()
        };
    }
    let distribution = distribution_of(&object.metadata, objects.namespace(&object.metadata.namespace));
    let (routing_preference, mode) = service::preference(distribution);
    LoadBalancing { routing_preference, mode, health_policy: HealthPolicy::OnlyHealthy }
}

/// The hosts that need automatic addresses from us.
pub(crate) fn claims(object: &ServiceEntry) -> impl Iterator<Item = Claim> {
    let metadata = &object.metadata;
    let wanted = wants_automatic(object) && object.status.addresses.is_empty();
    let hosts = wanted.then(|| hosts(object)).into_iter().flatten();
    hosts.map(|host| Claim {
        created: metadata.creation_timestamp.unwrap_or(Timestamp::MAX),
        entry: (metadata.namespace.clone(), metadata.name.clone()),
        host,
    })
}

/// The automatic addresses that its status has already.
pub(crate) fn taken(object: &ServiceEntry) -> impl Iterator<Item = IpAddr> {
    object.status.addresses.iter().map(|entry| entry.value.to_canonical())
}

fn wants_automatic(object: &ServiceEntry) -> bool {
    object.spec.addresses.is_empty()
        && object.spec.resolution != Resolution::None
        && object.metadata.label(AUTOMATIC).is_none_or(|value| value != "false")
}

fn vips(
    objects: &Objects,
    settings: &Settings,
    object: &ServiceEntry,
    host: &Hostname,
    reports: &mut Reports,
) -> Vec<Vip> {
    let vip = |net: IpNet| Vip { network: settings.network.clone(), net };
    let mut nets: Vec<IpNet> = Vec::new();
    for net in object.spec.addresses.iter().filter_map(|text| block(text)) {
        if !nets.contains(&net) {
            nets.push(net);
        }
    }
    if !object.spec.addresses.is_empty() || !wants_automatic(object) {
        return nets.into_iter().map(vip).collect();
    }
    if !object.status.addresses.is_empty() {
        let own = object
            .status
            .addresses
            .iter()
            .filter(|entry| entry.host.is_empty() || Hostname::parse(&entry.host).as_ref() == Ok(host));
        return own.map(|entry| vip(IpNet::from(entry.value.to_canonical()))).collect();
    }
    let claim = claims(object).find(|claim| claim.host == *host);
    let Some(pair) = claim.and_then(|claim| objects.automatic(&claim)) else {
        reports
            .warning("spec.addresses", format!("there is no automatic address left for {host}: write one"));
        return Vec::new();
    };
    pair.into_iter().map(|address| vip(IpNet::from(address))).collect()
}

/// An address, or a block of them.
fn block(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address.to_canonical())),
        Err(_) => text.parse::<IpNet>().ok().map(|net| net.trunc()),
    }
}

fn alt_names(object: &ServiceEntry) -> Vec<SpiffeId> {
    object.spec.subject_alt_names.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Its endpoints, or, where DNS finds them, its hosts.
fn workloads(
    binder: &Binder<'_>,
    object: &ServiceEntry,
    names: &[ServiceName],
    reports: &mut Reports,
) -> Vec<Workload> {
    let spec = &object.spec;
    if spec.resolution.is_dns() && spec.endpoints.is_empty() && spec.workload_selector.is_none() {
        let hosts = names.iter().filter_map(|name| {
            let endpoint =
                WorkloadEntrySpec { address: name.hostname.as_str().into(), ..WorkloadEntrySpec::default() };
            workload(binder, object, &endpoint, std::slice::from_ref(name))
        });
        return hosts.collect();
    }
    if names.is_empty() || matches!(spec.resolution, Resolution::None | Resolution::DynamicDns) {
        return Vec::new();
    }
    let mut found: BTreeMap<WorkloadUid, Workload> = BTreeMap::new();
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        let Some(workload) = workload(binder, object, endpoint, names) else { continue };
        if found.contains_key(&workload.uid) {
            reports.warning(
                format!("spec.endpoints[{at}].address"),
                format!("{} is listed twice", endpoint.address),
            );
        } else {
            found.insert(workload.uid.clone(), workload);
        }
    }
    found.into_values().collect()
}

fn workload(
    binder: &Binder<'_>,
    object: &ServiceEntry,
    endpoint: &WorkloadEntrySpec,
    names: &[ServiceName],
) -> Option<Workload> {
    let Binder { objects, settings } = binder;
    let (name, namespace) = (&object.metadata.name, &object.metadata.namespace);
    let (addresses, hostname) = place(&endpoint.address, object.spec.resolution)?;
    let uid = format!(
        "{}/networking.istio.io/ServiceEntry/{namespace}/{name}/{}",
        settings.cluster, endpoint.address
    );
    let labels = member::merged(&object.metadata, &endpoint.labels);
    let (canonical_name, canonical_revision) = member::canonical(&labels, name);
    let native_tunnel = member::tunnels_itself(&labels);
    let ports = member::entry_ports(object, &member::NamedPorts::Listed(&endpoint.ports));
    let services: Memberships = names.iter().map(|name| (name.clone(), ports.clone())).collect();
    let account = service_account(endpoint);
    let binding = binder.binding(&object.metadata, Traffic::Workload, Some(&account));
    Some(Workload {
        uid: WorkloadUid::parse(&uid).ok()?,
        name: name.clone(),
        namespace: namespace.clone(),
        trust_domain: settings.trust_domain.clone(),
        service_account: account,
        addresses,
        hostname,
        network: network(settings, endpoint),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: if native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        native_tunnel,
        application_tunnel: None,
        waypoint: binding.as_ref().and_then(Binding::waypoint),
        node: ArcStr::new(),
        locality: member::locality(endpoint.locality.as_ref()),
        cluster: settings.cluster.clone(),
        canonical_name,
        canonical_revision,
        workload_type: WorkloadType::Pod,
        workload_name: name.clone(),
        policies: member::policies(objects, settings, namespace, &labels),
        services: Arc::new(services),
        health: Health::Healthy,
        capacity: capacity(endpoint),
    })
}

/// An address, or a name where DNS is asked.
fn place(text: &str, resolution: Resolution) -> Option<(Vec<IpAddr>, Option<Hostname>)> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some((vec![address.to_canonical()], None)),
        Err(_) if resolution.is_dns() => Some((Vec::new(), Some(Hostname::parse(text).ok()?))),
        Err(_) => None,
    }
}

/// The network of an endpoint.
pub(crate) fn network(settings: &Settings, endpoint: &WorkloadEntrySpec) -> Network {
    let named = endpoint.network.as_ref().filter(|network| !network.is_empty());
    named.map_or_else(|| settings.network.clone(), |network| Network(network.clone()))
}

/// The account of its identity.
pub(crate) fn service_account(endpoint: &WorkloadEntrySpec) -> ArcStr {
    let named = endpoint.service_account.as_ref().filter(|name| !name.is_empty());
    named.cloned().unwrap_or(literal!("default"))
}

/// A weight of 0 is one that was not given.
pub(crate) fn capacity(endpoint: &WorkloadEntrySpec) -> u32 {
    endpoint.weight.filter(|weight| *weight > 0).unwrap_or(1)
}

/// What of it pods and workload entries depend on when it selects them.
pub(crate) fn shapes_members(old: Option<&ServiceEntry>, new: Option<&ServiceEntry>) -> bool {
    let shape = |object: &ServiceEntry| {
        (object.spec.hosts.clone(), object.spec.ports.clone(), object.metadata.creation_timestamp)
    };
    let selector =
        |object: Option<&ServiceEntry>| object.and_then(|object| object.spec.workload_selector.clone());
    let wishes = |object: &'_ ServiceEntry| waypoint::wishes(&object.metadata).map(Option::<&ArcStr>::cloned);
    old.map(shape) != new.map(shape) || selector(old) != selector(new) || old.map(wishes) != new.map(wishes)
}

/// The service entry that has a name in its namespace, unless a Service has it.
pub(crate) fn of_name<'a>(objects: &'a Objects, name: &ServiceName) -> Option<&'a ServiceEntry> {
    let candidates = objects.entries_for(&name.hostname).map(|(_, candidate)| candidate);
    candidates
        .filter(|candidate| candidate.metadata.namespace == name.namespace)
        .min_by_key(|candidate| age(candidate))
}

/// Whether a workload that it becomes may run under an account.
pub(crate) fn has_account(object: &ServiceEntry, account: &str) -> bool {
    let listed = &object.spec.endpoints;
    listed.is_empty() && account == "default"
        || listed.iter().any(|endpoint| service_account(endpoint) == account)
}

/// Names of other service entries that claim a host of this one.
pub(crate) fn siblings<'a>(objects: &'a Objects, object: &ServiceEntry) -> Vec<&'a Name> {
    let hosts = hosts(object);
    hosts.iter().flat_map(|host| objects.entries_for(host)).map(|(name, _)| name).collect()
}
