// SPDX-License-Identifier: Apache-2.0
//! `Gateway` and `GatewayClass` of the Gateway API, as far as they say where a waypoint is and who may use it.

use arcstr::ArcStr;
use serde::Deserialize;

use super::meta::{Labels, Metadata, contains, null_is_empty};

/// A gateway; one that others name as their waypoint is of interest here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Gateway {
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default)]
    pub spec: GatewaySpec,
    /// What is.
    #[serde(default)]
    pub status: GatewayStatus,
}

/// `spec` of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewaySpec {
    /// Its class.
    #[serde(default)]
    pub gateway_class_name: ArcStr,
    /// Where it listens.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// What whoever runs it is to know.
    #[serde(default)]
    pub infrastructure: Infrastructure,
}

/// `spec.infrastructure`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Infrastructure {
    /// Labels for what is made because of the gateway.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: Labels,
    /// Annotations for the same.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub annotations: Labels,
    /// An object with more of it.
    #[serde(default)]
    pub parameters_ref: Option<ParametersReference>,
}

/// `infrastructure.parametersRef`: an object of the gateway's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ParametersReference {
    /// API group; empty for the core.
    #[serde(default)]
    pub group: ArcStr,
    /// Kind.
    pub kind: ArcStr,
    /// Name.
    pub name: ArcStr,
}

/// One of `spec.listeners`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Listener {
    /// Its name among them.
    #[serde(default)]
    pub name: ArcStr,
    /// Port.
    pub port: u16,
    /// `HBONE`, `HTTP` and so on.
    pub protocol: ArcStr,
    /// Who may attach.
    #[serde(default)]
    pub allowed_routes: AllowedRoutes,
}

/// `allowedRoutes` of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AllowedRoutes {
    /// From which namespaces.
    #[serde(default)]
    pub namespaces: RouteNamespaces,
    /// Of which kinds; all that fit if none is named.
    #[serde(default)]
    pub kinds: Vec<RouteKind>,
}

/// One of `allowedRoutes.kinds`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct RouteKind {
    /// API group; that of the Gateway API if not said.
    #[serde(default)]
    pub group: Option<ArcStr>,
    /// Kind.
    pub kind: ArcStr,
}

impl RouteKind {
    /// Whether it is this one; `group` is that of the Gateway API.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        self.kind == kind && self.group.as_ref().is_none_or(|own| own == group)
    }
}

/// `allowedRoutes.namespaces`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RouteNamespaces {
    /// `All`, `Same`, `Selector` or `None`; the gateway's own if not said.
    #[serde(default)]
    pub from: Option<ArcStr>,
    /// Labels of the namespaces, of `Selector`.
    #[serde(default)]
    pub selector: Option<NamespaceSelector>,
}

/// A selector of Kubernetes objects: every label and every expression must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NamespaceSelector {
    /// Labels with their values.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub match_labels: Labels,
    /// Expressions.
    #[serde(default)]
    pub match_expressions: Vec<SelectorRequirement>,
}

impl NamespaceSelector {
    /// Whether it selects an object with these labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        contains(labels, &self.match_labels)
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

/// One of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SelectorRequirement {
    /// Key of a label.
    pub key: ArcStr,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: ArcStr,
    /// Of the first two.
    #[serde(default)]
    pub values: Vec<ArcStr>,
}

impl SelectorRequirement {
    /// An operator that does not exist selects nothing.
    fn holds(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        let listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// `status` of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct GatewayStatus {
    /// Where it is found; none until it is ready.
    #[serde(default)]
    pub addresses: Vec<StatusAddress>,
}

/// One of `status.addresses`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct StatusAddress {
    /// `IPAddress` (also if not said) or `Hostname`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// The address or name.
    pub value: ArcStr,
}

/// A class of gateways; its labels and annotations are defaults for them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GatewayClass {
    /// Name, labels, annotations.
    pub metadata: Metadata,
    /// Who implements it.
    #[serde(default)]
    pub spec: GatewayClassSpec,
}

/// `spec` of a class.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GatewayClassSpec {
    /// Its controller.
    #[serde(default)]
    pub controller_name: ArcStr,
}
