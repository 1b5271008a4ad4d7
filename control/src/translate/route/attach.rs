// SPDX-License-Identifier: Apache-2.0
//! The parents of a route: which services they are, and what its owner is told of each.

use arcstr::ArcStr;
use mesh::{
    Hostname, Route, RouteName, ServiceName,
    l7::{
        RouteKind,
        route::{Parent, Rules},
    },
};

use super::{NETWORKING, Reader, Routed};
use crate::{
    objects::{Kind, Metadata, ObjectKey, ParentRef},
    report::{Severity, line},
    translate::{Translation, service, waypoint::Binder},
    world::Name,
};

/// What became of one parent, or of one target of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attachment {
    /// As the route names it.
    pub(crate) parent: ParentRef,
    /// `Accepted`.
    pub(crate) accepted: Outcome,
    /// `ResolvedRefs`.
    pub(crate) resolved: Outcome,
    /// `PartiallyInvalid`, where rules are left out.
    pub(crate) partial: Option<Outcome>,
    /// `ResolvedWaypoints`: whether there is a waypoint that the route works in.
    pub(crate) waypoint: Outcome,
}

/// A condition: whether it holds, why, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its status.
    pub(crate) holds: bool,
    /// Its reason, of Gateway API where it has one.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

impl Outcome {
    pub(crate) fn good(reason: &'static str, message: &str) -> Self {
        Self { holds: true, reason, message: message.to_owned() }
    }

    pub(crate) fn bad(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// The service or service entry that routes of a namespace are attached to by a reference.
pub(super) fn parent_of(parent: &ParentRef, namespace: &ArcStr) -> Option<(Kind, Name)> {
    let kind = match (parent.group.as_deref(), parent.kind.as_deref()) {
        (Some("" | "core"), Some("Service")) => Kind::Service,
        (Some(NETWORKING), Some("ServiceEntry")) => Kind::ServiceEntry,
        _ => return None,
    };
    let namespace = parent.namespace.as_ref().unwrap_or(namespace);
    Some((kind, (namespace.clone(), parent.name.clone())))
}

impl Reader<'_> {
    /// The route with its parents.
    pub(super) fn done(self, kind: RouteKind, rules: Rules, references: &[ParentRef]) -> Translation<Routed> {
        let empty = match &rules {
            Rules::Http(rules) => rules.is_empty(),
            Rules::Tls(rules) => rules.is_empty(),
            Rules::Tcp(rules) => rules.is_empty(),
        };
        let (mut parents, mut attachments) = (Vec::new(), Vec::new());
        for reference in references {
            let Some((of, name)) = parent_of(reference, &self.metadata.namespace) else { continue };
            let found = self.parents(of, &name, reference.port);
            let accepted = self.accepted(found.as_ref().err(), empty);
            attachments.push(self.attachment(reference, (of, &name), accepted, empty));
            let consumers = (name.0 != self.metadata.namespace).then(|| self.metadata.namespace.clone());
            let parent = |service| Parent { service, port: reference.port, consumers: consumers.clone() };
            parents.extend(found.into_iter().flatten().map(parent));
        }
        let created =
            self.metadata.creation_timestamp.map_or(u64::MAX, |at| at.as_second().try_into().unwrap_or(0));
        let Metadata { namespace, name, .. } = self.metadata;
        let name = RouteName { kind, namespace: namespace.clone(), name: name.clone() };
        let route = (!empty && !parents.is_empty()).then_some(Route { name, created, parents, rules });
        Translation { output: Some(Routed { route, attachments }), reports: self.reports.done() }
    }

    /// The services behind a parent, or why there are none.
    fn parents(&self, kind: Kind, name: &Name, port: Option<u16>) -> Result<Vec<ServiceName>, Outcome> {
        let absent = |message: String| Err(Outcome::bad("NoMatchingParent", message));
        let shown = format!("{kind} {}/{}", name.0, name.1);
        let (services, ports): (Vec<ServiceName>, Vec<u16>) = if kind == Kind::Service {
            let Some(found) = self.objects.service(name) else {
                return absent(format!("{shown} does not exist"));
            };
            let ports = found.spec.ports.iter().map(|port| port.port).collect();
            (service::name(self.settings, found).into_iter().collect(), ports)
        } else {
            let Some(found) = self.objects.entry(name) else {
                return absent(format!("{shown} does not exist"));
            };
            let host = |host: &ArcStr| Hostname::parse(host).ok();
            let service = |hostname| ServiceName { namespace: name.0.clone(), hostname };
            let services = found.spec.hosts.iter().filter_map(host).map(service).collect();
            (services, found.spec.ports.iter().map(|port| port.number).collect())
        };
        match port {
            Some(port) if !ports.contains(&port) => absent(format!("{shown} has no port {port}")),
            _ => Ok(services),
        }
    }

    fn accepted(&self, absent: Option<&Outcome>, empty: bool) -> Outcome {
        match absent {
            Some(absent) => absent.clone(),
            None if empty => Outcome::bad("UnsupportedValue", self.faults()),
            None => Outcome::good("Accepted", "the route is in force"),
        }
    }

    fn faults(&self) -> String {
        let faults = self.reports.so_far().iter().filter(|report| report.severity == Severity::Error);
        let faults: Vec<_> = faults.map(|report| line(&report.field, &report.message)).collect();
        faults.join("; ")
    }

    fn attachment(
        &self,
        reference: &ParentRef,
        (kind, name): (Kind, &Name),
        accepted: Outcome,
        empty: bool,
    ) -> Attachment {
        let partial = (!empty && !self.left_out.is_empty()).then(|| Outcome {
            holds: true,
            reason: "UnsupportedValue",
            message: format!("Dropped Rule {}: {}", self.left_out.join(", "), self.faults()),
        });
        let resolved = self.unresolved.clone();
        let resolved = resolved.unwrap_or_else(|| Outcome::good("ResolvedRefs", "every backend exists"));
        let key = ObjectKey { kind, namespace: name.0.clone(), name: name.1.clone() };
        let waypoint = enforced(&Binder { objects: self.objects, settings: self.settings }, &key, "route");
        Attachment { parent: reference.clone(), accepted, resolved, partial, waypoint }
    }
}

/// `ResolvedWaypoints`: whether what is attached to a service, of either kind, works in its waypoint.
pub(crate) fn enforced(binder: &Binder<'_>, service: &ObjectKey, what: &str) -> Outcome {
    match binder.bound(service) {
        Some(bound) if bound.is_bound => {
            let message = format!("the waypoint of the parent enforces the {what}");
            Outcome::good("ResolvedWaypoints", &message)
        }
        Some(bound) => Outcome::bad(bound.reason, bound.message),
        None => {
            let message = format!(
                "{service} has no waypoint, so nothing enforces the {what}: label it istio.io/use-waypoint"
            );
            Outcome::bad("NoWaypoint", message)
        }
    }
}
