// SPDX-License-Identifier: Apache-2.0
//! `ServiceEntry`, `WorkloadEntry` and `WorkloadGroup` of networking.istio.io/v1. A field that is not of the API is an error.

use std::{collections::BTreeMap, net::IpAddr};

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, de::IgnoredAny};

use super::{
    meta::{Labels, null_is_empty, strict_objects},
    pod::Condition,
};

strict_objects! {
    /// Hosts that the mesh is to know besides its services.
    ServiceEntry: ServiceEntrySpec, ServiceEntryStatus;
}

/// `spec` of a `ServiceEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ServiceEntrySpec {
    /// DNS names.
    pub hosts: Vec<ArcStr>,
    /// Virtual addresses or blocks of them.
    pub addresses: Vec<ArcStr>,
    /// Ports.
    pub ports: Vec<EntryPort>,
    /// Whether it is part of the mesh.
    pub location: Location,
    /// How its endpoints are found.
    pub resolution: Resolution,
    /// The endpoints.
    pub endpoints: Vec<WorkloadEntrySpec>,
    /// Pods and workload entries that are its endpoints.
    pub workload_selector: Option<WorkloadSelector>,
    /// Namespaces that it is offered to.
    pub export_to: Vec<ArcStr>,
    /// Identities its endpoints may present.
    pub subject_alt_names: Vec<ArcStr>,
}

/// One of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EntryPort {
    /// Number that clients use.
    pub number: u16,
    /// What is spoken on it.
    #[serde(default)]
    pub protocol: Option<ArcStr>,
    /// Name.
    #[serde(default)]
    pub name: ArcStr,
    /// Port of the endpoints, if another.
    #[serde(default)]
    pub target_port: Option<u16>,
}

/// `spec.location`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Location {
    /// Outside the mesh.
    #[default]
    #[serde(rename = "MESH_EXTERNAL")]
    External,
    /// Part of it.
    #[serde(rename = "MESH_INTERNAL")]
    Internal,
}

/// `spec.resolution`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// Connections go where the client wanted.
    #[default]
    None,
    /// To the addresses of the endpoints.
    Static,
    /// To what DNS answers for the endpoints, or for the hosts.
    Dns,
    /// The same.
    DnsRoundRobin,
    /// To what DNS answers for the host that each request names.
    DynamicDns,
}

impl Resolution {
    /// Whether the endpoints are names that DNS knows.
    pub fn is_dns(self) -> bool {
        match self {
            Self::Dns | Self::DnsRoundRobin => true,
            Self::None | Self::Static | Self::DynamicDns => false,
        }
    }
}

/// `spec.workloadSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkloadSelector {
    /// Every one must match.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: Labels,
}

/// `status` of a `ServiceEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ServiceEntryStatus {
    /// Automatic addresses.
    #[serde(default)]
    pub addresses: Vec<EntryAddress>,
}

/// One of `status.addresses`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EntryAddress {
    /// The address.
    pub value: IpAddr,
    /// The host that it stands for.
    #[serde(default)]
    pub host: ArcStr,
}

strict_objects! {
    /// A workload that is no pod.
    WorkloadEntry: WorkloadEntrySpec, WorkloadEntryStatus;
}

impl WorkloadEntry {
    /// Its labels: those of the object, where they do not say otherwise those of the spec.
    pub fn labels(&self) -> Labels {
        let mut labels = self.spec.labels.clone();
        labels.extend(self.metadata.labels.iter().map(|(key, value)| (key.clone(), value.clone())));
        labels
    }
}

/// `spec` of a `WorkloadEntry`, and one of `spec.endpoints` of a `ServiceEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadEntrySpec {
    /// An address or a DNS name.
    pub address: ArcStr,
    /// Numbers of the ports that a service names.
    pub ports: BTreeMap<ArcStr, u16>,
    /// Labels.
    #[serde(deserialize_with = "null_is_empty")]
    pub labels: Labels,
    /// Network of the address.
    pub network: Option<ArcStr>,
    /// `region/zone/subzone`.
    pub locality: Option<ArcStr>,
    /// Weight among the endpoints of a service.
    pub weight: Option<u32>,
    /// Service account of its identity.
    pub service_account: Option<ArcStr>,
}

/// `status` of a `WorkloadEntry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct WorkloadEntryStatus {
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

strict_objects! {
    /// What workloads that register themselves have in common.
    WorkloadGroup: WorkloadGroupSpec;
}

/// `spec` of a `WorkloadGroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WorkloadGroupSpec {
    /// Labels and annotations of its entries.
    #[serde(deserialize_with = "present")]
    pub metadata: bool,
    /// The rest of them.
    pub template: WorkloadEntrySpec,
    /// Whether their health is to be asked for.
    #[serde(deserialize_with = "present")]
    pub probe: bool,
}

/// Whether a field is there, whatever is in it.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Ok(Option::<IgnoredAny>::deserialize(deserializer)?.is_some())
}
