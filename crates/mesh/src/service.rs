// SPDX-License-Identifier: Apache-2.0
//! Services: a name and addresses in front of workloads.

use std::{collections::BTreeMap, net::IpAddr};

use arcstr::ArcStr;
use ipnet::IpNet;

use crate::{
    name::{Hostname, Network, ServiceName, SpiffeId},
    workload::{GatewayAddress, Health, Workload},
};

/// A service (Istio `workload.Service`): a Kubernetes Service or one host of a `ServiceEntry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Name of the object.
    pub name: ArcStr,
    /// Namespace it lives in.
    pub namespace: ArcStr,
    /// DNS name; with the namespace it names this resource on the wire.
    pub hostname: Hostname,
    /// Virtual addresses; empty for a headless service.
    pub vips: Vec<Vip>,
    /// Service port to default target port.
    pub ports: PortMap,
    /// Identities its endpoints may present besides their own.
    pub subject_alt_names: Vec<SpiffeId>,
    /// Waypoint for traffic addressed to this service.
    pub waypoint: Option<GatewayAddress>,
    /// Several waypoints by weight; when not empty it goes before `waypoint`.
    pub weighted_waypoints: Vec<WeightedWaypoint>,
    /// How an endpoint is chosen.
    pub load_balancing: LoadBalancing,
    /// Address families it is offered on.
    pub ip_families: IpFamilies,
    /// Whether it wins over others of the same host or address.
    pub canonical: bool,
    /// Whether ingress gateways go through its waypoint.
    pub ingress_use_waypoint: bool,
    /// Who may see it.
    pub visibility: Visibility,
}

impl Service {
    /// Name of this resource on the wire, `<namespace>/<hostname>`.
    pub fn key(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }

    /// Whether a client of `namespace` may see it.
    pub fn visible_to(&self, namespace: &str) -> bool {
        match self.visibility {
            Visibility::Public => true,
            Visibility::Namespace => self.namespace == namespace,
        }
    }

    /// Whether its health policy lets an endpoint take part.
    pub fn admits(&self, workload: &Workload) -> bool {
        match (self.load_balancing.health_policy, workload.health) {
            (HealthPolicy::AllowAll, _) | (HealthPolicy::OnlyHealthy, Health::Healthy) => true,
            (HealthPolicy::OnlyHealthy, Health::Unhealthy) => false,
        }
    }
}

/// Service port to port (Istio `PortList`). A target of `None` is a named port that this side cannot resolve.
pub type PortMap = BTreeMap<u16, ServicePort>;

/// One port of a service, or of a workload for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Port of the workload; `None` (0 on the wire) where only the workload itself knows.
    pub target: Option<u16>,
    /// What is spoken on it.
    pub protocol: AppProtocol,
}

/// Istio `AppProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AppProtocol {
    /// Not declared.
    #[default]
    Unknown,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2 without TLS.
    Http2,
    /// gRPC.
    Grpc,
    /// Raw TCP.
    Tcp,
    /// TLS.
    Tls,
}

/// A virtual address or range on a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Vip {
    /// Network it is valid on.
    pub network: Network,
    /// A single address is a full-length prefix.
    pub net: IpNet,
}

impl Vip {
    /// The address when it is a single one.
    pub fn address(&self) -> Option<IpAddr> {
        (self.net.prefix_len() == self.net.max_prefix_len()).then(|| self.net.addr())
    }
}

/// Istio `WeightedWaypoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedWaypoint {
    /// The waypoint.
    pub destination: GatewayAddress,
    /// Its share.
    pub weight: u32,
}

/// Istio `LoadBalancing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadBalancing {
    /// Most general first.
    pub routing_preference: Vec<Scope>,
    /// What the preference means.
    pub mode: BalanceMode,
    /// Which endpoints take part.
    pub health_policy: HealthPolicy,
}

impl LoadBalancing {
    /// What endpoints are preferred for; nothing where the mode has no preference.
    pub(crate) fn preference(&self) -> &[Scope] {
        match self.mode {
            BalanceMode::Unspecified | BalanceMode::Passthrough => &[],
            BalanceMode::Strict | BalanceMode::Failover => &self.routing_preference,
        }
    }
}

/// What two ends have in common (Istio `LoadBalancing.Scope`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Same region.
    Region,
    /// Same region and zone.
    Zone,
    /// Same region, zone and subzone.
    Subzone,
    /// Same node.
    Node,
    /// Same cluster.
    Cluster,
    /// Same network.
    Network,
}

impl Scope {
    /// What two workloads have in common here when it is equal.
    pub(crate) fn values(self, workload: &Workload) -> [&str; 3] {
        let place = &workload.locality;
        match self {
            Self::Region => [&place.region, "", ""],
            Self::Zone => [&place.region, &place.zone, ""],
            Self::Subzone => [&place.region, &place.zone, &place.subzone],
            Self::Node => [&workload.node, "", ""],
            Self::Cluster => [&workload.cluster, "", ""],
            Self::Network => [&workload.network.0, "", ""],
        }
    }
}

/// Istio `LoadBalancing.Mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BalanceMode {
    /// No preference.
    #[default]
    Unspecified,
    /// Only endpoints that match every scope.
    Strict,
    /// Those that match most scopes, then the others.
    Failover,
    /// Straight to the original destination when there is no endpoint.
    Passthrough,
}

/// Istio `LoadBalancing.HealthPolicy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthPolicy {
    /// Only healthy endpoints.
    #[default]
    OnlyHealthy,
    /// All endpoints.
    AllowAll,
}

/// Istio `IPFamilies`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IpFamilies {
    /// Whatever its addresses say.
    #[default]
    Automatic,
    /// IPv4 only.
    V4Only,
    /// IPv6 only.
    V6Only,
    /// Both.
    Dual,
}

impl IpFamilies {
    /// Whether an address is of one of them.
    pub fn include(self, ip: IpAddr) -> bool {
        match self {
            Self::Automatic | Self::Dual => true,
            Self::V4Only => ip.is_ipv4(),
            Self::V6Only => ip.is_ipv6(),
        }
    }
}

/// Istio `Visibility`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// The whole mesh.
    #[default]
    Public,
    /// Its own namespace.
    Namespace,
}
