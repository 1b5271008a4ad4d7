// SPDX-License-Identifier: Apache-2.0
//! Where an outbound flow goes next.
//!
//! Service or workload, waypoint or not, same network or another: the answer is one [`Hop`]. Dialing it, and what it
//! carries, is the shell's.

mod gateway;

pub(crate) use self::gateway::belongs;

use std::{collections::HashSet, net::IpAddr, net::SocketAddr, sync::Arc};

use mesh::{
    Index, Network, Service, ServiceName, SpiffeId, Workload, WorkloadUid,
    balance::{self, Pick, Place, PortMode, Request},
    l7::ServerTls,
    service::BalanceMode,
    workload::{GatewayAddress, TunnelProtocol},
};

use crate::{
    HBONE_PORT, OWN_PORTS,
    answer::{Answer, Missing, Stop},
    authority::Authority,
    failure::{Failure, What},
    flow::{Flow, Local, Protocol},
};

/// What to dial next, how, and whom to expect there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Transport protocol of the flow.
    pub protocol: Protocol,
    /// Where the application sent it.
    pub original: SocketAddr,
    /// Whose flow it is; its certificate is shown to the next hop.
    pub source: Arc<Workload>,
    /// How the next hop is reached.
    pub transport: Transport,
    /// The workload that is dialed: the destination itself, a waypoint or a gateway.
    pub next: Option<Arc<Workload>>,
    /// The workload that the flow is for as far as it is known here: the endpoint, or the waypoint in front of it.
    pub destination: Option<Arc<Workload>>,
    /// The service that was addressed.
    pub service: Option<Arc<Service>>,
    /// Whether an endpoint was taken that was to be avoided, for want of another.
    pub set_aside: bool,
    /// TLS that a waypoint speaks with it; never where a tunnel leads there.
    pub tls: Option<Arc<ServerTls>>,
}

impl Hop {
    /// The endpoint to set aside when this hop fails.
    pub fn endpoint(&self) -> Option<&WorkloadUid> {
        self.next.as_ref().map(|workload| &workload.uid)
    }

    /// Where to dial.
    pub fn address(&self) -> SocketAddr {
        match &self.transport {
            Transport::Passthrough(address) | Transport::Plain(address) => *address,
            Transport::Tunnel(tunnel) | Transport::Nested { outer: tunnel, .. } => tunnel.address,
        }
    }

    /// What the tunnel is asked for; `None` without a tunnel.
    pub fn authority(&self) -> Option<&Authority> {
        match &self.transport {
            Transport::Passthrough(_) | Transport::Plain(_) => None,
            Transport::Tunnel(tunnel) => Some(&tunnel.authority),
            Transport::Nested { inner, .. } => Some(&inner.authority),
        }
    }
}

/// How the next hop is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// As the application sent it: the destination is outside the mesh.
    Passthrough(SocketAddr),
    /// Plain TCP to a workload that accepts no tunnel.
    Plain(SocketAddr),
    /// A tunnel to the destination or its waypoint.
    Tunnel(Tunnel),
    /// A tunnel to the gateway of another network and a second one inside it.
    Nested {
        /// To the gateway.
        outer: Tunnel,
        /// Through it.
        inner: Inner,
    },
}

/// One tunnel (HBONE).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Where to dial.
    pub address: SocketAddr,
    /// What to ask for.
    pub authority: Authority,
    /// The peer must have one of these identities; never empty.
    pub expected: Arc<[SpiffeId]>,
    /// What stands at its end.
    pub end: End,
}

/// What stands at the end of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The destination.
    Workload,
    /// A waypoint in front of it.
    Waypoint,
    /// A gateway of another network.
    Gateway,
}

/// The tunnel inside another; it is never pooled, so that the gateway can balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// What to ask for.
    pub authority: Authority,
    /// The peer must have one of these identities; never empty.
    pub expected: Arc<[SpiffeId]>,
    /// Value of `x-forwarded-network`: where the flow comes from.
    pub forwarded_network: Network,
}

/// Decides where a flow goes next. `avoid` has endpoints set aside, for instance those that just failed for this flow;
/// they are taken only when nothing else is left.
pub fn decide(
    index: &Index,
    local: &Local,
    flow: &Flow,
    avoid: &HashSet<WorkloadUid>,
) -> Answer<Result<Hop, Failure>> {
    hop(index, local, flow, avoid).into()
}

fn hop(index: &Index, local: &Local, flow: &Flow, avoid: &HashSet<WorkloadUid>) -> Result<Hop, Stop> {
    flow.protocol.carried()?;
    if flow.destination.ip().is_loopback() && OWN_PORTS.contains(&flow.destination.port()) {
        return Err(What::Recursive(flow.destination).into());
    }
    let source = local.own(index)?;
    let search = Search { index, local, flow, avoid, source };
    let address = local.at(flow.destination.ip());
    // A workload goes before a service: its address is a fact, a virtual one only an agreement.
    if let Some(workload) = index.workload_at(&address) {
        return search.to_workload(workload);
    }
    match index.service_at(&address, &source.namespace) {
        Some(service) => search.to_service(service),
        None => Ok(search.passthrough(None)),
    }
}

/// What is beyond a waypoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beyond<'a> {
    /// An endpoint of a service.
    Service(&'a ServiceName),
    /// This endpoint of a service.
    Endpoint(&'a ServiceName, &'a WorkloadUid),
    /// A workload itself.
    Workload(&'a WorkloadUid),
}

/// Where a flow goes from its waypoint, whose part is done: no other waypoint comes between.
pub(crate) fn beyond(
    index: &Index,
    local: &Local,
    flow: &Flow,
    avoid: &HashSet<WorkloadUid>,
    target: Beyond<'_>,
) -> Result<Hop, Stop> {
    let search = Search { index, local, flow, avoid, source: local.own(index)? };
    match target {
        Beyond::Service(name) => {
            let Some(service) = index.service(name) else { return Err(What::NoService.into()) };
            search.to_endpoint_of(service)
        }
        Beyond::Endpoint(name, uid) => {
            let Some(service) = index.service(name) else { return Err(What::NoService.into()) };
            let port = PortMode::Service(flow.destination.port());
            let request = Request { source: search.source, port, seed: flow.seed, avoid };
            match balance::select(index, service, &request, uid) {
                Some(pick) => search.to_pick(pick, service),
                None => Err(What::NoHealthyUpstream(flow.destination).into()),
            }
        }
        Beyond::Workload(uid) => {
            let Some(workload) = index.workload(uid) else {
                return Err(What::NoHealthyUpstream(flow.destination).into());
            };
            let set_aside = avoid.contains(uid);
            let pick = Pick { workload: Arc::clone(workload), port: flow.destination.port(), set_aside };
            search.to_endpoint(Target { pick, service: None })
        }
    }
}

/// One search for a hop.
struct Search<'a> {
    index: &'a Index,
    local: &'a Local,
    flow: &'a Flow,
    avoid: &'a HashSet<WorkloadUid>,
    source: &'a Arc<Workload>,
}

/// An endpoint with the service through which it was found.
struct Target<'a> {
    pick: Pick,
    service: Option<&'a Arc<Service>>,
}

impl Target<'_> {
    /// Whom to expect there.
    fn expected(&self) -> Arc<[SpiffeId]> {
        let own = self.pick.workload.identity();
        let others = self.service.map(|service| service.subject_alt_names.as_slice()).unwrap_or_default();
        if others.is_empty() {
            return Arc::new([own]);
        }
        let mut expected = vec![own];
        for name in others {
            if !expected.contains(name) {
                expected.push(name.clone());
            }
        }
        expected.into()
    }
}

impl<'a> Search<'a> {
    /// Traffic addressed to a workload: its waypoint, unless that is who sends it, else the workload.
    fn to_workload(&self, workload: &Arc<Workload>) -> Result<Hop, Stop> {
        match &workload.waypoint {
            Some(waypoint) if !self.is_source(waypoint) => self.to_waypoint(waypoint, None),
            Some(_) | None => {
                let pick = Pick {
                    workload: Arc::clone(workload),
                    port: self.flow.destination.port(),
                    set_aside: self.avoid.contains(&workload.uid),
                };
                self.to_endpoint(Target { pick, service: None })
            }
        }
    }

    /// Traffic addressed to a service: its waypoint, unless that is who sends it, else an endpoint. Waypoints of the
    /// endpoint itself are not for this traffic.
    fn to_service(&self, service: &'a Arc<Service>) -> Result<Hop, Stop> {
        if let Some(waypoint) = self.waypoint_of(service) {
            return self.to_waypoint(waypoint, Some(service));
        }
        self.to_endpoint_of(service)
    }

    fn to_endpoint_of(&self, service: &'a Arc<Service>) -> Result<Hop, Stop> {
        match self.pick(service, PortMode::Service(self.flow.destination.port())) {
            Some(pick) => self.to_pick(pick, service),
            None => match service.load_balancing.mode {
                BalanceMode::Passthrough => Ok(self.passthrough(Some(service))),
                BalanceMode::Unspecified | BalanceMode::Strict | BalanceMode::Failover => {
                    Err(What::NoHealthyUpstream(self.flow.destination).into())
                }
            },
        }
    }

    fn to_pick(&self, pick: Pick, service: &'a Arc<Service>) -> Result<Hop, Stop> {
        let target = Target { pick, service: Some(service) };
        if target.pick.workload.network == self.local.network {
            self.to_endpoint(target)
        } else {
            self.across(target)
        }
    }

    fn to_endpoint(&self, target: Target<'_>) -> Result<Hop, Stop> {
        let ip = self.ip(&target, self.flow.destination)?;
        let address = SocketAddr::new(ip, target.pick.port);
        let transport = match target.pick.workload.tunnel {
            TunnelProtocol::Hbone => Transport::Tunnel(Tunnel {
                address: SocketAddr::new(ip, HBONE_PORT),
                authority: Authority::Address(address),
                expected: target.expected(),
                end: End::Workload,
            }),
            TunnelProtocol::None | TunnelProtocol::LegacyMtls => Transport::Plain(address),
        };
        let workload = &target.pick.workload;
        Ok(Hop {
            next: Some(Arc::clone(workload)),
            destination: Some(Arc::clone(workload)),
            set_aside: target.pick.set_aside,
            ..self.bare(transport, target.service)
        })
    }

    fn passthrough(&self, service: Option<&Arc<Service>>) -> Hop {
        self.bare(Transport::Passthrough(self.flow.destination), service)
    }

    /// A hop that no workload is known for.
    fn bare(&self, transport: Transport, service: Option<&Arc<Service>>) -> Hop {
        Hop {
            protocol: self.flow.protocol,
            original: self.flow.destination,
            source: Arc::clone(self.source),
            transport,
            next: None,
            destination: None,
            service: service.map(Arc::clone),
            set_aside: false,
            tls: None,
        }
    }

    fn pick(&self, service: &Service, port: PortMode) -> Option<Pick> {
        let request = Request { source: self.source, port, seed: self.flow.seed, avoid: self.avoid };
        balance::pick(self.index, service, &request)
    }

    /// Address of an endpoint; `original` is what was asked for.
    fn ip(&self, target: &Target<'_>, original: SocketAddr) -> Result<IpAddr, Stop> {
        let workload = &target.pick.workload;
        match balance::place(workload, target.service.map(Arc::as_ref), original) {
            Place::Ip(ip) => Ok(ip),
            Place::Nowhere => Err(What::NoRoute(format!("{} has no address to use", workload.uid)).into()),
            Place::Resolve(hostname) => {
                let Some(addresses) = self.flow.resolved.addresses(&hostname) else {
                    return Err(Missing::Host(hostname).into());
                };
                balance::choose(addresses, original, self.flow.seed)
                    .ok_or_else(|| What::Unresolved(hostname).into())
            }
        }
    }

    /// Whether the flow comes from that waypoint: what it sends is on its way already.
    fn is_source(&self, waypoint: &GatewayAddress) -> bool {
        belongs(self.index, self.source, waypoint)
    }
}

#[cfg(test)]
mod tests;
