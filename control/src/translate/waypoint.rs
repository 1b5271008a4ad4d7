// SPDX-License-Identifier: Apache-2.0
//! Which waypoint stands in front of a service or workload: labels name a `Gateway`, that says where it is and for whom.
//!
//! ```text
//!   label of the object ─► of its service account ─► Gateway for that account ─► label of the namespace
//!                     the first that is there names the Gateway; `none` names none
//! ```
//! A waypoint that is named but cannot be used leaves the way straight to the workloads open, as in Istio; where it is
//! enforced the way is closed. Whoever named it is told why. What a namespace names for all is said once, on the namespace.

mod condition;
mod facts;
mod guard;
mod resolve;

use arcstr::ArcStr;
use mesh::{
    Hostname, NetworkAddress, ServiceName,
    service::WeightedWaypoint,
    workload::{ApplicationTunnel, GatewayAddress, GatewayDestination},
};

pub use self::condition::Bound;
pub(crate) use self::{
    facts::{CONTROLLER, Enforcement, Facts, Traffic, account, check_settings, facts, is_managed},
    guard::{Guard, guards},
    resolve::{Canary, CanaryFault, Unbound},
};
use super::{entry, service};
use crate::{
    objects::{Gateway, Kind, Labels, Metadata, Namespace, Object, ServiceAccount},
    report::Reports,
    world::{Name, Objects, Settings},
};

const USE: &str = "istio.io/use-waypoint";
const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const CANARY_NAMESPACE: &str = "istio.io/use-waypoint-canary-namespace";
const CANARY_WEIGHT: &str = "istio.io/use-waypoint-canary-weight";
const ENFORCEMENT: &str = "ambit.mesh/waypoint-enforcement";
const INGRESS: &str = "istio.io/ingress-use-waypoint";
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
pub(crate) const MANAGED: &str = "gateway.istio.io/managed";
pub(crate) const MANAGED_WAYPOINT: &str = "istio.io-mesh-controller";
/// Where a waypoint is that has no address: nobody finds it (RFC 2606), and whoever looks says its name.
const NOT_READY: &str = "gateway-not-ready.invalid";

/// The gateways that an object names in its own labels, whether they exist or not.
pub(crate) fn own(object: &Object) -> Vec<Name> {
    let metadata = object.metadata();
    let namespace = match object {
        Object::Namespace(_) => &metadata.name,
        Object::Pod(_)
        | Object::Service(_)
        | Object::ServiceAccount(_)
        | Object::ServiceEntry(_)
        | Object::WorkloadEntry(_) => &metadata.namespace,
        Object::Node(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadGroup(_)
        | Object::Gateway(_)
        | Object::GatewayClass(_)
        | Object::HTTPRoute(_)
        | Object::GRPCRoute(_)
        | Object::TLSRoute(_)
        | Object::TCPRoute(_)
        | Object::AuthorizationPolicy(_)
        | Object::PeerAuthentication(_)
        | Object::RequestAuthentication(_)
        | Object::ConfigMap(_)
        | Object::BackendTLSPolicy(_)
        | Object::Telemetry(_) => return Vec::new(),
    };
    named(metadata, namespace)
        .flatten()
        .into_iter()
        .chain(resolve::canary_name(metadata, namespace))
        .collect()
}

/// What labels say: nothing, that there is to be none, or a gateway.
fn named(metadata: &Metadata, namespace: &ArcStr) -> Option<Option<Name>> {
    let name = metadata.label(USE).filter(|name| !name.is_empty())?;
    if name == "none" {
        return Some(None);
    }
    let namespace = metadata.label(USE_NAMESPACE).filter(|name| !name.is_empty()).unwrap_or(namespace);
    Some(Some((namespace.clone(), name.clone())))
}

/// What of an object others depend on that are bound because of it.
pub(crate) fn wishes(metadata: &Metadata) -> [Option<&ArcStr>; 10] {
    let labels = [USE, USE_NAMESPACE, CANARY, CANARY_NAMESPACE, ENFORCEMENT, GATEWAY_NAME, MANAGED, INGRESS];
    let [one, two, three, four, five, six, seven, eight] = labels.map(|key| metadata.label(key));
    let [nine, ten] = [CANARY_WEIGHT, ENFORCEMENT].map(|key| metadata.annotation(key));
    [one, two, three, four, five, six, seven, eight, nine, ten]
}

/// Who names the waypoint of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Itself,
    Account,
    Gateway,
    Namespace,
}

/// The waypoint that an object is to have, and what becomes of that.
#[derive(Clone, Debug)]
pub(crate) struct Binding {
    pub(crate) gateway: Name,
    by: By,
    pub(crate) mode: Enforcement,
    way: Result<GatewayAddress, Unbound>,
    canary: Option<Result<Canary, CanaryFault>>,
}

impl Binding {
    /// Where traffic for the object goes: to the waypoint; without one that can be used straight to the workloads, or, where
    /// it is enforced, nowhere.
    pub(crate) fn waypoint(&self) -> Option<GatewayAddress> {
        match (&self.way, self.mode) {
            (Ok(address), Enforcement::Audit | Enforcement::Enforce) => Some(address.clone()),
            (Err(_), Enforcement::Enforce) => Some(nowhere(&self.gateway)),
            (Err(_), Enforcement::Audit) => None,
        }
    }

    /// The waypoint and its canary by weight, where there is one.
    pub(crate) fn weighted(&self) -> Vec<WeightedWaypoint> {
        let (Ok(address), Some(Ok(canary))) = (&self.way, &self.canary) else { return Vec::new() };
        let primary = WeightedWaypoint { destination: address.clone(), weight: 100 - canary.weight };
        vec![primary, WeightedWaypoint { destination: canary.address.clone(), weight: canary.weight }]
    }

    /// The gateways whose instances may send to the workloads.
    fn gateways(&self) -> impl Iterator<Item = Name> {
        let canary = self.canary.as_ref().and_then(|canary| canary.as_ref().ok());
        [self.gateway.clone()].into_iter().chain(canary.map(|canary| canary.gateway.clone()))
    }

    /// Whether the way past the waypoint is watched: also while it is not ready, but not when there is none, unless that is
    /// enforced.
    fn is_guarded(&self) -> bool {
        matches!(self.way, Ok(_) | Err(Unbound::NotReady)) || self.mode == Enforcement::Enforce
    }

    /// What becomes of traffic because of what is wrong.
    fn until_then(&self) -> &'static str {
        match self.mode {
            Enforcement::Audit => "until then traffic goes straight to the workloads",
            Enforcement::Enforce => "until then traffic is refused, as the waypoint is enforced",
        }
    }
}

/// An address that stands for a waypoint that has none.
fn nowhere(gateway: &Name) -> GatewayAddress {
    let (namespace, name) = gateway;
    let destination = match Hostname::parse(&format!("{name}.{namespace}.{NOT_READY}")) {
        Ok(hostname) => GatewayDestination::Hostname(ServiceName { namespace: namespace.clone(), hostname }),
        // No gateway can be called so.
        Err(_) => GatewayDestination::Address(NetworkAddress::new(
            mesh::Network::default(),
            std::net::Ipv4Addr::UNSPECIFIED.into(),
        )),
    };
    GatewayAddress { destination, hbone_port: facts::HBONE_PORT }
}

/// Binds an object to the waypoint that it or its namespace names.
pub(crate) struct Binder<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) settings: &'a Settings,
}

impl<'a> Binder<'a> {
    /// The waypoint that an object is to have; `account` is that of a workload. A waypoint has none in front of itself.
    pub(crate) fn binding(
        &self,
        metadata: &'a Metadata,
        traffic: Traffic,
        account: Option<&str>,
    ) -> Option<Binding> {
        if self.is_instance(metadata) {
            return None;
        }
        let (gateway, by, asking) = self.asked(metadata, account)?;
        let way = self.resolve(&gateway, &metadata.namespace, Some(traffic));
        // A namespace names one for all that it covers.
        if by == By::Namespace && matches!(way, Err(Unbound::Other(_))) {
            return None;
        }
        let asking_mode = || Enforcement::of(asking).filter(|_| by != By::Gateway);
        let mode = Enforcement::of(metadata).or_else(asking_mode);
        let mode = mode.or_else(|| self.enforced_by(&gateway, &way)).unwrap_or_default();
        let canary = (traffic == Traffic::Service)
            .then(|| {
                let home = if by == By::Namespace { &asking.name } else { &asking.namespace };
                self.canary(asking, home, &metadata.namespace, &gateway)
            })
            .flatten();
        Some(Binding { gateway, by, mode, way, canary })
    }

    /// A gateway decides for those only whom it serves.
    fn enforced_by(&self, gateway: &Name, way: &Result<GatewayAddress, Unbound>) -> Option<Enforcement> {
        match way {
            Ok(_) | Err(Unbound::NotReady) => self.facts(gateway)?.enforcement,
            Err(Unbound::Absent | Unbound::Forbidden | Unbound::Other(_)) => None,
        }
    }

    /// The gateway that is named, by whom, and where it says so.
    fn asked(&self, metadata: &'a Metadata, account: Option<&str>) -> Option<(Name, By, &'a Metadata)> {
        let namespace = &metadata.namespace;
        if let Some(own) = named(metadata, namespace) {
            return own.map(|gateway| (gateway, By::Itself, metadata));
        }
        if let Some(account) = account {
            let name = (namespace.clone(), account.into());
            let labels = self.objects.service_account(&name).map(|object| &object.metadata);
            if let Some((labels, own)) = labels.and_then(|labels| Some((labels, named(labels, namespace)?))) {
                return own.map(|gateway| (gateway, By::Account, labels));
            }
            if let Some(gateway) = self.objects.gateway_for(&name) {
                let own = (namespace.clone(), gateway.metadata.name.clone());
                return Some((own, By::Gateway, &gateway.metadata));
            }
        }
        let labels = &self.objects.namespace(namespace)?.metadata;
        named(labels, namespace)?.map(|gateway| (gateway, By::Namespace, labels))
    }

    /// The binding of a mesh service, by the object that has the name.
    fn of_service(&self, name: &ServiceName) -> Option<Binding> {
        let service = service::of_host(self.objects, self.settings, &name.hostname)
            .filter(|service| service.metadata.namespace == name.namespace)
            .map(|service| &service.metadata);
        let entry = || entry::of_name(self.objects, name).map(|entry| &entry.metadata);
        self.binding(service.or_else(entry)?, Traffic::Service, None)
    }

    /// What an object is told of the waypoint that it names itself.
    pub(crate) fn report(
        &self,
        metadata: &Metadata,
        binding: Option<&Binding>,
        traffic: Traffic,
        reports: &mut Reports,
    ) {
        check_wishes(metadata, reports);
        if traffic == Traffic::Workload && metadata.label(CANARY).is_some() {
            reports.warning(
                label(CANARY),
                "has no effect on a workload: put it on the service, or on the namespace",
            );
        }
        let Some(binding) = binding.filter(|binding| binding.by == By::Itself) else { return };
        if let Err(unbound) = &binding.way {
            let message = unbound.message(&binding.gateway, &metadata.namespace);
            reports.warning(label(USE), format!("{message}; {}", binding.until_then()));
        }
        if let Some(Err(fault)) = &binding.canary {
            let (field, message) = fault.said(&metadata.namespace);
            reports.warning(field, message);
        }
    }

    /// What a namespace is told of the waypoint that it names.
    pub(crate) fn namespace(&self, namespace: &Namespace, reports: &mut Reports) {
        let metadata = &namespace.metadata;
        check_wishes(metadata, reports);
        let Some(Some(gateway)) = named(metadata, &metadata.name) else { return };
        let way = self.resolve(&gateway, &metadata.name, None);
        let canary = self.canary(metadata, &metadata.name, &metadata.name, &gateway);
        self.say(metadata, (&metadata.name, gateway), way, reports);
        if let Some(Err(fault)) = canary {
            let (field, message) = fault.said(&metadata.name);
            reports.warning(field, message);
        }
    }

    /// What a service account is told of the waypoint that it names for its workloads.
    pub(crate) fn account(&self, account: &ServiceAccount, reports: &mut Reports) {
        let metadata = &account.metadata;
        check_wishes(metadata, reports);
        let Some(Some(gateway)) = named(metadata, &metadata.namespace) else { return };
        let way = self.resolve(&gateway, &metadata.namespace, Some(Traffic::Workload));
        self.say(metadata, (&metadata.namespace, gateway), way, reports);
    }

    fn say(
        &self,
        metadata: &Metadata,
        (namespace, gateway): (&str, Name),
        way: Result<GatewayAddress, Unbound>,
        reports: &mut Reports,
    ) {
        let mode = Enforcement::of(metadata).or_else(|| self.enforced_by(&gateway, &way)).unwrap_or_default();
        let binding = Binding { gateway, by: By::Itself, mode, way, canary: None };
        if let Err(unbound) = &binding.way {
            let message = unbound.message(&binding.gateway, namespace);
            reports.warning(label(USE), format!("{message}; {}", binding.until_then()));
        }
    }

    /// What a gateway is told of itself.
    pub(crate) fn gateway(&self, gateway: &Gateway, reports: &mut Reports) {
        check_settings(&gateway.metadata, reports);
        let metadata = &gateway.metadata;
        let Some(account) = account(gateway) else { return };
        let Some(facts) = self.facts(&(metadata.namespace.clone(), metadata.name.clone())) else { return };
        let winner = self.objects.gateway_for(&(metadata.namespace.clone(), account.clone()));
        facts::check_account(&facts, gateway, winner.map_or(metadata, |winner| &winner.metadata), reports);
    }

    /// Whether ingress gateways go through the waypoint that the object has.
    pub(crate) fn ingress(&self, metadata: &Metadata, is_bound: bool, reports: &mut Reports) -> bool {
        let own = metadata.label(INGRESS);
        let wanted = self.wants_ingress(metadata);
        if wanted && !is_bound && own.is_some() {
            reports.warning(label(INGRESS), "has no effect: no waypoint is bound");
        }
        wanted && is_bound
    }

    fn wants_ingress(&self, metadata: &Metadata) -> bool {
        let inherited = || self.objects.namespace(&metadata.namespace)?.metadata.label(INGRESS);
        metadata.label(INGRESS).or_else(inherited).is_some_and(|value| value == "true")
    }

    /// How the node proxy hands connections to a pod that is an instance of a waypoint.
    pub(crate) fn application_tunnel(&self, pod: &Metadata) -> Option<ApplicationTunnel> {
        self.instance_of(pod)?.binding
    }

    /// Whether an object is a part of a waypoint.
    fn is_instance(&self, metadata: &Metadata) -> bool {
        metadata.label(MANAGED).is_some_and(|by| by == MANAGED_WAYPOINT)
            || self.instance_of(metadata).is_some_and(|facts| facts.is_waypoint)
    }

    fn instance_of(&self, metadata: &Metadata) -> Option<Facts> {
        let name = metadata.label(GATEWAY_NAME)?;
        self.facts(&(metadata.namespace.clone(), name.clone()))
    }

    fn facts(&self, name: &Name) -> Option<Facts> {
        let gateway = self.objects.gateway(name)?;
        Some(facts(self.settings, gateway, self.objects.gateway_class(&gateway.spec.gateway_class_name)))
    }
}

/// The gateway of which labels say that an object is a part.
pub(crate) fn part_of(labels: &Labels) -> Option<&ArcStr> {
    labels.get(GATEWAY_NAME)
}

/// Whether labels say that an object is a part of a gateway of its namespace.
pub(crate) fn is_part_of(labels: &Labels, gateway: &str) -> bool {
    part_of(labels).is_some_and(|name| name == gateway)
}

/// Whether an object names a waypoint itself.
pub(crate) fn names_any(metadata: &Metadata) -> bool {
    metadata.label(USE).is_some()
}

/// What is wrong with wishes by themselves.
fn check_wishes(metadata: &Metadata, reports: &mut Reports) {
    for (key, what) in [(USE_NAMESPACE, "waypoint"), (CANARY, "primary")] {
        if metadata.label(key).is_some() && metadata.label(USE).is_none() {
            reports.warning(label(key), format!("names no {what} by itself: add {USE}"));
        }
    }
    facts::check_enforcement(metadata, reports);
}

/// The kinds that have a condition about their waypoint.
pub(crate) fn has_condition(kind: Kind) -> bool {
    matches!(kind, Kind::Service | Kind::ServiceEntry | Kind::WorkloadEntry)
}

/// The field of a label.
fn label(key: &str) -> String {
    format!("metadata.labels[{key:?}]")
}

/// The field of an annotation.
fn annotation(key: &str) -> String {
    format!("metadata.annotations[{key:?}]")
}
