// SPDX-License-Identifier: Apache-2.0
//! Which waypoint stands in front of a service or workload: labels name a `Gateway`, that says where it is and for whom.
//!
//! A waypoint that is named but cannot be used leaves the way straight to the workloads open, as in Istio; whoever named it
//! is told why. What a namespace names for all is said once, on the namespace.

use arcstr::ArcStr;
use mesh::{
    Hostname, NetworkAddress, ServiceName,
    workload::{ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination},
};

use crate::{
    objects::{Gateway, GatewayClass, Labels, Listener, Metadata, Namespace, Object},
    report::Reports,
    world::{Name, Objects, Settings},
};

const USE: &str = "istio.io/use-waypoint";
const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
const CANARY: &str = "istio.io/use-waypoint-canary";
const INGRESS: &str = "istio.io/ingress-use-waypoint";
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
const MANAGED: &str = "gateway.istio.io/managed";
const MANAGED_WAYPOINT: &str = "istio.io-mesh-controller";
const HBONE_PORT: u16 = 15008;

/// What the traffic is addressed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// A service.
    Service,
    /// A workload.
    Workload,
}

/// For which traffic a waypoint is (`istio.io/waypoint-for`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Covers {
    #[default]
    Service,
    Workload,
    All,
    Nothing,
}

impl Covers {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "service" => Self::Service,
            "workload" => Self::Workload,
            "all" => Self::All,
            "none" => Self::Nothing,
            _ => return None,
        })
    }

    fn includes(self, traffic: Traffic) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Service => traffic == Traffic::Service,
            Self::Workload => traffic == Traffic::Workload,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::Nothing => "none",
        }
    }
}

/// What others need to know of a gateway: as long as it stays the same, nothing of theirs changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) covers: Covers,
    address: Option<GatewayAddress>,
    listener: Option<Listener>,
    binding: Option<ApplicationTunnel>,
    is_waypoint: bool,
}

/// What there is to know of a gateway.
pub(crate) fn facts(settings: &Settings, gateway: &Gateway, class: Option<&GatewayClass>) -> Facts {
    let listener = gateway.spec.listeners.iter().find(|listener| listener.protocol == "HBONE").cloned();
    let binding = setting(gateway, class, |metadata| metadata.annotation(BINDING));
    let label = setting(gateway, class, |metadata| metadata.label(WAYPOINT_FOR));
    let port = listener.as_ref().map_or(HBONE_PORT, |listener| listener.port);
    Facts {
        covers: label.and_then(|text| Covers::parse(text)).unwrap_or_default(),
        address: address(settings, gateway, port),
        is_waypoint: listener.is_some() || binding.is_some() || label.is_some(),
        binding: binding.and_then(|text| tunnel(text)),
        listener,
    }
}

/// Of the gateway, else of its class.
fn setting<'a>(
    gateway: &'a Gateway,
    class: Option<&'a GatewayClass>,
    read: impl Fn(&'a Metadata) -> Option<&'a ArcStr>,
) -> Option<&'a ArcStr> {
    read(&gateway.metadata).or_else(|| read(&class?.metadata))
}

/// A name is found whatever its addresses become, so it goes before an address.
fn address(settings: &Settings, gateway: &Gateway, hbone_port: u16) -> Option<GatewayAddress> {
    let listed = &gateway.status.addresses;
    let is_name = |kind: &Option<ArcStr>| kind.as_ref().is_some_and(|kind| kind == "Hostname");
    let name = listed.iter().filter(|entry| is_name(&entry.kind)).find_map(|entry| {
        let hostname = Hostname::parse(&entry.value).ok()?;
        let namespace = gateway.metadata.namespace.clone();
        Some(GatewayDestination::Hostname(ServiceName { namespace, hostname }))
    });
    let destination = name.or_else(|| {
        let ip =
            listed.iter().filter(|entry| !is_name(&entry.kind)).find_map(|entry| entry.value.parse().ok());
        Some(GatewayDestination::Address(NetworkAddress::new(settings.network.clone(), ip?)))
    });
    Some(GatewayAddress { destination: destination?, hbone_port })
}

/// `PROXY/15088`: how the node proxy hands connections to this waypoint.
fn tunnel(text: &str) -> Option<ApplicationTunnel> {
    let (protocol, port) = match text.split_once('/') {
        Some((protocol, port)) => (protocol, Some(port.parse::<u16>().ok().filter(|port| *port != 0)?)),
        None => (text, None),
    };
    let protocol = match protocol {
        "PROXY" => ApplicationTunnelProtocol::Proxy,
        "NONE" => ApplicationTunnelProtocol::None,
        _ => return None,
    };
    Some(ApplicationTunnel { protocol, port })
}

/// The gateway that an object itself names, whether it exists or not.
pub(crate) fn own(object: &Object) -> Option<Name> {
    match object {
        Object::Namespace(object) => namespace_names(object),
        Object::Pod(_) | Object::Service(_) | Object::ServiceEntry(_) | Object::WorkloadEntry(_) => {
            named(object.metadata(), &object.metadata().namespace)?
        }
        Object::Node(_)
        | Object::ServiceAccount(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadGroup(_)
        | Object::Gateway(_)
        | Object::GatewayClass(_)
        | Object::HTTPRoute(_)
        | Object::GRPCRoute(_)
        | Object::TLSRoute(_)
        | Object::TCPRoute(_)
        | Object::AuthorizationPolicy(_)
        | Object::PeerAuthentication(_) => None,
    }
}

/// The gateway that a namespace names for what is in it.
pub(crate) fn namespace_names(namespace: &Namespace) -> Option<Name> {
    named(&namespace.metadata, &namespace.metadata.name)?
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

/// Why a gateway cannot be used.
enum Unbound {
    Absent,
    NotReady,
    Forbidden,
    Other(Covers),
}

impl Unbound {
    fn message(&self, gateway: &Name, namespace: &str) -> String {
        let (home, name) = gateway;
        let reason = match self {
            Self::Absent => format!("Gateway {home}/{name} does not exist"),
            Self::NotReady => format!("Gateway {home}/{name} has no address yet (status.addresses)"),
            Self::Forbidden => format!(
                "Gateway {home}/{name} does not admit namespace {namespace}: allow it in allowedRoutes.namespaces of its HBONE listener"
            ),
            Self::Other(covers) => {
                format!(
                    "Gateway {home}/{name} is for other traffic: its {WAYPOINT_FOR} is {}",
                    covers.as_str()
                )
            }
        };
        format!("{reason}; until then traffic goes straight to the workloads")
    }
}

/// Binds an object to the waypoint that it or its namespace names.
pub(crate) struct Binder<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) settings: &'a Settings,
}

impl Binder<'_> {
    /// The waypoint for traffic to an object; its own label may give reports.
    pub(crate) fn bind(
        &self,
        metadata: &Metadata,
        traffic: Traffic,
        reports: &mut Reports,
    ) -> Option<GatewayAddress> {
        if metadata.label(CANARY).is_some() {
            reports.warning(
                label(CANARY),
                "is not honoured: all traffic goes to the waypoint of istio.io/use-waypoint",
            );
        }
        if metadata.label(USE_NAMESPACE).is_some() && metadata.label(USE).is_none() {
            reports.warning(label(USE_NAMESPACE), "names no waypoint by itself: add istio.io/use-waypoint");
        }
        if self.is_instance(metadata) {
            return None;
        }
        let Some(own) = named(metadata, &metadata.namespace) else {
            return self.inherited(metadata, traffic);
        };
        let gateway = own?;
        match self.resolve(&gateway, &metadata.namespace, Some(traffic)) {
            Ok(address) => Some(address),
            Err(unbound) => {
                reports.warning(label(USE), unbound.message(&gateway, &metadata.namespace));
                None
            }
        }
    }

    /// The same without a word.
    pub(crate) fn bind_silently(&self, metadata: &Metadata, traffic: Traffic) -> Option<GatewayAddress> {
        if self.is_instance(metadata) {
            return None;
        }
        match named(metadata, &metadata.namespace) {
            Some(own) => self.resolve(&own?, &metadata.namespace, Some(traffic)).ok(),
            None => self.inherited(metadata, traffic),
        }
    }

    fn inherited(&self, metadata: &Metadata, traffic: Traffic) -> Option<GatewayAddress> {
        let gateway = namespace_names(self.objects.namespace(&metadata.namespace)?)?;
        self.resolve(&gateway, &metadata.namespace, Some(traffic)).ok()
    }

    /// What a namespace is told of the waypoint that it names.
    pub(crate) fn namespace(&self, namespace: &Namespace, reports: &mut Reports) {
        let metadata = &namespace.metadata;
        if metadata.label(USE_NAMESPACE).is_some() && metadata.label(USE).is_none() {
            reports.warning(label(USE_NAMESPACE), "names no waypoint by itself: add istio.io/use-waypoint");
        }
        if let Some(gateway) = namespace_names(namespace)
            && let Err(unbound) = self.resolve(&gateway, &metadata.name, None)
        {
            reports.warning(label(USE), unbound.message(&gateway, &metadata.name));
        }
    }

    /// Whether ingress gateways go through the waypoint that the object has.
    pub(crate) fn ingress(&self, metadata: &Metadata, is_bound: bool, reports: &mut Reports) -> bool {
        let own = metadata.label(INGRESS);
        let inherited = || self.objects.namespace(&metadata.namespace)?.metadata.label(INGRESS);
        let wanted = own.or_else(inherited).is_some_and(|value| value == "true");
        if wanted && !is_bound && own.is_some() {
            reports.warning(label(INGRESS), "has no effect: no waypoint is bound");
        }
        wanted && is_bound
    }

    /// How the node proxy hands connections to a pod that is an instance of a waypoint.
    pub(crate) fn application_tunnel(&self, pod: &Metadata) -> Option<ApplicationTunnel> {
        self.instance_of(pod)?.binding
    }

    /// A waypoint has none in front of itself.
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

    /// Whether a gateway exists that is for traffic to workloads.
    pub(crate) fn covers_workloads(&self, gateway: &Name) -> bool {
        self.facts(gateway).is_some_and(|facts| facts.covers.includes(Traffic::Workload))
    }

    fn resolve(
        &self,
        gateway: &Name,
        namespace: &str,
        traffic: Option<Traffic>,
    ) -> Result<GatewayAddress, Unbound> {
        let facts = self.facts(gateway).ok_or(Unbound::Absent)?;
        if !self.admits(gateway, facts.listener.as_ref(), namespace) {
            return Err(Unbound::Forbidden);
        }
        if traffic.is_some_and(|traffic| !facts.covers.includes(traffic)) {
            return Err(Unbound::Other(facts.covers));
        }
        facts.address.ok_or(Unbound::NotReady)
    }

    fn admits(&self, gateway: &Name, listener: Option<&Listener>, namespace: &str) -> bool {
        if gateway.0 == namespace {
            return true;
        }
        let Some(routes) = listener.map(|listener| &listener.allowed_routes.namespaces) else { return false };
        match routes.from.as_deref() {
            Some("All") => true,
            Some("Selector") => match (&routes.selector, self.objects.namespace(namespace)) {
                (Some(selector), Some(namespace)) => selector.selects(&namespace.metadata.labels),
                (None, _) | (_, None) => false,
            },
            Some(_) | None => false,
        }
    }
}

/// Whether labels say that an object is a part of a gateway of its namespace.
pub(crate) fn is_part_of(labels: &Labels, gateway: &str) -> bool {
    labels.get(GATEWAY_NAME).is_some_and(|name| name == gateway)
}

/// Whether an object names a waypoint itself.
pub(crate) fn names_any(metadata: &Metadata) -> bool {
    metadata.label(USE).is_some()
}

/// What is wrong with the settings of a waypoint itself.
pub(crate) fn check_settings(metadata: &Metadata, reports: &mut Reports) {
    if let Some(text) = metadata.label(WAYPOINT_FOR)
        && Covers::parse(text).is_none()
    {
        reports.warning(
            label(WAYPOINT_FOR),
            format!("{text:?} is not one of service, workload, all, none: service is assumed"),
        );
    }
    if let Some(text) = metadata.annotation(BINDING)
        && tunnel(text).is_none()
    {
        reports.warning(
            format!("metadata.annotations[{BINDING:?}]"),
            format!("{text:?} is not PROXY, PROXY/<port>, NONE or NONE/<port>: connections arrive without a header"),
        );
    }
}

/// What is said of a label where it has no meaning.
pub(crate) fn check_misplaced(metadata: &Metadata, reports: &mut Reports) {
    if metadata.label(USE).is_some() {
        reports.warning(label(USE), "has no effect here: put it on the namespace, or on services and pods");
    }
}

/// The field of a label.
fn label(key: &str) -> String {
    format!("metadata.labels[{key:?}]")
}
