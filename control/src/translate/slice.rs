// SPDX-License-Identifier: Apache-2.0
//! Endpoint slices that somebody wrote by hand: their pods are endpoints of services without a selector, and their other
//! addresses become workloads of which nothing else is known.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use arcstr::{ArcStr, literal};
use mesh::{
    Workload, WorkloadUid,
    service::{AppProtocol, PortMap, ServicePort},
    workload::{Health, Locality, Memberships, NetworkMode, TunnelProtocol, WorkloadType},
};

use super::{Translation, service as services};
use crate::{
    objects::{AddressType, Endpoint, EndpointSlice, Kind, Metadata, Protocol, Service},
    report::Reports,
    world::{Name, Objects, Settings},
};

const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The service whose endpoints these are.
pub(crate) fn service(slice: &EndpointSlice) -> Option<Name> {
    let name = slice.metadata.label(SERVICE_NAME).filter(|name| !name.is_empty())?;
    Some((slice.metadata.namespace.clone(), name.clone()))
}

/// The pods that it refers to.
pub(crate) fn pods(slice: &EndpointSlice) -> impl Iterator<Item = Name> {
    slice.endpoints.iter().filter_map(|endpoint| pod(slice, endpoint))
}

fn pod(slice: &EndpointSlice, endpoint: &Endpoint) -> Option<Name> {
    let target = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod")?;
    let home = &slice.metadata.namespace;
    // A pod elsewhere is not for the author of this object to enlist.
    let here = target.namespace.as_ref().is_none_or(|namespace| namespace == home);
    here.then(|| (home.clone(), target.name.clone()))
}

fn is_pod(endpoint: &Endpoint) -> bool {
    endpoint.target_ref.as_ref().is_some_and(|target| target.kind == "Pod")
}

/// Whether pods become endpoints of a service by slices.
pub(crate) fn feeds(service: &Service) -> bool {
    service.spec.selector.is_empty() && !services::is_external_name(service)
}

/// Adds the services that a pod belongs to because a slice says so.
pub(crate) fn add_memberships(
    objects: &Objects,
    settings: &Settings,
    pod: &Metadata,
    memberships: &mut Memberships,
) {
    let name = (pod.namespace.clone(), pod.name.clone());
    for (_, slice) in objects.slices_with(&name) {
        let found = service(slice).and_then(|name| objects.service(&name));
        let Some(service) = found.filter(|service| feeds(service)) else { continue };
        if let Some(name) = services::name(settings, service) {
            memberships.entry(name).or_default().extend(ports(slice, service));
        }
    }
}

/// The ports of the endpoints; a slice calls them as the service does.
fn ports(slice: &EndpointSlice, service: &Service) -> PortMap {
    let name = |name: &Option<ArcStr>| name.clone().unwrap_or_default();
    let tcp = service.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.filter_map(|port| {
        let same = slice
            .ports
            .iter()
            .find(|other| other.protocol == Protocol::Tcp && name(&other.name) == name(&port.name))?;
        let target = same.port.filter(|number| *number != 0)?;
        Some((port.port, ServicePort { target: Some(target), protocol: AppProtocol::Unknown }))
    })
    .collect()
}

/// The workloads of endpoints that are no pods.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    slice: &EndpointSlice,
) -> Translation<Vec<Workload>> {
    let mut reports = Reports::of(slice.metadata.key(Kind::EndpointSlice));
    let output = workloads(objects, settings, slice, &mut reports);
    Translation { output, reports: reports.done() }
}

fn workloads(
    objects: &Objects,
    settings: &Settings,
    slice: &EndpointSlice,
    reports: &mut Reports,
) -> Option<Vec<Workload>> {
    for (at, endpoint) in slice.endpoints.iter().enumerate() {
        if is_pod(endpoint) && pod(slice, endpoint).is_none() {
            reports.warning(
                format!("endpoints[{at}].targetRef.namespace"),
                "a pod of another namespace is not taken: the slice must be in the pod's namespace",
            );
        }
    }
    let others: Vec<(usize, &Endpoint)> =
        slice.endpoints.iter().enumerate().filter(|(_, endpoint)| !is_pod(endpoint)).collect();
    if others.is_empty() {
        return None;
    }
    if slice.address_type == AddressType::Fqdn {
        reports.warning("addressType", "FQDN is not honoured: write a ServiceEntry with resolution DNS");
        return None;
    }
    let Some(name) = service(slice) else {
        let field = format!("metadata.labels[{SERVICE_NAME:?}]");
        reports.warning(field, "is missing, so these are endpoints of no service: add it");
        return None;
    };
    let Some(service) = objects.service(&name).filter(|service| !services::is_external_name(service)) else {
        let field = format!("metadata.labels[{SERVICE_NAME:?}]");
        reports.warning(field, format!("there is no Service {}/{} that has endpoints", name.0, name.1));
        return None;
    };
    let ports = ports(slice, service);
    if ports.is_empty() {
        reports.warning(
            "ports",
            "none has the name of a TCP port of the Service, so nothing reaches the endpoints",
        );
    }
    let memberships = Arc::new(Memberships::from([(services::name(settings, service)?, ports)]));
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for (at, endpoint) in others {
        let addresses = addresses(at, endpoint, reports);
        let Some(first) = addresses.first() else { continue };
        if !seen.insert(*first) {
            reports.warning(format!("endpoints[{at}].addresses"), format!("{first} is listed twice"));
            continue;
        }
        let health = match endpoint.conditions.ready {
            Some(false) => Health::Unhealthy,
            Some(true) | None => Health::Healthy,
        };
        found.extend(
            workload(settings, slice, addresses, &memberships)
                .map(|workload| Workload { health, ..workload }),
        );
    }
    Some(found)
}

fn addresses(at: usize, endpoint: &Endpoint, reports: &mut Reports) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in endpoint.addresses.iter().enumerate() {
        match text.parse::<IpAddr>() {
            Ok(address) => addresses.push(address.to_canonical()),
            Err(_) => {
                let field = format!("endpoints[{at}].addresses[{index}]");
                reports.error(field, format!("{text:?} is not an address"));
                return Vec::new();
            }
        }
    }
    addresses
}

/// Several may share an address of which nothing is known, as with a node's, so it does not identify the workload.
fn workload(
    settings: &Settings,
    slice: &EndpointSlice,
    addresses: Vec<IpAddr>,
    services: &Arc<Memberships>,
) -> Option<Workload> {
    let Metadata { name, namespace, .. } = &slice.metadata;
    let first = addresses.first()?;
    let uid = format!("{}/discovery.k8s.io/EndpointSlice/{namespace}/{name}/{first}", settings.cluster);
    Some(Workload {
        uid: WorkloadUid::parse(&uid).ok()?,
        name: name.clone(),
        namespace: namespace.clone(),
        trust_domain: settings.trust_domain.clone(),
        service_account: literal!("default"),
        addresses,
        hostname: None,
        network: settings.network.clone(),
        network_gateway: None,
        network_mode: NetworkMode::HostNetwork,
        tunnel: TunnelProtocol::None,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: ArcStr::new(),
        locality: Locality::default(),
        cluster: settings.cluster.clone(),
        canonical_name: ArcStr::new(),
        canonical_revision: ArcStr::new(),
        workload_type: WorkloadType::Deployment,
        workload_name: ArcStr::new(),
        policies: Vec::new(),
        services: Arc::clone(services),
        health: Health::Healthy,
        capacity: 1,
    })
}

/// The pods whose ports for a service a step of a slice from `old` to `new` can change.
pub(crate) fn moved(old: Option<&EndpointSlice>, new: Option<&EndpointSlice>) -> BTreeSet<Name> {
    let set = |slice: Option<&EndpointSlice>| slice.into_iter().flat_map(pods).collect::<BTreeSet<Name>>();
    let (before, after) = (set(old), set(new));
    let same = match (old, new) {
        (Some(old), Some(new)) => old.ports == new.ports && service(old) == service(new),
        (None, _) | (_, None) => false,
    };
    if same { &before ^ &after } else { &before | &after }
}
