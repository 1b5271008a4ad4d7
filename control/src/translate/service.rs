// SPDX-License-Identifier: Apache-2.0
//! A Kubernetes service as a mesh service (Istio `workload.Service`).

use arcstr::ArcStr;
use ipnet::IpNet;
use mesh::{
    Hostname, Service, ServiceName,
    service::{
        AppProtocol, BalanceMode, HealthPolicy, IpFamilies, LoadBalancing, PortMap, Scope, ServicePort, Vip,
        Visibility,
    },
};

use super::{
    Translation,
    waypoint::{Binder, Binding, Traffic},
};
use crate::{
    objects::{self, IpFamily, Kind, Labels, Metadata, Namespace, Port, Protocol, TargetPort, TrafficPolicy},
    report::Reports,
    world::{Objects, Settings},
};

const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";

/// The mesh service of a Kubernetes service; none for an `ExternalName`, which is only an alias in DNS.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    service: &objects::Service,
) -> Translation<Service> {
    let mut reports = Reports::of(service.metadata.key(Kind::Service));
    let namespace = objects.namespace(&service.metadata.namespace);
    if is_external_name(service) {
        reports.info("spec.type", "an ExternalName service is not part of the mesh: its DNS answer is");
        return Translation { output: None, reports: reports.done() };
    }
    notes(service, &mut reports);
    let binder = Binder { objects, settings };
    let binding = binder.binding(&service.metadata, Traffic::Service, None);
    binder.report(&service.metadata, binding.as_ref(), Traffic::Service, &mut reports);
    let waypoint = binding.as_ref().and_then(Binding::waypoint);
    let ingress_use_waypoint = binder.ingress(&service.metadata, waypoint.is_some(), &mut reports);
    let output = name(settings, service).map(|name| Service {
        name: service.metadata.name.clone(),
        namespace: name.namespace,
        hostname: name.hostname,
        vips: vips(settings, service),
        ports: ports(service),
        subject_alt_names: Vec::new(),
        waypoint,
        weighted_waypoints: binding.as_ref().map(Binding::weighted).unwrap_or_default(),
        load_balancing: load_balancing(service, namespace),
        ip_families: ip_families(service),
        canonical: true,
        ingress_use_waypoint,
        visibility: Visibility::Public,
    });
    Translation { output, reports: reports.done() }
}

/// Says what of a service the mesh does not do.
fn notes(service: &objects::Service, reports: &mut Reports) {
    let spec = &service.spec;
    if spec.addresses().is_empty() && !spec.is_headless() {
        reports.warning(
            "spec.clusterIP",
            "has no virtual address: set clusterIPs, or clusterIP: None for a headless service",
        );
    }
    if spec.session_affinity.as_ref().is_some_and(|affinity| affinity == "ClientIP") {
        reports.warning("spec.sessionAffinity", "is not honoured: endpoints are chosen per connection");
    }
    for (index, port) in spec.ports.iter().enumerate().filter(|(_, port)| port.protocol != Protocol::Tcp) {
        reports.info(
            format!("spec.ports[{index}].protocol"),
            format!("port {} is not TCP and stays outside the mesh", port.port),
        );
    }
}

/// Its name in the mesh.
pub(crate) fn name(settings: &Settings, service: &objects::Service) -> Option<ServiceName> {
    named(settings, &service.metadata.namespace, &service.metadata.name)
}

/// The name in the mesh of a service of this namespace and name, whether it exists or not.
pub(crate) fn named(settings: &Settings, namespace: &ArcStr, name: &str) -> Option<ServiceName> {
    let host = format!("{name}.{namespace}.svc.{}", settings.cluster_domain);
    let hostname = Hostname::parse(&host).ok()?;
    Some(ServiceName { namespace: namespace.clone(), hostname })
}

/// The service that a name of the cluster's own stands for.
pub(crate) fn of_host<'a>(
    objects: &'a Objects,
    settings: &Settings,
    host: &Hostname,
) -> Option<&'a objects::Service> {
    let rest = host.as_str().strip_suffix(settings.cluster_domain.as_str())?.strip_suffix(".svc.")?;
    let (name, namespace) = rest.split_once('.')?;
    objects.service(&(namespace.into(), name.into())).filter(|service| !is_external_name(service))
}

/// Whether pods of its namespace with these labels are its endpoints.
pub(crate) fn selects(service: &objects::Service, labels: &Labels) -> bool {
    !service.spec.selector.is_empty()
        && !is_external_name(service)
        && objects::contains(labels, &service.spec.selector)
}

pub(crate) fn is_external_name(service: &objects::Service) -> bool {
    service.spec.kind.as_ref().is_some_and(|kind| kind == "ExternalName")
}

fn vips(settings: &Settings, service: &objects::Service) -> Vec<Vip> {
    let addresses = service.addresses().into_iter();
    addresses.map(|address| Vip { network: settings.network.clone(), net: IpNet::from(address) }).collect()
}

fn ports(service: &objects::Service) -> PortMap {
    let tcp = service.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.map(|port| {
        let target = match &port.target_port {
            None => Some(port.port),
            Some(TargetPort::Number(number)) => Some(*number),
            // Each pod says what it means by the name.
            Some(TargetPort::Name(_)) => None,
        };
        (port.port, ServicePort { target, protocol: protocol(port) })
    })
    .collect()
}

/// What is spoken on a port: `appProtocol`, or else the first part of its name.
pub(crate) fn protocol(port: &Port) -> AppProtocol {
    let declared = port.app_protocol.as_deref().map(|text| text.to_ascii_lowercase());
    let named =
        || port.name.as_deref().map(|name| name.split('-').next().unwrap_or(name).to_ascii_lowercase());
    match declared.or_else(named).as_deref() {
        Some("http" | "kubernetes.io/ws") => AppProtocol::Http11,
        Some("http2" | "kubernetes.io/h2c") => AppProtocol::Http2,
        Some("grpc") => AppProtocol::Grpc,
        Some("tcp") => AppProtocol::Tcp,
        Some("tls" | "https" | "kubernetes.io/wss") => AppProtocol::Tls,
        Some(_) | None => AppProtocol::Unknown,
    }
}

fn load_balancing(service: &objects::Service, namespace: Option<&Namespace>) -> LoadBalancing {
    let health_policy = if service.spec.publish_not_ready_addresses {
        HealthPolicy::AllowAll
    } else {
        HealthPolicy::OnlyHealthy
    };
    let (routing_preference, mode) = match service.spec.internal_traffic_policy {
        TrafficPolicy::Local => (vec![Scope::Node], BalanceMode::Strict),
        TrafficPolicy::Cluster => {
            let field = service.spec.traffic_distribution.as_ref();
            preference(field.map_or_else(|| distribution_of(&service.metadata, namespace), distribution))
        }
    };
    LoadBalancing { routing_preference, mode, health_policy }
}

/// Which endpoints are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    /// Those of the client's zone.
    SameZone,
    /// Those of its node, then of its zone.
    SameNode,
}

/// A preference as proxies are told of it.
pub(crate) fn preference(distribution: Option<Distribution>) -> (Vec<Scope>, BalanceMode) {
    match distribution {
        Some(Distribution::SameZone) => {
            (vec![Scope::Network, Scope::Region, Scope::Zone], BalanceMode::Failover)
        }
        Some(Distribution::SameNode) => {
            let scopes = vec![Scope::Network, Scope::Region, Scope::Zone, Scope::Subzone, Scope::Node];
            (scopes, BalanceMode::Failover)
        }
        None => (Vec::new(), BalanceMode::Unspecified),
    }
}

/// The object's annotation, else that of its namespace.
pub(crate) fn distribution_of(metadata: &Metadata, namespace: Option<&Namespace>) -> Option<Distribution> {
    let inherited = || namespace?.metadata.annotation(DISTRIBUTION);
    distribution(metadata.annotation(DISTRIBUTION).or_else(inherited)?)
}

fn distribution(wanted: &ArcStr) -> Option<Distribution> {
    match wanted.as_str() {
        "PreferClose" | "PreferSameZone" => Some(Distribution::SameZone),
        "PreferSameNode" => Some(Distribution::SameNode),
        _ => None,
    }
}

fn ip_families(service: &objects::Service) -> IpFamilies {
    let families = &service.spec.ip_families;
    match (families.contains(&IpFamily::V4), families.contains(&IpFamily::V6)) {
        (true, true) => IpFamilies::Dual,
        (true, false) => IpFamilies::V4Only,
        (false, true) => IpFamilies::V6Only,
        (false, false) => IpFamilies::Automatic,
    }
}

/// Errors in a service.
pub(crate) fn check(service: &objects::Service, reports: &mut Reports) {
    let spec = &service.spec;
    let known = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(wanted) = &spec.traffic_distribution
        && !known.contains(&wanted.as_str())
    {
        reports.error("spec.trafficDistribution", format!("{wanted:?} is not one of {}", known.join(", ")));
    }
    if let Some(wanted) = service.metadata.annotation(DISTRIBUTION)
        && !known.contains(&wanted.as_str())
        && wanted != "Any"
    {
        reports.error(
            format!("metadata.annotations[{DISTRIBUTION:?}]"),
            format!("{wanted:?} is not one of {}, Any", known.join(", ")),
        );
    }
    for (index, port) in spec.ports.iter().enumerate() {
        if port.port == 0 {
            reports.error(format!("spec.ports[{index}].port"), "must be from 1 to 65535");
        }
        let same = |other: &&Port| other.port == port.port && other.protocol == port.protocol;
        if spec.ports.iter().take(index).any(|other| same(&other)) {
            reports.error(format!("spec.ports[{index}].port"), format!("{} is listed twice", port.port));
        }
    }
}
