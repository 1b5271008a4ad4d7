// SPDX-License-Identifier: Apache-2.0
//! From a Gateway to the objects that run its waypoint, and to what its status says of them. Pure: what is there is given,
//! what is to be there comes back.
//!
//! ```text
//!   Gateway ─► render ─► objects ─► overlay (class defaults, then the Gateway's own) ─► what is applied
//!   Gateway, what became of that, ready pods ─► status
//! ```

mod overlay;
mod render;
mod status;

use mesh::{TrustDomain, l7::guard::Normalisation};
use serde_json::Value;

pub(crate) use self::{
    overlay::{Overlays, Source},
    status::{Before, Standing, status},
};
use crate::objects::Gateway;

/// Label of a ConfigMap whose content is the default for the gateways of a class.
pub(crate) const DEFAULTS_FOR: &str = "gateway.istio.io/defaults-for-class";
/// Says that we have made an object.
pub(crate) const MADE_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "ambit");

/// What all waypoints have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `AMBIT_WAYPOINT_CLASSES`: names of the classes of Gateways that are made.
    pub classes: Vec<String>,
    /// `AMBIT_WAYPOINT_IMAGE`: the image.
    pub image: String,
    /// `AMBIT_WAYPOINT_PULL_POLICY`: when the kubelet fetches it.
    pub pull_policy: String,
    /// `AMBIT_WAYPOINT_PULL_SECRETS`: names of Secrets with credentials for it, in the namespace of each Gateway.
    pub pull_secrets: Vec<String>,
    /// `AMBIT_WAYPOINT_CONTROL`: where discovery and certificates are.
    pub control: String,
    /// The ConfigMap with the roots, in every namespace.
    pub roots: String,
    /// Whom tokens are meant for.
    pub audience: String,
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Name of the cluster.
    pub cluster: String,
    /// DNS suffix of services.
    pub cluster_domain: String,
    /// Network of all addresses.
    pub network: String,
    /// `AMBIT_PATH_NORMALIZATION`: how far waypoints normalise paths.
    pub normalisation: Normalisation,
}

/// Whether pods are counted by their load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scaling {
    /// The API server has the metrics of resources: a HorizontalPodAutoscaler has what it needs.
    Metered,
    /// It has not: the number is fixed.
    Fixed,
}

/// Why nothing is deployed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub(crate) struct Fault {
    /// ConfigMap, key and field.
    pub(crate) place: String,
    /// What is wrong there.
    pub(crate) message: String,
}

/// One object that is to be there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) object: Value,
}

/// Kinds of what a waypoint consists of, in the order in which they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PartKind {
    ServiceAccount,
    Service,
    Deployment,
    HorizontalPodAutoscaler,
    PodDisruptionBudget,
    NetworkPolicy,
}

impl PartKind {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::ServiceAccount,
        Self::Service,
        Self::Deployment,
        Self::HorizontalPodAutoscaler,
        Self::PodDisruptionBudget,
        Self::NetworkPolicy,
    ];

    /// As in manifests.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::Deployment => "Deployment",
            Self::HorizontalPodAutoscaler => "HorizontalPodAutoscaler",
            Self::PodDisruptionBudget => "PodDisruptionBudget",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// The key of a ConfigMap with an overlay for it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::ServiceAccount => "serviceAccount",
            Self::Service => "service",
            Self::Deployment => "deployment",
            Self::HorizontalPodAutoscaler => "horizontalPodAutoscaler",
            Self::PodDisruptionBudget => "podDisruptionBudget",
            Self::NetworkPolicy => "networkPolicy",
        }
    }

    pub(crate) fn api_version(self) -> &'static str {
        match self {
            Self::ServiceAccount | Self::Service => "v1",
            Self::Deployment => "apps/v1",
            Self::HorizontalPodAutoscaler => "autoscaling/v2",
            Self::PodDisruptionBudget => "policy/v1",
            Self::NetworkPolicy => "networking.k8s.io/v1",
        }
    }
}

/// The objects of a Gateway's waypoint. Where an overlay is wrong there are none.
pub(crate) fn deploy(
    gateway: &Gateway,
    overlays: &Overlays,
    settings: &Settings,
    scaling: Scaling,
) -> Result<Vec<Part>, Fault> {
    overlays.check()?;
    let asked = overlays.pointer(PartKind::Deployment, "/spec/replicas")?;
    let scaled =
        overlays.has(PartKind::HorizontalPodAutoscaler) || scaling == Scaling::Metered && asked.is_none();
    let mut parts = Vec::new();
    for kind in PartKind::ALL {
        if kind == PartKind::HorizontalPodAutoscaler && !scaled {
            continue;
        }
        let mut object = render::render(kind, gateway, settings);
        if kind == PartKind::Deployment && scaled {
            render::unscale(&mut object);
        }
        overlays.lay_over(kind, &mut object)?;
        parts.push(Part { kind, object });
    }
    Ok(parts)
}

#[cfg(test)]
mod tests;
