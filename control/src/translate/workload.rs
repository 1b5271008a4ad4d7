// SPDX-License-Identifier: Apache-2.0
//! A pod as a workload (Istio `workload.Workload`), the way istiod describes it.

use std::sync::Arc;

use arcstr::ArcStr;
use mesh::{
    Workload, WorkloadUid,
    workload::{Health, Locality, NetworkMode, TunnelProtocol, WorkloadType},
};

use super::{
    Translation,
    member::{self, Guarded, Member, NamedPorts},
    waypoint::{self, Binder, Binding, Traffic},
};
use crate::{
    objects::{Kind, Metadata, Node, OwnerReference, Phase, Pod},
    report::Reports,
    world::{Objects, Settings},
};

const REDIRECTION: &str = "ambient.istio.io/redirection";

/// The workload of a pod; none once it has ended, or before it has an address.
pub(crate) fn translate(objects: &Objects, settings: &Settings, pod: &Pod) -> Translation<Guarded> {
    let mut reports = Reports::of(pod.metadata.key(Kind::Pod));
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
    let output = if addresses.is_empty() || pod.is_terminal() {
        None
    } else {
        workload(&Binder { objects, settings }, pod, &mut reports)
    };
    Translation { output, reports: reports.done() }
}

fn workload(binder: &Binder<'_>, pod: &Pod, reports: &mut Reports) -> Option<Guarded> {
    let Binder { objects, settings } = binder;
    let metadata = &pod.metadata;
    let uid = format!("{}//Pod/{}/{}", settings.cluster, metadata.namespace, metadata.name);
    let (workload_type, workload_name) = owner(metadata);
    let node = pod.spec.node_name.clone().unwrap_or_default();
    let (tunnel, native_tunnel) = tunnel(pod);
    let (canonical_name, canonical_revision) = member::canonical(&metadata.labels, &workload_name);
    let member =
        Member { namespace: &metadata.namespace, labels: &metadata.labels, ports: NamedPorts::Of(pod) };
    let account = pod.service_account();
    let binding = binder.binding(metadata, Traffic::Workload, Some(&account));
    binder.report(metadata, binding.as_ref(), Traffic::Workload, reports);
    let services = member::memberships(objects, settings, &member);
    let guards = waypoint::guards(binder, metadata, &account, &services);
    let workload = Workload {
        uid: WorkloadUid::parse(&uid).ok()?,
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        trust_domain: settings.trust_domain.clone(),
        service_account: account,
        addresses: pod.addresses(),
        hostname: None,
        network: settings.network.clone(),
        network_gateway: None,
        network_mode: if pod.spec.host_network { NetworkMode::HostNetwork } else { NetworkMode::Standard },
        tunnel,
        native_tunnel,
        application_tunnel: binder.application_tunnel(metadata),
        waypoint: binding.as_ref().and_then(Binding::waypoint),
        locality: objects.node(&node).map(locality).unwrap_or_default(),
        node,
        cluster: settings.cluster.clone(),
        canonical_name,
        canonical_revision,
        workload_type,
        workload_name,
        policies: member::policies(objects, settings, &metadata.namespace, &metadata.labels),
        services: Arc::new(services),
        health: if pod.is_ready() { Health::Healthy } else { Health::Unhealthy },
        capacity: 1,
    };
    Some(Guarded::new(workload, guards))
}

fn tunnel(pod: &Pod) -> (TunnelProtocol, bool) {
    if member::tunnels_itself(&pod.metadata.labels) {
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
