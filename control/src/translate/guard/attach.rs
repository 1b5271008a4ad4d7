// SPDX-License-Identifier: Apache-2.0
//! What a policy is attached to: services, whatever waypoint they have, or waypoints, whatever goes through them.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use mesh::{Hostname, ServiceName, l7::guard::Attachment};

use super::References;
use crate::{
    objects::{Kind, Metadata, Object, ObjectKey, TargetReference},
    report::Reports,
    translate::{
        service, tls,
        waypoint::{self, Binder, CONTROLLER},
    },
    world::{Name, Objects, Settings},
};

const NETWORKING: &str = "networking.istio.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
/// The controller of Istio's classes of waypoints.
const MESH_CONTROLLER: &str = "istio.io/mesh-controller";

/// Finds targets for an object.
pub(super) struct Targets<'a> {
    pub(super) objects: &'a Objects,
    pub(super) settings: &'a Settings,
    pub(super) metadata: &'a Metadata,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Attached {
    pub(super) to: Vec<Attachment>,
    /// The waypoints in which it is in force.
    pub(super) waypoints: BTreeSet<Name>,
    /// Istio's word for what is wrong with the first target that is not in force.
    pub(super) fault: Option<&'static str>,
}

/// Why a target is not in force: Istio's word for it, and in words.
type Fault = (&'static str, String);

impl Targets<'_> {
    pub(super) fn attach(&self, references: References<'_>, reports: &mut Reports) -> Attached {
        let mut attached = Attached::default();
        for (field, reference) in references {
            if let Err((reason, message)) = self.target(reference, &mut attached) {
                if reason == "Invalid" {
                    reports.error(field, message);
                } else {
                    reports.warning(field, message);
                }
                attached.fault = attached.fault.or(Some(reason));
            }
        }
        attached
    }

    fn target(&self, reference: &TargetReference, attached: &mut Attached) -> Result<(), Fault> {
        let namespace = &self.metadata.namespace;
        if reference.namespace.as_ref().is_some_and(|named| named != namespace) {
            return Err(("Invalid", format!("must be of the policy's own namespace {namespace}")));
        }
        let Some(key) = target_of(reference, namespace) else {
            let message = format!(
                "{:?} of {:?} is no kind of target: use Service, ServiceEntry ({NETWORKING}), Gateway or GatewayClass ({GATEWAY})",
                reference.kind, reference.group
            );
            return Err(("Invalid", message));
        };
        match key.kind {
            Kind::Service => self.service(&key, attached),
            Kind::ServiceEntry => self.entry(&key, attached),
            Kind::Gateway => self.gateway(&(key.namespace, key.name), attached),
            _ => self.class(&key.name, attached),
        }
    }

    fn service(&self, key: &ObjectKey, attached: &mut Attached) -> Result<(), Fault> {
        let found = self.objects.service(&(key.namespace.clone(), key.name.clone()));
        let found = found.ok_or_else(|| absent(key))?;
        attached.to.extend(service::name(self.settings, found).map(Attachment::Service));
        self.bound(key, attached)
    }

    fn entry(&self, key: &ObjectKey, attached: &mut Attached) -> Result<(), Fault> {
        let found = self.objects.entry(&(key.namespace.clone(), key.name.clone()));
        let found = found.ok_or_else(|| absent(key))?;
        let hosts = found.spec.hosts.iter().filter_map(|host| Hostname::parse(host).ok());
        let service = |hostname| ServiceName { namespace: key.namespace.clone(), hostname };
        attached.to.extend(hosts.map(|host| Attachment::Service(service(host))));
        self.bound(key, attached)
    }

    /// Without a waypoint nobody looks at requests.
    fn bound(&self, key: &ObjectKey, attached: &mut Attached) -> Result<(), Fault> {
        let binder = Binder { objects: self.objects, settings: self.settings };
        match binder.bound(key) {
            Some(bound) if bound.is_bound => {
                attached.waypoints.extend(binder.gateway_of(key));
                Ok(())
            }
            Some(bound) => Err(("AncestorNotBound", bound.message)),
            None => {
                let message = format!(
                    "{key} has no waypoint, so nothing enforces this: label it istio.io/use-waypoint"
                );
                Err(("AncestorNotBound", message))
            }
        }
    }

    fn gateway(&self, name: &Name, attached: &mut Attached) -> Result<(), Fault> {
        let (namespace, gateway) = name;
        let key = ObjectKey { kind: Kind::Gateway, namespace: namespace.clone(), name: gateway.clone() };
        let found = self.objects.gateway(name).ok_or_else(|| absent(&key))?;
        let class = self.objects.gateway_class(&found.spec.gateway_class_name);
        let facts = waypoint::facts(self.settings, found, class);
        if !facts.is_waypoint() {
            return Err(("AncestorNotBound", format!("{key} is no waypoint")));
        }
        let address = facts.address();
        let address = address
            .ok_or_else(|| ("AncestorNotBound", format!("{key} has no address yet (status.addresses)")))?;
        attached.to.push(Attachment::Waypoint(address.destination.clone()));
        attached.waypoints.insert(name.clone());
        Ok(())
    }

    /// All waypoints of a class, for whoever owns the root namespace.
    fn class(&self, class: &ArcStr, attached: &mut Attached) -> Result<(), Fault> {
        let root = &self.settings.root_namespace;
        if self.metadata.namespace != *root {
            return Err(("Invalid", format!("a GatewayClass is only for policies of namespace {root}")));
        }
        let found = self.objects.gateway_class(class);
        let found =
            found.ok_or_else(|| ("TargetNotFound", format!("GatewayClass {class} does not exist")))?;
        let controller = found.spec.controller_name.as_str();
        if controller != CONTROLLER && controller != MESH_CONTROLLER {
            return Err(("Invalid", format!("GatewayClass {class} is not one of waypoints")));
        }
        let gateways = self.objects.gateways();
        let gateways = gateways.filter(|(_, gateway)| gateway.spec.gateway_class_name == *class);
        for (name, _) in gateways {
            // Those that are not ready yet will be.
            self.gateway(name, attached).unwrap_or_default();
        }
        if attached.to.is_empty() {
            return Err(("AncestorNotBound", format!("no waypoint of class {class} is ready")));
        }
        Ok(())
    }
}

fn absent(key: &ObjectKey) -> Fault {
    ("TargetNotFound", format!("{key} does not exist"))
}

/// The object that a policy of a namespace is attached to by a reference.
fn target_of(reference: &TargetReference, namespace: &ArcStr) -> Option<ObjectKey> {
    let kind = match (reference.group.as_str(), reference.kind.as_str()) {
        ("" | "core", "Service") => Kind::Service,
        (NETWORKING, "ServiceEntry") => Kind::ServiceEntry,
        (GATEWAY, "Gateway") => Kind::Gateway,
        (GATEWAY, "GatewayClass") => Kind::GatewayClass,
        _ => return None,
    };
    let namespace = if kind == Kind::GatewayClass { ArcStr::new() } else { namespace.clone() };
    Some(ObjectKey { kind, namespace, name: reference.name.clone() })
}

/// What an object is attached to, or takes something from; nothing where it is no policy.
pub(crate) fn targets_of(object: &Object) -> Vec<ObjectKey> {
    let references = match object {
        Object::AuthorizationPolicy(object) => super::references(&object.spec),
        Object::RequestAuthentication(object) => super::token_references(&object.spec),
        Object::BackendTLSPolicy(object) => return tls::referred(object),
        _ => return Vec::new(),
    };
    let namespace = &object.metadata().namespace;
    references.into_iter().filter_map(|(_, reference)| target_of(reference, namespace)).collect()
}
