// SPDX-License-Identifier: Apache-2.0
//! Pods.

use std::net::IpAddr;

use arcstr::ArcStr;
use serde::Deserialize;

use super::meta::Metadata;

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Name, namespace, labels, annotations, owners.
    pub metadata: Metadata,
    /// What is wanted.
    #[serde(default)]
    pub spec: PodSpec,
    /// What is.
    #[serde(default)]
    pub status: PodStatus,
}

impl Pod {
    /// Whether its containers have ended for good.
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether it may receive connections: ready and not going away.
    pub fn is_ready(&self) -> bool {
        self.metadata.deletion_timestamp.is_none()
            && self
                .status
                .conditions
                .iter()
                .any(|condition| condition.kind == "Ready" && condition.status == "True")
    }

    /// Its addresses, each once.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let listed = self.status.pod_ips.iter().map(|entry| entry.ip);
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in self.status.pod_ip.into_iter().chain(listed).map(|ip| ip.to_canonical()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// Its service account.
    pub fn service_account(&self) -> ArcStr {
        let named = self.spec.service_account_name.as_ref().or(self.spec.service_account.as_ref());
        named.filter(|name| !name.is_empty()).cloned().unwrap_or(arcstr::literal!("default"))
    }

    /// The container port of a name.
    pub fn named_port(&self, name: &str) -> Option<u16> {
        let restarted = self.spec.init_containers.iter().filter(|container| container.is_sidecar());
        self.spec
            .containers
            .iter()
            .chain(restarted)
            .flat_map(|container| &container.ports)
            .find(|port| port.protocol == Protocol::Tcp && port.name.as_deref() == Some(name))
            .map(|port| port.container_port)
    }
}

/// `spec` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// Node it was placed on.
    #[serde(default)]
    pub node_name: Option<ArcStr>,
    /// Service account.
    #[serde(default)]
    pub service_account_name: Option<ArcStr>,
    /// The old name of `serviceAccountName`.
    #[serde(default)]
    pub service_account: Option<ArcStr>,
    /// Whether it shares the node's network.
    #[serde(default)]
    pub host_network: bool,
    /// Containers.
    #[serde(default)]
    pub containers: Vec<Container>,
    /// Containers before them; those that restart always stay beside them.
    #[serde(default)]
    pub init_containers: Vec<Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Declared ports.
    #[serde(default)]
    pub ports: Vec<ContainerPort>,
    /// Only of an init container.
    #[serde(default)]
    pub restart_policy: Option<ArcStr>,
}

impl Container {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }
}

/// A declared port of a container.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPort {
    /// Name that services may point to.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Number.
    pub container_port: u16,
    /// Transport.
    #[serde(default)]
    pub protocol: Protocol,
}

/// Transport of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
    /// SCTP.
    #[serde(rename = "SCTP")]
    Sctp,
}

/// `status` of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Where it is in its life.
    #[serde(default)]
    pub phase: Phase,
    /// First address.
    #[serde(default, rename = "podIP")]
    pub pod_ip: Option<IpAddr>,
    /// All addresses.
    #[serde(default, rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// One of `status.podIPs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    /// The address.
    pub ip: IpAddr,
}

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum Phase {
    /// Not all containers run yet; it may have its address already.
    Pending,
    /// Runs.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Not known, or not said.
    #[default]
    Unknown,
}

/// One of `status.conditions`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// What it says.
    #[serde(rename = "type")]
    pub kind: ArcStr,
    /// `True`, `False` or `Unknown`.
    pub status: ArcStr,
}
