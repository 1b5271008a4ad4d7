// SPDX-License-Identifier: Apache-2.0
//! `BackendTLSPolicy` (Gateway API): the TLS in which a waypoint speaks with endpoints that have no tunnel.
//!
//! A port has the oldest policy that names it, else the oldest of its whole service. What cannot be used of a policy leaves
//! nobody whom a server could be believed by: connections fail, and never go without TLS.

mod proof;

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use jiff::Timestamp;
use mesh::{l7::ServerTls, service::AppProtocol};

use self::proof::Proof;
pub(crate) use self::proof::check;
use super::{
    Translation, entry,
    route::{Attachment, Outcome, enforced},
    service,
    waypoint::Binder,
};
use crate::{
    objects::{BackendTLSPolicy, Kind, ObjectKey, ParentRef, Protocol, SectionReference},
    report::Reports,
    world::{Name, Objects, Settings},
};

const NETWORKING: &str = "networking.istio.io";

/// A port that a policy can be for.
struct Port {
    number: u16,
    name: ArcStr,
    protocol: AppProtocol,
}

/// What its owner is told of each target that is a part of the mesh.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &BackendTLSPolicy,
) -> Translation<Vec<Attachment>> {
    let mut reports = Reports::of(object.metadata.key(Kind::BackendTLSPolicy));
    let proof = proof::read(objects, object, &mut reports);
    let judge = Judge { objects, settings, object, proof };
    let references = object.spec.target_refs.iter().enumerate();
    let output = references.filter_map(|(at, reference)| judge.attachment(at, reference, &mut reports));
    Translation { output: Some(output.collect()), reports: reports.done() }
}

/// The TLS of each port of a service, of either kind.
pub(crate) fn ports(objects: &Objects, service: &ObjectKey) -> BTreeMap<u16, Arc<ServerTls>> {
    let mut read: BTreeMap<&ArcStr, Arc<ServerTls>> = BTreeMap::new();
    let mut found = BTreeMap::new();
    for port in ports_of(objects, service).unwrap_or_default() {
        if port.protocol == AppProtocol::Tls {
            continue;
        }
        let Some(policy) = of_port(objects, service, &port) else { continue };
        let tls = read.entry(&policy.metadata.name).or_insert_with(|| {
            let mut unheard = Reports::of(policy.metadata.key(Kind::BackendTLSPolicy));
            Arc::new(proof::read(objects, policy, &mut unheard).tls)
        });
        found.insert(port.number, Arc::clone(tls));
    }
    found
}

/// The services, of either kind, that a policy is attached to.
pub(crate) fn services_of(object: &BackendTLSPolicy) -> impl Iterator<Item = ObjectKey> {
    let namespace = &object.metadata.namespace;
    object.spec.target_refs.iter().filter_map(|reference| target(reference, namespace))
}

/// The ConfigMaps that a policy takes certificates from.
pub(crate) fn maps_of(object: &BackendTLSPolicy) -> impl Iterator<Item = Name> {
    let references = object.spec.validation.iter().flat_map(|validation| &validation.ca_certificate_refs);
    let maps = references.filter(|reference| proof::is_map(reference));
    maps.map(|reference| (object.metadata.namespace.clone(), reference.name.clone()))
}

/// All that a policy depends on.
pub(crate) fn referred(object: &BackendTLSPolicy) -> Vec<ObjectKey> {
    let map = |(namespace, name)| ObjectKey { kind: Kind::ConfigMap, namespace, name };
    services_of(object).chain(maps_of(object).map(map)).collect()
}

fn target(reference: &SectionReference, namespace: &ArcStr) -> Option<ObjectKey> {
    let kind = match (reference.group.as_str(), reference.kind.as_str()) {
        ("" | "core", "Service") => Kind::Service,
        (NETWORKING, "ServiceEntry") => Kind::ServiceEntry,
        _ => return None,
    };
    Some(ObjectKey { kind, namespace: namespace.clone(), name: reference.name.clone() })
}

fn ports_of(objects: &Objects, service: &ObjectKey) -> Option<Vec<Port>> {
    let name = (service.namespace.clone(), service.name.clone());
    if service.kind == Kind::Service {
        let tcp = objects.service(&name)?.spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let ports = tcp.map(|port| Port {
            number: port.port,
            name: port.name.clone().unwrap_or_default(),
            protocol: service::protocol(port),
        });
        return Some(ports.collect());
    }
    let entry = objects.entry(&name)?;
    let known = entry::ports(entry);
    let ports = entry.spec.ports.iter().filter_map(|port| {
        let protocol = known.get(&port.number)?.protocol;
        Some(Port { number: port.number, name: port.name.clone(), protocol })
    });
    Some(ports.collect())
}

/// The policy of a port.
fn of_port<'a>(objects: &'a Objects, service: &ObjectKey, port: &Port) -> Option<&'a BackendTLSPolicy> {
    let by_name = Some(&port.name).filter(|name| !name.is_empty());
    let own = by_name.and_then(|name| oldest(objects, service, Some(name)));
    own.or_else(|| oldest(objects, service, None))
}

/// Of the policies of a service, or of one port of it, the one that counts.
fn oldest<'a>(
    objects: &'a Objects,
    service: &ObjectKey,
    section: Option<&ArcStr>,
) -> Option<&'a BackendTLSPolicy> {
    let attached = objects.attached_to(service).filter(|key| key.kind == Kind::BackendTLSPolicy);
    let policies = attached.filter_map(|key| objects.tls_policy(&(key.namespace.clone(), key.name.clone())));
    let here = |policy: &&BackendTLSPolicy| {
        let is_here = |reference: &SectionReference| {
            target(reference, &policy.metadata.namespace).as_ref() == Some(service)
                && reference.section() == section
        };
        policy.spec.target_refs.iter().any(is_here)
    };
    policies.filter(here).min_by_key(|policy| age(policy))
}

/// The smallest is the oldest.
fn age(object: &BackendTLSPolicy) -> (Timestamp, &ArcStr) {
    (object.metadata.creation_timestamp.unwrap_or(Timestamp::MAX), &object.metadata.name)
}

/// Says what became of a policy.
struct Judge<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    object: &'a BackendTLSPolicy,
    proof: Proof,
}

impl Judge<'_> {
    fn attachment(
        &self,
        at: usize,
        reference: &SectionReference,
        reports: &mut Reports,
    ) -> Option<Attachment> {
        let field = format!("spec.targetRefs[{at}]");
        let namespace = &self.object.metadata.namespace;
        let Some(service) = target(reference, namespace) else {
            let SectionReference { kind, group, .. } = reference;
            let message =
                format!("{kind} of {group:?} is neither a Service nor a ServiceEntry ({NETWORKING})");
            reports.info(field, message);
            return None;
        };
        let accepted = self.accepted(&service, reference.section());
        // What is wrong with the policy itself has been said.
        if !accepted.holds && self.proof.fault.as_ref() != Some(&accepted) {
            reports.warning(field.clone(), accepted.message.clone());
        }
        let binder = Binder { objects: self.objects, settings: self.settings };
        let waypoint = enforced(&binder, &service, "policy");
        if !waypoint.holds {
            reports.info(field, waypoint.message.clone());
        }
        let parent = ParentRef {
            group: Some(reference.group.clone()),
            kind: Some(reference.kind.clone()),
            namespace: Some(namespace.clone()),
            name: reference.name.clone(),
            section_name: reference.section().cloned(),
            port: None,
        };
        let resolved = self.proof.resolved.clone();
        Some(Attachment { parent, accepted, resolved, partial: None, waypoint })
    }

    fn accepted(&self, service: &ObjectKey, section: Option<&ArcStr>) -> Outcome {
        let Some(ports) = ports_of(self.objects, service) else {
            return Outcome::bad("TargetNotFound", format!("{service} does not exist"));
        };
        if let Some(name) = section
            && ports.iter().all(|port| port.name != *name)
        {
            return Outcome::bad("TargetNotFound", format!("{service} has no port that is named {name}"));
        }
        if let Some(older) = oldest(self.objects, service, section)
            && age(older) < age(self.object)
        {
            let message =
                format!("BackendTLSPolicy {} is attached to the same and older", older.metadata.name);
            return Outcome::bad("Conflicted", message);
        }
        if let Some(fault) = &self.proof.fault {
            return fault.clone();
        }
        let own = |port: &&Port| match section {
            Some(name) => port.name == *name,
            None => port.name.is_empty() || oldest(self.objects, service, Some(&port.name)).is_none(),
        };
        let own = ports.iter().filter(own);
        let (theirs, ours): (Vec<&Port>, Vec<&Port>) =
            own.partition(|port| port.protocol == AppProtocol::Tls);
        let no_tls_in_tls =
            format!("on {} clients speak TLS themselves, so it goes through as it is", listed(&theirs));
        match (ours.is_empty(), theirs.is_empty()) {
            (true, true) => Outcome::good("Accepted", "every port has another policy of its own"),
            (true, false) => Outcome::bad("Invalid", no_tls_in_tls),
            (false, true) => Outcome::good("Accepted", &format!("in force on {}", listed(&ours))),
            (false, false) => {
                Outcome::good("Accepted", &format!("in force on {}; {no_tls_in_tls}", listed(&ours)))
            }
        }
    }
}

fn listed(ports: &[&Port]) -> String {
    let numbers: Vec<String> = ports.iter().map(|port| port.number.to_string()).collect();
    format!("port {}", numbers.join(", "))
}

#[cfg(test)]
mod tests;
