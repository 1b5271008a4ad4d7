// SPDX-License-Identifier: Apache-2.0
//! What a gateway says of itself as a waypoint: for which traffic it is, where, who may use it, and how strictly.

use arcstr::ArcStr;
use mesh::{
    Hostname, NetworkAddress, ServiceName,
    workload::{ApplicationTunnel, ApplicationTunnelProtocol, GatewayAddress, GatewayDestination},
};

use super::{ENFORCEMENT, label};
use crate::{
    objects::{Gateway, GatewayClass, Listener, Metadata},
    report::Reports,
    world::Settings,
};

pub(super) const WAYPOINT_FOR: &str = "istio.io/waypoint-for";
const BINDING: &str = "ambient.istio.io/waypoint-inbound-binding";
/// The older way to name a service account: on the gateway.
const FOR_ACCOUNT: &str = "istio.io/for-service-account";
/// The controller of the classes whose gateways control deploys.
pub(crate) const CONTROLLER: &str = "ambit.mesh/waypoint";
pub(super) const HBONE_PORT: u16 = 15008;

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

    pub(super) fn includes(self, traffic: Traffic) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Service => traffic == Traffic::Service,
            Self::Workload => traffic == Traffic::Workload,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::Nothing => "none",
        }
    }
}

/// What becomes of traffic that does not come through the waypoint, and of all of it while the waypoint is not ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Enforcement {
    /// It passes, counted and logged.
    #[default]
    Audit,
    /// It is refused.
    Enforce,
}

impl Enforcement {
    /// What an object says: its label, else its annotation. What is neither is nothing.
    pub(super) fn of(metadata: &Metadata) -> Option<Self> {
        Self::parse(metadata.label(ENFORCEMENT).or_else(|| metadata.annotation(ENFORCEMENT))?)
    }

    fn parse(text: &str) -> Option<Self> {
        match text {
            "audit" => Some(Self::Audit),
            "enforce" => Some(Self::Enforce),
            _ => None,
        }
    }
}

/// What others need to know of a gateway: as long as it stays the same, nothing of theirs changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) covers: Covers,
    pub(super) address: Option<GatewayAddress>,
    pub(super) listener: Option<Listener>,
    pub(super) binding: Option<ApplicationTunnel>,
    pub(super) is_waypoint: bool,
    pub(super) enforcement: Option<Enforcement>,
    /// Whether control deploys it.
    pub(super) is_managed: bool,
}

impl Facts {
    pub(crate) fn is_waypoint(&self) -> bool {
        self.is_waypoint
    }

    /// Where it is, once it is known.
    pub(crate) fn address(&self) -> Option<&GatewayAddress> {
        self.address.as_ref()
    }
}

/// What there is to know of a gateway.
pub(crate) fn facts(settings: &Settings, gateway: &Gateway, class: Option<&GatewayClass>) -> Facts {
    let listener = gateway.spec.listeners.iter().find(|listener| listener.protocol == "HBONE").cloned();
    let binding = setting(gateway, class, |metadata| metadata.annotation(BINDING));
    let label = setting(gateway, class, |metadata| metadata.label(WAYPOINT_FOR));
    let port = listener.as_ref().map_or(HBONE_PORT, |listener| listener.port);
    let enforcement = Enforcement::of(&gateway.metadata);
    Facts {
        covers: label.and_then(|text| Covers::parse(text)).unwrap_or_default(),
        address: address(settings, gateway, port),
        is_waypoint: listener.is_some() || binding.is_some() || label.is_some(),
        binding: binding.and_then(|text| tunnel(text)),
        listener,
        enforcement: enforcement.or_else(|| Enforcement::of(&class?.metadata)),
        is_managed: is_managed(class),
    }
}

/// Whether control deploys the gateways of a class.
pub(crate) fn is_managed(class: Option<&GatewayClass>) -> bool {
    class.is_some_and(|class| class.spec.controller_name == CONTROLLER)
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

/// The service account of its namespace that a gateway names as its own.
pub(crate) fn account(gateway: &Gateway) -> Option<&ArcStr> {
    gateway.metadata.annotation(FOR_ACCOUNT).filter(|name| !name.is_empty())
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
            super::annotation(BINDING),
            format!("{text:?} is not PROXY, PROXY/<port>, NONE or NONE/<port>: connections arrive without a header"),
        );
    }
    check_enforcement(metadata, reports);
}

/// What is wrong with the word for the enforcement.
pub(super) fn check_enforcement(metadata: &Metadata, reports: &mut Reports) {
    let said = [(metadata.label(ENFORCEMENT), label(ENFORCEMENT))]
        .into_iter()
        .chain([(metadata.annotation(ENFORCEMENT), super::annotation(ENFORCEMENT))]);
    for (text, field) in said {
        if let Some(text) = text.filter(|text| Enforcement::parse(text).is_none()) {
            reports.warning(field, format!("{text:?} is neither audit nor enforce: it does not count"));
        }
    }
}

/// What there is to say of the service account that a gateway names.
pub(super) fn check_account(facts: &Facts, gateway: &Gateway, winner: &Metadata, reports: &mut Reports) {
    if account(gateway).is_none() {
        return;
    }
    if !facts.covers.includes(Traffic::Workload) {
        reports.warning(
            super::annotation(FOR_ACCOUNT),
            format!(
                "its workloads are not served: set {WAYPOINT_FOR} to workload or all, it is {}",
                facts.covers.as_str()
            ),
        );
    }
    if winner.name != gateway.metadata.name {
        reports.warning(
            super::annotation(FOR_ACCOUNT),
            format!("has no effect: the older Gateway {} is for the same service account", winner.name),
        );
    }
}
