// SPDX-License-Identifier: Apache-2.0
//! Endpoint slices.

use arcstr::ArcStr;
use serde::Deserialize;

use super::{
    meta::{Metadata, null_is_default},
    pod::Protocol,
};

/// Some of the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSlice {
    /// Name, namespace, and the label that names the service.
    pub metadata: Metadata,
    /// What its addresses are.
    pub address_type: AddressType,
    /// The endpoints.
    #[serde(default, deserialize_with = "null_is_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports of every one of them.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ports: Vec<EndpointPort>,
}

/// `addressType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum AddressType {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
    /// Host names.
    #[serde(rename = "FQDN")]
    Fqdn,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// All mean the same endpoint.
    #[serde(default)]
    pub addresses: Vec<ArcStr>,
    /// Its state.
    #[serde(default)]
    pub conditions: EndpointConditions,
    /// The object behind it.
    #[serde(default)]
    pub target_ref: Option<EndpointTarget>,
}

/// `conditions` of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct EndpointConditions {
    /// Not said means ready.
    #[serde(default)]
    pub ready: Option<bool>,
}

/// `targetRef` of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointTarget {
    /// Kind.
    #[serde(default)]
    pub kind: ArcStr,
    /// Name.
    #[serde(default)]
    pub name: ArcStr,
    /// Namespace; the slice's own if not said.
    #[serde(default)]
    pub namespace: Option<ArcStr>,
}

/// One of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointPort {
    /// Name of the service's port.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Number at the endpoint.
    #[serde(default)]
    pub port: Option<u16>,
    /// Transport.
    #[serde(default)]
    pub protocol: Protocol,
}
