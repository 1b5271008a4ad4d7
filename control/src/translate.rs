// SPDX-License-Identifier: Apache-2.0
//! From objects to what proxies are told: pure functions, one file per output.
//!
//! ```text
//!   Pod ──────────────► workload ◄┐
//!   WorkloadEntry ────► workload ◄┼─ Node (locality), who selects them (member), policies by label
//!   ServiceEntry ─────► workload ◄┘
//!         └───────────► service  ◄── Namespace (traffic distribution), Gateway (waypoint)
//!   Service ──────────► service  ◄┘
//!   EndpointSlice ────► workload     (endpoints that are no pods; pods by reference: member)
//!   AuthorizationPolicy ► policy   (for node proxies; with a target ► guard, for waypoints)
//!   RequestAuthentication ► guard
//!   PeerAuthentication ─► peer     (synthesized policies; a proxy never sees the object)
//!   HTTPRoute, GRPCRoute, TLSRoute, TCPRoute ─► route   (for waypoints)
//!   Telemetry ──────────► telemetry (for waypoints)
//!   BackendTLSPolicy, ConfigMap (certificates) ─► tls, in the traffic of a Service or ServiceEntry (for waypoints)
//!   Gateway ────────────► waypoint (who is bound to it; synthesized policies that guard workloads behind it)
//! ```
//! Nothing is ignored in silence: what cannot be honoured comes back as a report beside the output.

mod check;
pub(crate) mod entry;
pub(crate) mod guard;
pub(crate) mod member;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod route;
mod rule;
pub(crate) mod service;
pub(crate) mod slice;
pub(crate) mod telemetry;
pub(crate) mod tls;
pub(crate) mod traffic;
pub(crate) mod waypoint;
pub(crate) mod workload;
pub(crate) mod workload_entry;

pub(crate) use self::check::check;
use self::waypoint::Binder;
use crate::{
    objects::{Gateway, GatewayClass, Kind, Namespace, ServiceAccount},
    report::{Report, Reports},
    world::{Objects, Settings},
};

/// What became of an object.
#[derive(Clone, Debug)]
pub(crate) struct Translation<T> {
    /// What proxies are told; `None`: nothing.
    pub(crate) output: Option<T>,
    /// What the owner of the object is told.
    pub(crate) reports: Vec<Report>,
}

/// What there is to say about a namespace; proxies are not told of it.
pub(crate) fn namespace(objects: &Objects, settings: &Settings, object: &Namespace) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::Namespace));
    Binder { objects, settings }.namespace(object, &mut reports);
    Translation { output: None, reports: reports.done() }
}

/// What there is to say about a service account.
pub(crate) fn service_account(
    objects: &Objects,
    settings: &Settings,
    object: &ServiceAccount,
) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::ServiceAccount));
    Binder { objects, settings }.account(object, &mut reports);
    Translation { output: None, reports: reports.done() }
}

/// What there is to say about a gateway.
pub(crate) fn gateway(objects: &Objects, settings: &Settings, object: &Gateway) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::Gateway));
    Binder { objects, settings }.gateway(object, &mut reports);
    Translation { output: None, reports: reports.done() }
}

/// What there is to say about a class of gateways.
pub(crate) fn gateway_class(object: &GatewayClass) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::GatewayClass));
    waypoint::check_settings(&object.metadata, &mut reports);
    Translation { output: None, reports: reports.done() }
}
