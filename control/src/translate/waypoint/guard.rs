// SPDX-License-Identifier: Apache-2.0
//! Enforcement at the destination: whoever does not come from a workload's waypoints is denied, or, under audit, counted and
//! logged as if it were. A node proxy needs nothing but an ordinary policy for it.
//!
//! What is bound as a service is guarded on the ports of the workload behind it, what is bound itself on all of them. A port
//! that several services have is open to the waypoints of each of them, and as strict as the strictest.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use mesh::{
    Policy, PolicyName, SpiffeId,
    policy::{Action, Clause, Match, PolicyScope, Rule, StringMatch},
    workload::Memberships,
};

use super::{Binder, Binding, Enforcement, facts::Traffic};
use crate::{
    objects::Metadata,
    world::{Name, Objects, Settings},
};

/// What the names of these policies begin with. No object can be called so.
const PREFIX: &str = "ambit_waypoint";

/// One policy: ports of workloads that only some gateways may reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Guard {
    gateways: BTreeSet<Name>,
    ports: Ports,
    mode: Enforcement,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Ports {
    Only(BTreeSet<u16>),
    AllBut(BTreeSet<u16>),
}

/// Who may reach a port, and how strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Admission {
    gateways: BTreeSet<Name>,
    mode: Enforcement,
}

impl Admission {
    fn add(&mut self, binding: &Binding) {
        self.gateways.extend(binding.gateways());
        self.mode = self.mode.max(binding.mode);
    }
}

/// The guards of a workload of a service account, which is an endpoint of these services.
pub(crate) fn guards(
    binder: &Binder<'_>,
    metadata: &Metadata,
    account: &str,
    services: &Memberships,
) -> Vec<Guard> {
    if binder.is_instance(metadata) {
        return Vec::new();
    }
    let own = binder.binding(metadata, Traffic::Workload, Some(account)).filter(Binding::is_guarded);
    let mut base = Admission::default();
    own.iter().for_each(|binding| base.add(binding));
    let mut ports: BTreeMap<u16, Admission> = BTreeMap::new();
    for (name, targets) in services {
        let Some(binding) = binder.of_service(name).filter(Binding::is_guarded) else { continue };
        for port in targets.values().filter_map(|port| port.target) {
            ports.entry(port).or_insert_with(|| base.clone()).add(&binding);
        }
    }
    let mut guards = Vec::new();
    if own.is_some() {
        // What a service adds nothing to stays with the rest.
        ports.retain(|_, admission| *admission != base);
        guards.push(Guard {
            gateways: base.gateways,
            ports: Ports::AllBut(ports.keys().copied().collect()),
            mode: base.mode,
        });
    }
    let mut alike: BTreeMap<Admission, BTreeSet<u16>> = BTreeMap::new();
    for (port, admission) in ports {
        alike.entry(admission).or_default().insert(port);
    }
    guards.extend(alike.into_iter().map(|(Admission { gateways, mode }, ports)| Guard {
        gateways,
        ports: Ports::Only(ports),
        mode,
    }));
    guards
}

impl Guard {
    /// Whether it lets instances of a gateway in.
    pub(crate) fn admits(&self, gateway: &Name) -> bool {
        self.gateways.contains(gateway)
    }

    /// Its name on the wire: in the namespace of its first gateway, with the names of all.
    pub(crate) fn name(&self) -> PolicyName {
        let mut gateways = self.gateways.iter();
        let first = gateways.next().cloned().unwrap_or_default();
        let mut name = format!("{PREFIX}_{}", first.1);
        for (namespace, gateway) in gateways {
            name.push_str(&format!("_with_{namespace}_{gateway}"));
        }
        let (word, ports) = match &self.ports {
            Ports::Only(ports) => ("_port", ports),
            Ports::AllBut(ports) if ports.is_empty() => ("_all", ports),
            Ports::AllBut(ports) => ("_all_but", ports),
        };
        name.push_str(word);
        ports.iter().for_each(|port| name.push_str(&format!("_{port}")));
        if self.mode == Enforcement::Audit {
            name.push_str("_audit");
        }
        PolicyName { namespace: first.0, name: name.into() }
    }

    /// The policy: a DENY of everybody else, under audit on trial.
    pub(crate) fn policy(&self, objects: &Objects, settings: &Settings) -> Policy {
        let identities: BTreeSet<ArcStr> =
            self.gateways.iter().flat_map(|gateway| identities(objects, settings, gateway)).collect();
        let mut denied = Match {
            not_principals: identities.into_iter().map(StringMatch::Exact).collect(),
            ..Match::default()
        };
        match &self.ports {
            Ports::Only(ports) => denied.destination_ports = ports.iter().copied().collect(),
            Ports::AllBut(ports) => denied.not_destination_ports = ports.iter().copied().collect(),
        }
        // A match without a field never matches, a rule without clauses always does.
        let clauses = if denied.is_empty() { Vec::new() } else { vec![Clause { matches: vec![denied] }] };
        Policy {
            name: self.name(),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![Rule { clauses }],
            dry_run: self.mode == Enforcement::Audit,
        }
    }
}

/// Who a gateway's instances are: the accounts of its pods, and the one that control deploys it under, so that its first pod
/// is let in as soon as it runs.
fn identities(objects: &Objects, settings: &Settings, gateway: &Name) -> BTreeSet<ArcStr> {
    let (namespace, name) = gateway;
    let pods = objects
        .pods_of(namespace)
        .map(|(_, pod)| pod)
        .filter(|pod| super::is_part_of(&pod.metadata.labels, name) && !pod.is_terminal());
    let managed = Binder { objects, settings }.facts(gateway).is_some_and(|facts| facts.is_managed);
    let accounts = pods.map(crate::objects::Pod::service_account).chain(managed.then(|| name.clone()));
    accounts
        .map(|account| SpiffeId::new(settings.trust_domain.clone(), namespace.clone(), account))
        .map(|identity| identity.principal().into())
        .collect()
}
