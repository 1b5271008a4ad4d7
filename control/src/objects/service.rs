// SPDX-License-Identifier: Apache-2.0
//! Services.

use std::{fmt, net::IpAddr};

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer, de};

use super::{
    meta::{Labels, Metadata, null_is_default, null_is_empty},
    pod::Protocol,
};

/// A service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Service {
    /// Name, namespace, labels, annotations.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default)]
    pub spec: ServiceSpec,
    /// What is.
    #[serde(default)]
    pub status: ServiceStatus,
}

impl Service {
    /// The addresses it is reached at, each once: its own, and those of load balancers that nodes take for it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses = self.spec.addresses();
        let ingress = self.status.load_balancer.ingress.iter();
        for address in ingress.filter(|entry| !entry.is_proxied()).filter_map(|entry| entry.ip) {
            if !addresses.contains(&address.to_canonical()) {
                addresses.push(address.to_canonical());
            }
        }
        addresses
    }
}

/// `status` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStatus {
    /// Where a load balancer listens for it.
    #[serde(default)]
    pub load_balancer: LoadBalancerStatus,
}

/// `status.loadBalancer`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LoadBalancerStatus {
    /// Its addresses.
    #[serde(default, deserialize_with = "null_is_default")]
    pub ingress: Vec<Ingress>,
}

/// One of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ingress {
    /// The address; a load balancer may have a host name instead.
    #[serde(default)]
    pub ip: Option<IpAddr>,
    /// `VIP` or `Proxy`.
    #[serde(default)]
    pub ip_mode: Option<ArcStr>,
}

impl Ingress {
    /// Whether connections must go through the load balancer itself, also from inside.
    fn is_proxied(&self) -> bool {
        self.ip_mode.as_ref().is_some_and(|mode| mode == "Proxy")
    }
}

/// `spec` of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// Labels of its pods; without any it has none of its own.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub selector: Labels,
    /// First virtual address.
    #[serde(default, rename = "clusterIP")]
    pub cluster_ip: Option<ClusterIp>,
    /// All virtual addresses.
    #[serde(default, rename = "clusterIPs")]
    pub cluster_ips: Vec<ClusterIp>,
    /// Address families.
    #[serde(default)]
    pub ip_families: Vec<IpFamily>,
    /// Ports.
    #[serde(default)]
    pub ports: Vec<Port>,
    /// Which endpoints are preferred.
    #[serde(default)]
    pub traffic_distribution: Option<ArcStr>,
    /// Whether only endpoints of the client's node take part.
    #[serde(default)]
    pub internal_traffic_policy: TrafficPolicy,
    /// Whether endpoints that are not ready take part.
    #[serde(default)]
    pub publish_not_ready_addresses: bool,
    /// `None` or `ClientIP`.
    #[serde(default)]
    pub session_affinity: Option<ArcStr>,
}

impl ServiceSpec {
    /// Its virtual addresses, each once.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut addresses: Vec<IpAddr> = Vec::new();
        for entry in self.cluster_ip.iter().chain(&self.cluster_ips) {
            if let ClusterIp::Address(address) = entry
                && !addresses.contains(address)
            {
                addresses.push(*address);
            }
        }
        addresses
    }

    /// Whether it was made without a virtual address.
    pub fn is_headless(&self) -> bool {
        self.cluster_ip.iter().chain(&self.cluster_ips).any(|entry| *entry == ClusterIp::Headless)
    }
}

/// One virtual address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterIp {
    /// Not given yet (the empty string).
    Unassigned,
    /// `None`: there will be none.
    Headless,
    /// The address.
    Address(IpAddr),
}

impl<'de> Deserialize<'de> for ClusterIp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = ArcStr::deserialize(deserializer)?;
        match text.as_str() {
            "" => Ok(Self::Unassigned),
            "None" => Ok(Self::Headless),
            address => match address.parse::<IpAddr>() {
                Ok(address) => Ok(Self::Address(address.to_canonical())),
                Err(error) => Err(de::Error::custom(format_args!(
                    "{address:?} is neither None nor an address: {error}"
                ))),
            },
        }
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum IpFamily {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

/// `spec.internalTrafficPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only those of the client's node.
    Local,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Name; its first part may say the protocol.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Number that clients use.
    pub port: u16,
    /// Port of the pod.
    #[serde(default)]
    pub target_port: Option<TargetPort>,
    /// Transport.
    #[serde(default)]
    pub protocol: Protocol,
    /// What is spoken on it.
    #[serde(default)]
    pub app_protocol: Option<ArcStr>,
}

/// Port of a pod, by number or by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The number.
    Number(u16),
    /// Name of a container port.
    Name(ArcStr),
}

impl<'de> Deserialize<'de> for TargetPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = TargetPort;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port from 1 to 65535 or the name of a container port")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<TargetPort, E> {
                match u16::try_from(value) {
                    Ok(port) if port != 0 => Ok(TargetPort::Number(port)),
                    Ok(_) | Err(_) => Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<TargetPort, E> {
                match u64::try_from(value) {
                    Ok(value) => self.visit_u64(value),
                    Err(_) => Err(E::invalid_value(de::Unexpected::Signed(value), &self)),
                }
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<TargetPort, E> {
                if value.bytes().any(|byte| byte.is_ascii_alphabetic()) {
                    Ok(TargetPort::Name(value.into()))
                } else {
                    Err(E::custom(format_args!(
                        "the text {value:?} names no port: write a number without quotes"
                    )))
                }
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
