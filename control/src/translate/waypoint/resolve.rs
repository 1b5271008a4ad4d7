// SPDX-License-Identifier: Apache-2.0
//! Whether a gateway that is named can be used, and by whom; the same for a canary beside it.

use arcstr::ArcStr;
use mesh::workload::GatewayAddress;

use super::{
    Binder, CANARY, CANARY_NAMESPACE, CANARY_WEIGHT, annotation,
    facts::{Covers, Traffic, WAYPOINT_FOR},
    label,
};
use crate::{
    objects::{Listener, Metadata},
    world::Name,
};

/// Why a gateway cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unbound {
    Absent,
    NotReady,
    Forbidden,
    Other(Covers),
}

impl Unbound {
    /// What is wrong, to somebody of a namespace.
    pub(super) fn message(&self, gateway: &Name, namespace: &str) -> String {
        let (home, name) = gateway;
        match self {
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
        }
    }

    /// Istio's word for it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Absent | Self::NotReady => "WaypointIsNotReady",
            Self::Forbidden => "AttachmentDenied",
            Self::Other(_) => "UnsupportedTrafficType",
        }
    }
}

/// A second waypoint that gets a share of the connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Canary {
    pub(super) gateway: Name,
    pub(super) address: GatewayAddress,
    /// Of a hundred.
    pub(super) weight: u32,
}

/// Why a canary gets nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CanaryFault {
    Weight(ArcStr),
    SameAsPrimary,
    Unbound(Name, Unbound),
}

impl CanaryFault {
    /// The field, and what is wrong, to somebody of a namespace.
    pub(super) fn said(&self, namespace: &str) -> (String, String) {
        const ALONE: &str = "the primary waypoint gets all traffic";
        match self {
            Self::Weight(text) => {
                (annotation(CANARY_WEIGHT), format!("{text:?} is not a whole number from 0 to 100: {ALONE}"))
            }
            Self::SameAsPrimary => (label(CANARY), format!("names the primary waypoint once more: {ALONE}")),
            Self::Unbound(gateway, unbound) => {
                (label(CANARY), format!("{}; until then {ALONE}", unbound.message(gateway, namespace)))
            }
        }
    }

    /// Istio's word for it.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Weight(_) => "CanaryInvalidWeight",
            Self::SameAsPrimary => "CanarySameAsPrimary",
            Self::Unbound(_, unbound) => unbound.reason(),
        }
    }
}

/// The canary that labels name; `namespace` is where it is if they do not say.
pub(super) fn canary_name(metadata: &Metadata, namespace: &ArcStr) -> Option<Name> {
    let name = metadata.label(CANARY).filter(|name| !name.is_empty() && *name != "none")?;
    let namespace = metadata.label(CANARY_NAMESPACE).filter(|name| !name.is_empty()).unwrap_or(namespace);
    Some((namespace.clone(), name.clone()))
}

impl Binder<'_> {
    /// The canary that `asking` names beside `primary`, for a service of `namespace`.
    pub(super) fn canary(
        &self,
        asking: &Metadata,
        home: &ArcStr,
        namespace: &str,
        primary: &Name,
    ) -> Option<Result<Canary, CanaryFault>> {
        let gateway = canary_name(asking, home)?;
        if gateway == *primary {
            return Some(Err(CanaryFault::SameAsPrimary));
        }
        let text = asking.annotation(CANARY_WEIGHT).cloned().unwrap_or(arcstr::literal!("0"));
        let Some(weight) = text.parse().ok().filter(|weight| *weight <= 100) else {
            return Some(Err(CanaryFault::Weight(text)));
        };
        Some(match self.resolve(&gateway, namespace, Some(Traffic::Service)) {
            Ok(address) => Ok(Canary { gateway, address, weight }),
            Err(unbound) => Err(CanaryFault::Unbound(gateway, unbound)),
        })
    }

    /// Where a gateway is, for somebody of a namespace and a kind of traffic.
    pub(super) fn resolve(
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
