// SPDX-License-Identifier: Apache-2.0
//! `PeerAuthentication` as authorization. Node proxies accept both plaintext and mutual TLS; STRICT becomes a DENY of whoever
//! comes without an identity, which workloads name.

use jiff::Timestamp;
use mesh::{
    Policy, PolicyName,
    policy::{Action, Clause, Match, PolicyScope, Rule, StringMatch},
};

use super::Translation;
use crate::{
    objects::{Kind, Labels, MtlsMode, PeerAuthentication},
    report::Reports,
    world::{Objects, Settings},
};

/// Name of the policy that every workload in STRICT names; in the root namespace.
const STATIC_STRICT: &str = "istio_converted_static_strict";
/// What the name of a policy for single ports starts with. No object can be called so.
const CONVERTED: &str = "converted_peer_authentication_";

/// The policy of the effective `PeerAuthentication`: of the workload, else of the namespace, else of the mesh.
pub(crate) fn policies_of(
    objects: &Objects,
    settings: &Settings,
    namespace: &str,
    labels: &Labels,
) -> Option<PolicyName> {
    let own = objects.peers_of(namespace).map(|(_, object)| object);
    let selecting = own.filter(|object| selects(object, labels));
    let base = Mode::of_namespace(objects, settings, namespace);
    let Some(object) = oldest(selecting) else {
        return (base == Mode::Strict).then(|| static_strict_name(settings));
    };
    if exceptions(object, base).is_empty() {
        return (Mode::of(object.spec.mode(), base) == Mode::Strict).then(|| static_strict_name(settings));
    }
    Some(converted_name(object))
}

/// Whether it is for single workloads of its namespace, and those with these labels are among them.
pub(crate) fn selects(object: &PeerAuthentication, labels: &Labels) -> bool {
    object.spec.selector.as_ref().is_some_and(|selector| selector.selects(labels))
}

/// The policy for a `PeerAuthentication` with ports that differ from the rest of their workload.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    object: &PeerAuthentication,
) -> Translation<Policy> {
    let mut reports = Reports::of(object.metadata.key(Kind::PeerAuthentication));
    notes(object, &mut reports);
    let base = Mode::of_namespace(objects, settings, &object.metadata.namespace);
    let ports = exceptions(object, base);
    let output = (object.spec.selector.is_some() && !ports.is_empty()).then(|| {
        let clauses = match Mode::of(object.spec.mode(), base) {
            Mode::Strict => {
                vec![clause(anonymous()), clause(Match { not_destination_ports: ports, ..Match::default() })]
            }
            Mode::Permissive => vec![clause(Match { destination_ports: ports, ..anonymous() })],
        };
        Policy {
            name: converted_name(object),
            scope: PolicyScope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![Rule { clauses }],
            dry_run: false,
        }
    });
    Translation { output, reports: reports.done() }
}

/// The policy that every workload in STRICT names; there from the first `PeerAuthentication` on.
pub(crate) fn static_strict(objects: &Objects, settings: &Settings) -> Option<Policy> {
    objects.peers().next()?;
    Some(Policy {
        name: static_strict_name(settings),
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: vec![clause(anonymous())] }],
        dry_run: false,
    })
}

fn notes(object: &PeerAuthentication, reports: &mut Reports) {
    if object.spec.selector.is_none() && !object.spec.port_level_mtls.is_empty() {
        reports.warning("spec.portLevelMtls", "has no effect without a selector: add spec.selector");
    }
    let disabled = "DISABLE is treated as PERMISSIVE: between node proxies mutual TLS is used all the same";
    if object.spec.mode() == MtlsMode::Disable {
        reports.warning("spec.mtls.mode", disabled);
    }
    for (port, mtls) in &object.spec.port_level_mtls {
        if mtls.mode == MtlsMode::Disable {
            reports.warning(format!("spec.portLevelMtls.{port}.mode"), disabled);
        }
    }
}

/// What a mode comes down to in a node proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Permissive,
    Strict,
}

impl Mode {
    fn of(mode: MtlsMode, inherited: Self) -> Self {
        match mode {
            MtlsMode::Unset => inherited,
            MtlsMode::Disable | MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Strict => Self::Strict,
        }
    }

    /// What holds in a namespace for workloads that no object selects.
    fn of_namespace(objects: &Objects, settings: &Settings, namespace: &str) -> Self {
        let level = |namespace: &str| {
            let all = objects.peers_of(namespace).map(|(_, object)| object);
            let whole = oldest(all.filter(|object| object.spec.selector.is_none()));
            whole.map_or(MtlsMode::Unset, |object| object.spec.mode())
        };
        let mesh = Self::of(level(&settings.root_namespace), Self::Permissive);
        Self::of(level(namespace), mesh)
    }
}

/// Ports whose mode is not that of the workload.
fn exceptions(object: &PeerAuthentication, base: Mode) -> Vec<u16> {
    let rest = Mode::of(object.spec.mode(), base);
    let ports = object.spec.port_level_mtls.iter();
    ports.filter(|(_, mtls)| Mode::of(mtls.mode, rest) != rest).map(|(port, _)| *port).collect()
}

/// Where several objects claim the same, the oldest wins; one without a time is the youngest, then the name decides.
fn oldest<'a>(candidates: impl Iterator<Item = &'a PeerAuthentication>) -> Option<&'a PeerAuthentication> {
    candidates.min_by_key(|object| {
        (object.metadata.creation_timestamp.unwrap_or(Timestamp::MAX), object.metadata.name.clone())
    })
}

fn anonymous() -> Match {
    Match { not_principals: vec![StringMatch::Presence], ..Match::default() }
}

fn clause(only: Match) -> Clause {
    Clause { matches: vec![only] }
}

fn static_strict_name(settings: &Settings) -> PolicyName {
    PolicyName { namespace: settings.root_namespace.clone(), name: arcstr::literal!(STATIC_STRICT) }
}

fn converted_name(object: &PeerAuthentication) -> PolicyName {
    PolicyName {
        namespace: object.metadata.namespace.clone(),
        name: arcstr::format!("{CONVERTED}{}", object.metadata.name),
    }
}
