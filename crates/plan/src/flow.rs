// SPDX-License-Identifier: Apache-2.0
//! What a decision is about: one flow, and the workload on whose behalf it is decided.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arcstr::ArcStr;
use mesh::{Hostname, Index, Network, NetworkAddress, Workload, WorkloadKey};

use crate::{answer::Missing, failure::What};

/// The workload whose traffic this is, and how its node proxy is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// What the node knows of it.
    pub workload: WorkloadKey,
    /// Network of this node.
    pub network: Network,
    /// Cluster of this node.
    pub cluster: ArcStr,
    /// Whether the first push of addresses and of policies has been applied.
    pub synced: bool,
    /// Whether applications see the client's address (needs `IP_TRANSPARENT`).
    pub preserve_source: bool,
    /// Whether application tunnels with a PROXY header are delivered on loopback.
    pub tunnel_on_loopback: bool,
}

impl Local {
    /// The workload itself, once discovery has told everything. In a mesh of several clusters others may have the same
    /// key: the one of this cluster and network is meant.
    pub fn own<'a>(&self, index: &'a Index) -> Result<&'a Arc<Workload>, Missing> {
        if !self.synced {
            return Err(Missing::Sync);
        }
        index
            .workloads_named(&self.workload)
            .min_by_key(|known| (known.cluster != self.cluster, known.network != self.network))
            .ok_or_else(|| Missing::Workload(self.workload.clone()))
    }

    /// An address on the network of this node.
    pub(crate) fn at(&self, ip: IpAddr) -> NetworkAddress {
        NetworkAddress::new(self.network.clone(), ip)
    }
}

/// One captured outbound flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Where it comes from; canonical.
    pub source: SocketAddr,
    /// Where the application sent it; canonical.
    pub destination: SocketAddr,
    /// Source of chance: the same seed gives the same choice.
    pub seed: u64,
    /// Host names resolved for it so far.
    pub resolved: Resolved,
}

/// IP protocol number (IANA).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// TCP.
    pub const TCP: Self = Self(6);

    /// Only TCP can be carried so far.
    pub(crate) fn carried(self) -> Result<(), What> {
        if self == Self::TCP { Ok(()) } else { Err(What::UnsupportedProtocol(self.0)) }
    }
}

/// Host names and what they resolved to; an empty list says that the name has no address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved(Vec<(Hostname, Vec<IpAddr>)>);

impl Resolved {
    /// Adds the result for a name, in place of an earlier one.
    pub fn insert(&mut self, hostname: Hostname, addresses: Vec<IpAddr>) {
        self.0.retain(|(known, _)| *known != hostname);
        self.0.push((hostname, addresses));
    }

    /// The result for a name; `None` when it has not been resolved.
    pub fn addresses(&self, hostname: &Hostname) -> Option<&[IpAddr]> {
        self.0.iter().find(|(known, _)| known == hostname).map(|(_, addresses)| addresses.as_slice())
    }
}
