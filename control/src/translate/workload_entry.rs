// SPDX-License-Identifier: Apache-2.0
//! A workload entry as a workload: a machine that is no pod.

use std::{net::IpAddr, sync::Arc};

use arcstr::ArcStr;
use mesh::{
    Hostname, Workload, WorkloadUid,
    workload::{Health, NetworkMode, TunnelProtocol, WorkloadType},
};

use super::{
    Translation, entry,
    member::{self, Guarded, Member, NamedPorts},
    waypoint::{self, Binder, Binding, Traffic},
};
use crate::{
    objects::{Kind, WorkloadEntry, WorkloadGroup},
    report::Reports,
    world::{Objects, Settings},
};

const HEALTH_CHECKED: &str = "proxy.istio.io/health-checks-enabled";

/// The workload; none without an address that can be used.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &WorkloadEntry,
) -> Translation<Guarded> {
    let mut reports = Reports::of(object.metadata.key(Kind::WorkloadEntry));
    check(object, &mut reports);
    entry::endpoint_notes("spec", &object.spec, &mut reports);
    let output = workload(&Binder { objects, settings }, object, &mut reports);
    Translation { output, reports: reports.done() }
}

fn workload(binder: &Binder<'_>, object: &WorkloadEntry, reports: &mut Reports) -> Option<Guarded> {
    let Binder { objects, settings } = binder;
    let (metadata, spec) = (&object.metadata, &object.spec);
    let account = entry::service_account(spec);
    let binding = binder.binding(metadata, Traffic::Workload, Some(&account));
    binder.report(metadata, binding.as_ref(), Traffic::Workload, reports);
    let (addresses, hostname) = place(&spec.address)?;
    let labels = object.labels();
    let (canonical_name, canonical_revision) = member::canonical(&labels, &metadata.name);
    let native_tunnel = member::tunnels_itself(&labels);
    let uid = format!(
        "{}/networking.istio.io/WorkloadEntry/{}/{}",
        settings.cluster, metadata.namespace, metadata.name
    );
    let member =
        Member { namespace: &metadata.namespace, labels: &labels, ports: NamedPorts::Listed(&spec.ports) };
    let services = member::memberships(objects, settings, &member);
    let guards = waypoint::guards(binder, metadata, &account, &services);
    let workload = Workload {
        uid: WorkloadUid::parse(&uid).ok()?,
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        trust_domain: settings.trust_domain.clone(),
        service_account: account,
        addresses,
        hostname,
        network: entry::network(settings, spec),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: if native_tunnel { TunnelProtocol::Hbone } else { TunnelProtocol::None },
        native_tunnel,
        application_tunnel: None,
        waypoint: binding.as_ref().and_then(Binding::waypoint),
        node: ArcStr::new(),
        locality: member::locality(spec.locality.as_ref()),
        cluster: settings.cluster.clone(),
        canonical_name,
        canonical_revision,
        workload_type: WorkloadType::Pod,
        workload_name: metadata.name.clone(),
        policies: member::policies(objects, settings, &metadata.namespace, &labels),
        services: Arc::new(services),
        health: health(object),
        capacity: entry::capacity(spec),
    };
    Some(Guarded::new(workload, guards))
}

fn place(text: &str) -> Option<(Vec<IpAddr>, Option<Hostname>)> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some((vec![address.to_canonical()], None)),
        Err(_) => Some((Vec::new(), Some(Hostname::parse(text).ok()?))),
    }
}

/// The condition `Healthy` where there is one; without one, who is checked is not well yet.
fn health(object: &WorkloadEntry) -> Health {
    let condition = object.status.conditions.iter().find(|condition| condition.kind == "Healthy");
    let checked = object.metadata.annotation(HEALTH_CHECKED).is_some_and(|value| value == "true");
    let well = condition.map_or(!checked, |condition| condition.status == "True");
    if well && object.metadata.deletion_timestamp.is_none() { Health::Healthy } else { Health::Unhealthy }
}

/// Errors of the object by itself.
pub(crate) fn check(object: &WorkloadEntry, reports: &mut Reports) {
    let address = object.spec.address.as_str();
    if !address.is_empty() && !address.starts_with("unix://") && place(address).is_none() {
        reports.error("spec.address", format!("{address:?} is neither an address nor a DNS name"));
    }
}

/// What there is to say about a group: nothing registers with us.
pub(crate) fn group(object: &WorkloadGroup) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::WorkloadGroup));
    reports.warning(
        "spec.template",
        "workloads do not register themselves: write a WorkloadEntry for each of them",
    );
    if object.spec.probe {
        reports.warning("spec.probe", "nobody asks: set the condition Healthy of each WorkloadEntry");
    }
    Translation { output: None, reports: reports.done() }
}
