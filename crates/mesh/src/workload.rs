// SPDX-License-Identifier: Apache-2.0
//! Workloads: what runs somewhere, under which identity, and how to reach it.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use arcstr::ArcStr;

use crate::{
    name::{Hostname, Network, NetworkAddress, PolicyName, ServiceName, SpiffeId, TrustDomain, WorkloadUid},
    service::PortMap,
};

/// One running workload (Istio `workload.Workload`): in Kubernetes a pod, a `WorkloadEntry` or an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Name of this resource on the wire.
    pub uid: WorkloadUid,
    /// Name of the pod or entry.
    pub name: ArcStr,
    /// Namespace it lives in.
    pub namespace: ArcStr,
    /// Trust domain of its identity.
    pub trust_domain: TrustDomain,
    /// Service account of its identity.
    pub service_account: ArcStr,
    /// Addresses on `network`; empty for a workload that only has a `hostname`.
    pub addresses: Vec<IpAddr>,
    /// A DNS name to resolve when there are no addresses.
    pub hostname: Option<Hostname>,
    /// Network of the addresses.
    pub network: Network,
    /// Gateway to reach it from another network.
    pub network_gateway: Option<GatewayAddress>,
    /// Whether its addresses are the node's own (then they do not identify it).
    pub network_mode: NetworkMode,
    /// How it accepts connections.
    pub tunnel: TunnelProtocol,
    /// Whether it terminates the tunnel itself instead of a node proxy.
    pub native_tunnel: bool,
    /// A tunnel from the node proxy to the application behind it.
    pub application_tunnel: Option<ApplicationTunnel>,
    /// Waypoint for traffic addressed to this workload itself.
    pub waypoint: Option<GatewayAddress>,
    /// Node it runs on.
    pub node: ArcStr,
    /// Where that node is.
    pub locality: Locality,
    /// Cluster it belongs to.
    pub cluster: ArcStr,
    /// Canonical service name and revision: telemetry and baggage.
    pub canonical_name: ArcStr,
    /// See `canonical_name`.
    pub canonical_revision: ArcStr,
    /// Kind and name of what owns it: telemetry and baggage.
    pub workload_type: WorkloadType,
    /// See `workload_type`.
    pub workload_name: ArcStr,
    /// Policies that select this workload by label.
    pub policies: Vec<PolicyName>,
    /// Services it is an endpoint of, with its own ports for them; shared, as replicas have the same.
    pub services: Arc<Memberships>,
    /// Whether it may receive new connections.
    pub health: Health,
    /// Weight among the endpoints of a service; 1 unless said otherwise.
    pub capacity: u32,
}

/// Services of a workload, with the ports that it has for each.
pub type Memberships = BTreeMap<ServiceName, PortMap>;

impl Workload {
    /// What the node knows it by.
    pub fn key(&self) -> WorkloadKey {
        WorkloadKey {
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
        }
    }

    /// The identity it presents and is expected to present.
    pub fn identity(&self) -> SpiffeId {
        SpiffeId::new(self.trust_domain.clone(), self.namespace.clone(), self.service_account.clone())
    }
}

/// What a node knows of a workload without discovery (ZDS `WorkloadInfo`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadKey {
    /// Name of the pod.
    pub name: ArcStr,
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its service account.
    pub service_account: ArcStr,
}

impl fmt::Display for WorkloadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({})", self.namespace, self.name, self.service_account)
    }
}

/// Istio `NetworkMode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NetworkMode {
    /// The addresses are the workload's own.
    #[default]
    Standard,
    /// The addresses are the node's: the workload is never found by address.
    HostNetwork,
}

/// How a workload accepts connections (Istio `TunnelProtocol`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TunnelProtocol {
    /// Plain TCP.
    #[default]
    None,
    /// HTTP/2 CONNECT over mutual TLS, port 15008.
    Hbone,
    /// A sidecar's own mutual TLS; node proxies treat it as plain TCP.
    LegacyMtls,
}

/// Kind of what owns a workload (Istio `WorkloadType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum WorkloadType {
    /// A Deployment.
    #[default]
    Deployment,
    /// A `CronJob`.
    CronJob,
    /// A bare pod.
    Pod,
    /// A Job.
    Job,
}

impl WorkloadType {
    /// Lower-case name, as in the baggage key `k8s.<type>.name`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "deployment",
            Self::CronJob => "cronjob",
            Self::Pod => "pod",
            Self::Job => "job",
        }
    }
}

/// Whether a workload may receive new connections (Istio `WorkloadStatus`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Ready.
    #[default]
    Healthy,
    /// Not ready or going away.
    Unhealthy,
}

/// Place of a node: `topology.kubernetes.io/region` and `/zone`, `topology.istio.io/subzone`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// Region; may be empty.
    pub region: ArcStr,
    /// Zone; may be empty.
    pub zone: ArcStr,
    /// Subzone; may be empty.
    pub subzone: ArcStr,
}

/// How the node proxy hands a connection to the application (Istio `ApplicationTunnel`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplicationTunnel {
    /// Protocol of that hop.
    pub protocol: ApplicationTunnelProtocol,
    /// Port of the application; `None`: the port that was asked for.
    pub port: Option<u16>,
}

/// Istio `ApplicationTunnel.Protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplicationTunnelProtocol {
    /// No header.
    None,
    /// PROXY protocol version 2.
    Proxy,
}

/// Where a gateway or waypoint is found (Istio `GatewayAddress`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GatewayAddress {
    /// Name or address.
    pub destination: GatewayDestination,
    /// Its HBONE port, normally 15008.
    pub hbone_port: u16,
}

/// See [`GatewayAddress`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GatewayDestination {
    /// A service known by name.
    Hostname(ServiceName),
    /// A service or workload known by address.
    Address(NetworkAddress),
}
