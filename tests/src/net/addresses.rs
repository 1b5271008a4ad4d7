// SPDX-License-Identifier: Apache-2.0
//! The address plan of a lab.
//!
//! ```text
//! fabric    10.20.0.0/24   fd00:20::/64       node k is .k and ::k; parts that belong to no node count down from .254
//! pods      10.20.k.0/24   fd00:20:k::/64     pod x of node k, routed by the node
//! services  10.30.0.0/16   fd00:30::/112      virtual: no host has them
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Prefix lengths of the fabric.
pub const FABRIC_PREFIX: (u8, u8) = (24, 64);
/// What a pod routes its packets to: every node has these addresses on its side of each pod's link.
pub const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(169, 254, 1, 1), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Host number of the control plane on the fabric.
pub const CONTROL: u8 = 254;
/// Host number of the DNS server that stands for the world outside the mesh.
pub const OUTSIDE_DNS: u8 = 253;
/// Host number of a Prometheus.
pub const PROMETHEUS: u8 = 252;

/// The two addresses of one host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Pair {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [IpAddr::V4(self.v4), IpAddr::V6(self.v6)]
    }
}

/// A host on the fabric: a node, or a part that belongs to no node.
#[must_use]
pub fn fabric(host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 20, 0, host),
        v6: Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, u16::from(host)),
    }
}

/// Pod `host` of node `node`.
#[must_use]
pub fn pod(node: u8, host: u8) -> Pair {
    Pair {
        v4: Ipv4Addr::new(10, 20, node, host),
        v6: Ipv6Addr::new(0xfd00, 0x20, u16::from(node), 0, 0, 0, 0, u16::from(host)),
    }
}

/// The virtual addresses of service number `service`.
#[must_use]
pub fn service(service: u16) -> Pair {
    let [high, low] = service.to_be_bytes();
    Pair { v4: Ipv4Addr::new(10, 30, high, low), v6: Ipv6Addr::new(0xfd00, 0x30, 0, 0, 0, 0, 0, service) }
}
