// SPDX-License-Identifier: Apache-2.0
//! A pod as a workload (Istio `workload.Workload`), the way istiod describes it.

use std::sync::Arc;

use arcstr::{ArcStr, literal};
use mesh::{
    PolicyName, Workload, WorkloadUid,
    service::{PortMap, ServicePort},
    workload::{Health, Locality, Memberships, NetworkMode, TunnelProtocol, WorkloadType},
};

use super::{Translation, peer, policy, service, waypoint_warning};
use crate::{
    objects::{Kind, Metadata, Node, OwnerReference, Phase, Pod, Protocol, Service, TargetPort},
    report::Reports,
    world::{Objects, Settings},
};

const REDIRECTION: &str = "ambient.istio.io/redirection";
const TUNNEL: &str = "networking.istio.io/tunnel";

/// The workload of a pod; none once it has ended, or before it has an address.
pub(crate) fn translate(objects: &Objects, settings: &Settings, pod: &Pod) -> Translation<Workload> {
    let mut reports = Reports::of(pod.metadata.key(Kind::Pod));
    waypoint_warning(&pod.metadata, &mut reports);
    if pod.spec.host_network && pod.metadata.annotation(REDIRECTION).is_some_and(|value| value == "enabled") {
        reports.warning(
            format!("metadata.annotations[{REDIRECTION:?}]"),
            "a pod on the host's network is never captured: remove the annotation",
        );
    }
    let addresses = pod.addresses();
    if addresses.is_empty() && !pod.is_terminal() && pod.status.phase != Phase::Pending {
        reports
            .warning("status.podIPs", "has no address, so the mesh does not know the pod: set status.podIPs");
    }
    let output =
        if addresses.is_empty() || pod.is_terminal() { None } else { workload(objects, settings, pod) };
    Translation { output, reports: reports.done() }
}

fn workload(objects: &Objects, settings: &Settings, pod: &Pod) -> Option<Workload> {
    let metadata = &pod.metadata;
    let uid = format!("{}//Pod/{}/{}", settings.cluster, metadata.namespace, metadata.name);
    let (workload_type, workload_name) = owner(metadata);
    let node = pod.spec.node_name.clone().unwrap_or_default();
    let (tunnel, native_tunnel) = tunnel(pod);
    Some(Workload {
        uid: WorkloadUid::parse(&uid).ok()?,
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        trust_domain: settings.trust_domain.clone(),
        service_account: pod.service_account(),
        addresses: pod.addresses(),
        hostname: None,
        network: settings.network.clone(),
        network_gateway: None,
        network_mode: if pod.spec.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
        tunnel,
        native_tunnel,
        application_tunnel: None,
        waypoint: None,
        locality: objects.node(&node).map(locality).unwrap_or_default(),
        node,
        cluster: settings.cluster.clone(),
        canonical_name: canonical_name(metadata).unwrap_or_else(|| workload_name.clone()),
        canonical_revision: canonical_revision(metadata),
        workload_type,
        workload_name,
        policies: policies(objects, settings, pod),
        services: Arc::new(memberships(objects, settings, pod)),
        health: if pod.is_ready() { Health::Healthy } else { Health::Unhealthy },
        capacity: 1,
    })
}

fn tunnel(pod: &Pod) -> (TunnelProtocol, bool) {
    if pod.metadata.label(TUNNEL).is_some_and(|value| value == "http") {
        return (TunnelProtocol::Hbone, true);
    }
    let captured = pod.metadata.annotation(REDIRECTION).is_some_and(|value| value == "enabled");
    if captured && !pod.spec.host_network {
        (TunnelProtocol::Hbone, false)
    } else {
        (TunnelProtocol::None, false)
    }
}

/// Where a node is.
pub(crate) fn locality(node: &Node) -> Locality {
    let label = |key: &str| node.metadata.label(key).cloned().unwrap_or_default();
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        subzone: label("topology.istio.io/subzone"),
    }
}

/// What owns a pod. A `ReplicaSet` stands for its Deployment and a Job of a `CronJob` for that, as in Istio's telemetry; the
/// wire has no other kinds, so a `StatefulSet` or `DaemonSet` gives its name only.
fn owner(metadata: &Metadata) -> (WorkloadType, ArcStr) {
    let references = &metadata.owner_references;
    let Some(OwnerReference { kind, name, .. }) =
        references.iter().find(|owner| owner.controller).or_else(|| references.first())
    else {
        return (WorkloadType::Pod, metadata.name.clone());
    };
    match kind.as_str() {
        "ReplicaSet" => {
            let hash = metadata.label("pod-template-hash").map_or("", ArcStr::as_str);
            let deployment = name.strip_suffix(hash).and_then(|rest| rest.strip_suffix('-'));
            (WorkloadType::Deployment, deployment.map_or_else(|| name.clone(), Into::into))
        }
        "Deployment" => (WorkloadType::Deployment, name.clone()),
        "CronJob" => (WorkloadType::CronJob, name.clone()),
        "Job" => match name.rsplit_once('-') {
            // The controller appends the time of the run in minutes.
            Some((cron, run)) if run.len() >= 8 && run.bytes().all(|byte| byte.is_ascii_digit()) => {
                (WorkloadType::CronJob, cron.into())
            }
            Some(_) | None => (WorkloadType::Job, name.clone()),
        },
        _ => (WorkloadType::Pod, name.clone()),
    }
}

fn canonical_name(metadata: &Metadata) -> Option<ArcStr> {
    first_label(metadata, ["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
}

fn canonical_revision(metadata: &Metadata) -> ArcStr {
    let keys = ["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"];
    first_label(metadata, keys).unwrap_or(literal!("latest"))
}

fn first_label(metadata: &Metadata, keys: [&str; 3]) -> Option<ArcStr> {
    keys.into_iter().find_map(|key| metadata.label(key)).cloned()
}

fn policies(objects: &Objects, settings: &Settings, pod: &Pod) -> Vec<PolicyName> {
    let namespace = pod.metadata.namespace.as_str();
    let own = objects.authorizations_of(namespace);
    let root =
        (namespace != settings.root_namespace).then(|| objects.authorizations_of(&settings.root_namespace));
    let mut names: Vec<PolicyName> = own
        .chain(root.into_iter().flatten())
        .filter(|(_, object)| policy::is_named_by(object, pod))
        .map(|(_, object)| policy::name(object))
        .chain(peer::policies_of(objects, settings, pod))
        .collect();
    names.sort();
    names
}

fn memberships(objects: &Objects, settings: &Settings, pod: &Pod) -> Memberships {
    objects
        .services_of(&pod.metadata.namespace)
        .filter(|(_, object)| service::selects(object, &pod.metadata.labels))
        .filter_map(|(_, object)| Some((service::name(settings, object)?, ports(object, pod))))
        .collect()
}

/// The pod's own ports for a service. A named port that none of its containers has is left out: the pod is no endpoint
/// for it.
fn ports(service: &Service, pod: &Pod) -> PortMap {
    let tcp = service.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
    tcp.filter_map(|port| {
        let target = match &port.target_port {
            None => port.port,
            Some(TargetPort::Number(number)) => *number,
            Some(TargetPort::Name(name)) => pod.named_port(name)?,
        };
        Some((port.port, ServicePort { target: Some(target), protocol: service::protocol(port) }))
    })
    .collect()
}
