// SPDX-License-Identifier: Apache-2.0
//! What pods, workload entries and endpoints of service entries have in common as workloads: the services that select them
//! and the policies that name them.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use mesh::{
    PolicyName, Workload,
    service::{AppProtocol, PortMap, ServicePort},
    workload::{Locality, Memberships},
};

use super::{entry, peer, policy, service, slice, waypoint::Guard};
use crate::{
    objects::{Labels, Metadata, Pod, Protocol, Service, ServiceEntry, TargetPort},
    world::{Objects, Settings},
};

/// A workload, and the policies that keep those out who come past its waypoints: it names them.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub(crate) workload: Workload,
    pub(crate) guards: Vec<Guard>,
}

impl Guarded {
    pub(crate) fn new(mut workload: Workload, guards: Vec<Guard>) -> Self {
        workload.policies.extend(guards.iter().map(Guard::name));
        workload.policies.sort();
        Self { workload, guards }
    }
}

/// What may be selected.
pub(crate) struct Member<'a> {
    /// Where it lives.
    pub(crate) namespace: &'a str,
    /// What it is selected by.
    pub(crate) labels: &'a Labels,
    /// What its ports are called.
    pub(crate) ports: NamedPorts<'a>,
}

/// Who knows the names of ports.
pub(crate) enum NamedPorts<'a> {
    /// The containers.
    Of(&'a Pod),
    /// A list.
    Listed(&'a BTreeMap<ArcStr, u16>),
}

impl NamedPorts<'_> {
    fn number(&self, name: &str) -> Option<u16> {
        match self {
            Self::Of(pod) => pod.named_port(name),
            Self::Listed(ports) => ports.get(name).copied(),
        }
    }
}

/// Names of the policies that select it by label, and of those its `PeerAuthentication` became.
pub(crate) fn policies(
    objects: &Objects,
    settings: &Settings,
    namespace: &str,
    labels: &Labels,
) -> Vec<PolicyName> {
    let own = objects.authorizations_of(namespace);
    let root =
        (namespace != settings.root_namespace).then(|| objects.authorizations_of(&settings.root_namespace));
    let mut names: Vec<PolicyName> = own
        .chain(root.into_iter().flatten())
        .filter(|(_, object)| policy::is_named_by(object, labels))
        .map(|(_, object)| policy::name(object))
        .chain(peer::policies_of(objects, settings, namespace, labels))
        .collect();
    names.sort();
    names
}

/// The services it is an endpoint of: by selector, and of a pod by the slices that refer to it.
pub(crate) fn memberships(objects: &Objects, settings: &Settings, member: &Member<'_>) -> Memberships {
    let services = objects
        .services_of(member.namespace)
        .filter(|(_, object)| service::selects(object, member.labels))
        .filter_map(|(_, object)| Some((service::name(settings, object)?, service_ports(object, member))));
    let entries =
        objects.entries_of(member.namespace).filter(|(_, object)| entry::selects(object, member.labels));
    let entries = entries.flat_map(|(_, object)| {
        let ports = entry_ports(object, &member.ports);
        entry::names(objects, settings, object).map(move |name| (name, ports.clone()))
    });
    let mut all: Memberships = entries.chain(services).collect();
    if let NamedPorts::Of(pod) = member.ports {
        slice::add_memberships(objects, settings, &pod.metadata, &mut all);
    }
    all
}

/// Its own ports for a service. A named port that it does not have is left out: it is no endpoint for it. What is spoken there
/// the service says.
fn service_ports(service: &Service, member: &Member<'_>) -> PortMap {
    let tcp = service.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.filter_map(|port| {
        let target = match &port.target_port {
            None => port.port,
            Some(TargetPort::Number(number)) => *number,
            Some(TargetPort::Name(name)) => member.ports.number(name)?,
        };
        Some((port.port, ServicePort { target: Some(target), protocol: AppProtocol::Unknown }))
    })
    .collect()
}

/// Its own ports for a service entry: there the name of the port itself is looked for, and the number is what is left.
pub(crate) fn entry_ports(object: &ServiceEntry, names: &NamedPorts<'_>) -> PortMap {
    let own = |(number, port): (u16, ServicePort)| {
        let declared = object.spec.ports.iter().find(|port| port.number == number);
        let named = declared.and_then(|port| names.number(&port.name));
        (number, ServicePort { target: named.or(port.target), protocol: AppProtocol::Unknown })
    };
    entry::ports(object).into_iter().map(own).collect()
}

/// Canonical service name and revision.
pub(crate) fn canonical(labels: &Labels, otherwise: &ArcStr) -> (ArcStr, ArcStr) {
    let first = |keys: [&str; 3]| keys.into_iter().find_map(|key| labels.get(key)).cloned();
    let name = first(["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
    let revision = first(["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
    (name.unwrap_or_else(|| otherwise.clone()), revision.unwrap_or(arcstr::literal!("latest")))
}

/// Whether its labels say that it ends tunnels itself.
pub(crate) fn tunnels_itself(labels: &Labels) -> bool {
    labels.get("networking.istio.io/tunnel").is_some_and(|value| value == "http")
}

/// `region/zone/subzone`; what is missing at the end is empty.
pub(crate) fn locality(text: Option<&ArcStr>) -> Locality {
    let mut parts = text.map_or("", ArcStr::as_str).splitn(3, '/');
    let mut next = || ArcStr::from(parts.next().unwrap_or_default());
    Locality { region: next(), zone: next(), subzone: next() }
}

/// The labels of an endpoint over those of what it is listed in.
pub(crate) fn merged(outer: &Metadata, inner: &Labels) -> Labels {
    let mut labels = outer.labels.clone();
    labels.extend(inner.iter().map(|(key, value)| (key.clone(), value.clone())));
    labels
}
