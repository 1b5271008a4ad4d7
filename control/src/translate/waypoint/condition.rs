// SPDX-License-Identifier: Apache-2.0
//! What an object that is to have a waypoint is told in its status: Istio's condition `istio.io/WaypointBound`.

use super::{Binder, Binding, Enforcement, Traffic};
use crate::{
    objects::{Kind, Metadata, ObjectKey},
    translate::{entry, service},
};

/// The condition, without its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Whether the waypoint, and its canary if there is one, is in force.
    pub is_bound: bool,
    /// Istio's word for it.
    pub reason: &'static str,
    /// In words.
    pub message: String,
}

impl Binder<'_> {
    /// What is said of the waypoint of an object; nothing where it is to have none.
    pub(crate) fn bound(&self, key: &ObjectKey) -> Option<Bound> {
        let name = (key.namespace.clone(), key.name.clone());
        let (metadata, binding) = match key.kind {
            Kind::Service => {
                let object =
                    self.objects.service(&name).filter(|object| !service::is_external_name(object))?;
                (&object.metadata, self.binding(&object.metadata, Traffic::Service, None))
            }
            Kind::ServiceEntry => {
                let metadata = &self.objects.entry(&name)?.metadata;
                (metadata, self.binding(metadata, Traffic::Service, None))
            }
            Kind::WorkloadEntry => {
                let object = self.objects.workload_entry(&name)?;
                let account = entry::service_account(&object.spec);
                (&object.metadata, self.binding(&object.metadata, Traffic::Workload, Some(&account)))
            }
            Kind::Namespace
            | Kind::Node
            | Kind::ServiceAccount
            | Kind::Pod
            | Kind::EndpointSlice
            | Kind::WorkloadGroup
            | Kind::Gateway
            | Kind::GatewayClass
            | Kind::HTTPRoute
            | Kind::GRPCRoute
            | Kind::TLSRoute
            | Kind::TCPRoute
            | Kind::ConfigMap
            | Kind::BackendTLSPolicy
            | Kind::AuthorizationPolicy
            | Kind::PeerAuthentication
            | Kind::RequestAuthentication
            | Kind::Telemetry => return None,
        };
        let is_service = key.kind != Kind::WorkloadEntry;
        Some(binding?.said(metadata, is_service && self.wants_ingress(metadata)))
    }
}

impl Binder<'_> {
    /// The gateway that a service, of either kind, is bound to.
    pub(crate) fn gateway_of(&self, key: &ObjectKey) -> Option<crate::world::Name> {
        let name = (key.namespace.clone(), key.name.clone());
        let metadata = match key.kind {
            Kind::Service => &self.objects.service(&name)?.metadata,
            _ => &self.objects.entry(&name)?.metadata,
        };
        Some(self.binding(metadata, Traffic::Service, None)?.gateway)
    }
}

impl Binding {
    fn said(&self, metadata: &Metadata, ingress: bool) -> Bound {
        let namespace = metadata.namespace.as_str();
        let (home, name) = &self.gateway;
        match (&self.way, &self.canary) {
            (Err(unbound), _) => Bound {
                is_bound: false,
                reason: unbound.reason(),
                message: format!("{}; {}", unbound.message(&self.gateway, namespace), self.until_then()),
            },
            (Ok(_), Some(Err(fault))) => {
                let (field, message) = fault.said(namespace);
                Bound {
                    is_bound: false,
                    reason: fault.reason(),
                    message: format!("attached to waypoint {home}/{name}, but {field}: {message}"),
                }
            }
            (Ok(_), canary) => {
                let mut message = format!("Successfully attached to waypoint {home}/{name}");
                if ingress {
                    message.push_str(". Ingress traffic will traverse the waypoint");
                }
                if let Some(Ok(canary)) = canary {
                    let (home, name) = &canary.gateway;
                    message.push_str(&format!(
                        ". Canary {home}/{name} gets {} of 100 connections",
                        canary.weight
                    ));
                }
                if self.mode == Enforcement::Enforce {
                    message.push_str(". Enforced: what does not come through it is refused");
                }
                Bound { is_bound: true, reason: "WaypointAccepted", message }
            }
        }
    }
}
