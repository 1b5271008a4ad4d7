// SPDX-License-Identifier: Apache-2.0
//! Whether an inbound connection is let in, and how it is delivered to the application.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use arcstr::ArcStr;
use mesh::{
    Hostname, Index, Service, SpiffeId, Workload,
    authz::{self, Judgement, Subject, Verdict},
    balance,
    workload::{ApplicationTunnel, ApplicationTunnelProtocol},
};

use crate::{
    OWN_PORTS,
    answer::{Answer, Missing, Stop},
    authority::Authority,
    failure::{Failure, What},
    flow::{Local, Protocol},
    forwarded,
    outbound::belongs,
};

/// A CONNECT that arrived by a tunnel. Header values are as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Transport protocol of the flow.
    pub protocol: Protocol,
    /// The peer of the TCP connection; canonical.
    pub source: SocketAddr,
    /// Identity of the peer as its certificate proves it.
    pub identity: SpiffeId,
    /// The address of this side of the TCP connection; canonical.
    pub local: SocketAddr,
    /// `:authority`.
    pub authority: &'a str,
    /// Header `forwarded`.
    pub forwarded: Option<&'a str>,
    /// Header `x-forwarded-network`.
    pub forwarded_network: Option<&'a str>,
}

/// A plaintext connection that was captured on its way in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// Transport protocol of the flow.
    pub protocol: Protocol,
    /// The peer; canonical.
    pub source: SocketAddr,
    /// Where it was going: an address of the workload; canonical.
    pub destination: SocketAddr,
}

/// How a connection is delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where to dial.
    pub address: SocketAddr,
    /// From which address.
    pub from: From,
    /// Header of the PROXY protocol to send first.
    pub proxy: Option<ProxyHeader>,
    /// What was judged: keep it to ask again with [`still_allowed`].
    pub subject: Subject,
    /// The judgement, with policies under trial.
    pub judgement: Judgement,
    /// The workload that is reached.
    pub destination: Arc<Workload>,
    /// The service that the client meant, as far as it says so or the port tells.
    pub service: Option<Arc<Service>>,
    /// The workload that connects: the one at its address, if that has the identity of the peer. Never across networks.
    pub source: Option<Arc<Workload>>,
}

/// Source address of the connection to the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The client's address, any port.
    Client(IpAddr),
    /// Whatever the kernel chooses.
    Any,
}

/// What the header of the PROXY protocol, version 2, says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client.
    pub source: SocketAddr,
    /// What it asked for.
    pub destination: SocketAddr,
    /// TLV 0xD0: identity of the client.
    pub identity: ArcStr,
}

/// Decides about a CONNECT.
pub fn decide(index: &Index, local: &Local, connect: &Connect<'_>) -> Answer<Result<Upstream, Failure>> {
    admit(index, local, connect).into()
}

/// Decides about a plaintext connection: it is judged as one of nobody.
pub fn decide_plain(index: &Index, local: &Local, plain: &Plain) -> Answer<Result<Upstream, Failure>> {
    admit_plain(index, local, plain).into()
}

/// Asks again about an open connection after policies changed. What is missing is waited for as for a new connection;
/// when it does not come, the connection ends. While the workload itself is not known, nothing is known against the
/// connection: `Touched::selections` tells when to ask again.
pub fn still_allowed(index: &Index, local: &Local, subject: &Subject) -> Answer<Result<(), Failure>> {
    let verdict = match local.own(index) {
        Err(Missing::Workload(_)) => return Answer::Ready(Ok(())),
        Err(missing) => return Answer::Needs(missing),
        Ok(own) => authz::authorize(index, own, subject).map(|judgement| judgement.verdict),
    };
    match verdict {
        Err(authz::Missing(policy)) => Answer::Needs(Missing::Policy(policy)),
        Ok(Verdict::Open | Verdict::Allowed(_)) => Answer::Ready(Ok(())),
        Ok(Verdict::Denied(policy) | Verdict::NotAllowed(policy)) => {
            Answer::Ready(Err(What::PolicyChanged(policy).into()))
        }
    }
}

fn admit(index: &Index, local: &Local, connect: &Connect<'_>) -> Result<Upstream, Stop> {
    connect.protocol.carried()?;
    let Ok(authority) = connect.authority.parse() else {
        return Err(What::InvalidAuthority(connect.authority.to_owned()).into());
    };
    let own = local.own(index)?;
    let door = Door { index, local, own, address: connect.local.ip() };
    let target = match &authority {
        Authority::Address(asked) => door.by_address(*asked, connect.forwarded)?,
        Authority::Host { hostname, port } => door.by_name(hostname, *port)?,
    };
    let destination = SocketAddr::new(door.address, target.port);
    let identity = Some(connect.identity.clone());
    let subject = Subject { source: connect.source, identity, destination };
    let judgement = door.judge(&subject)?;
    let proxy = target.tunnel.map(|asked| ProxyHeader {
        source: connect.source,
        destination: asked,
        identity: connect.identity.to_string().into(),
    });
    let on_loopback = proxy.is_some() && local.tunnel_on_loopback;
    let ip = if on_loopback { loopback(door.address) } else { door.address };
    let across = connect.forwarded_network.is_some_and(|network| local.network.0 != network);
    let source =
        door.workload_at(connect.source).filter(|known| !across && known.identity() == connect.identity);
    Ok(Upstream {
        address: SocketAddr::new(ip, target.port),
        from: if on_loopback { From::Any } else { door.from(connect.source) },
        proxy,
        subject,
        judgement,
        destination: Arc::clone(own),
        service: target.service,
        source,
    })
}

fn admit_plain(index: &Index, local: &Local, plain: &Plain) -> Result<Upstream, Stop> {
    plain.protocol.carried()?;
    refuse_own_port(plain.destination)?;
    let own = local.own(index)?;
    let door = Door { index, local, own, address: plain.destination.ip() };
    let subject = Subject { source: plain.source, identity: None, destination: plain.destination };
    let judgement = door.judge(&subject)?;
    Ok(Upstream {
        address: plain.destination,
        from: door.from(plain.source),
        proxy: None,
        subject,
        judgement,
        destination: Arc::clone(own),
        service: door.meant(None, plain.destination.port()),
        source: door.workload_at(plain.source),
    })
}

/// Where connections to one workload come in.
struct Door<'a> {
    index: &'a Index,
    local: &'a Local,
    own: &'a Arc<Workload>,
    /// The workload's address that the connection was made to.
    address: IpAddr,
}

/// What was asked for, resolved.
struct Target {
    /// Port of the workload.
    port: u16,
    /// The service, as far as what was asked for tells.
    service: Option<Arc<Service>>,
    /// What was asked for, where the application wants to be told by a PROXY header.
    tunnel: Option<SocketAddr>,
}

impl Door<'_> {
    /// An address must be the workload's own, or of something that the workload stands in front of.
    fn by_address(&self, asked: SocketAddr, forwarded: Option<&str>) -> Result<Target, Stop> {
        let own = asked.ip() == self.address;
        let tunnel = self.own.application_tunnel;
        if !own && tunnel.is_none() && !self.is_waypoint_of(asked.ip()) {
            return Err(What::IpMismatch { asked: asked.ip(), local: self.address }.into());
        }
        let port = tunnel.and_then(|tunnel| tunnel.port).unwrap_or_else(|| asked.port());
        let service = if own {
            self.meant(forwarded, port)
        } else {
            self.index.service_at(&self.local.at(asked.ip()), &self.own.namespace).map(Arc::clone)
        };
        self.target(port, service, proxied(tunnel, asked))
    }

    /// A name is of a service whose port is mapped here: the client is on another network and cannot know.
    fn by_name(&self, hostname: &Hostname, port: u16) -> Result<Target, Stop> {
        let service = self.service_named(hostname).ok_or(What::NoService)?;
        let Some(tunnel) = self.own.application_tunnel else {
            let port = balance::target_port(&service, self.own, port).ok_or(What::NoService)?;
            return self.target(port, Some(service), None);
        };
        let asked = match tunnel.protocol {
            ApplicationTunnelProtocol::None => None,
            ApplicationTunnelProtocol::Proxy => {
                let vip = self.vip(&service).ok_or(What::NoService)?;
                Some(SocketAddr::new(vip, port))
            }
        };
        self.target(tunnel.port.unwrap_or(port), Some(service), asked)
    }

    fn target(
        &self,
        port: u16,
        service: Option<Arc<Service>>,
        tunnel: Option<SocketAddr>,
    ) -> Result<Target, Stop> {
        refuse_own_port(SocketAddr::new(self.address, port))?;
        Ok(Target { port, service, tunnel })
    }

    /// Address of a service on this network, IPv4 first.
    fn vip(&self, service: &Service) -> Option<IpAddr> {
        let here = service.vips.iter().filter(|vip| vip.network == self.local.network);
        here.filter_map(mesh::service::Vip::address).min_by_key(IpAddr::is_ipv6)
    }

    fn is_endpoint_of(&self, service: &Service) -> bool {
        self.own.services.contains_key(&service.key())
    }

    /// A service by host name: one that the workload belongs to goes first, then its namespace's, then the canonical one.
    fn service_named(&self, hostname: &Hostname) -> Option<Arc<Service>> {
        self.index
            .services_of_host(hostname, &self.own.namespace)
            .min_by_key(|service| {
                let other = service.namespace != self.own.namespace;
                (!self.is_endpoint_of(service), other, !service.canonical)
            })
            .map(Arc::clone)
    }

    /// Whether traffic to an address is to pass the workload first.
    fn is_waypoint_of(&self, ip: IpAddr) -> bool {
        let address = self.local.at(ip);
        let is_ours = |waypoint| belongs(self.index, self.own, waypoint);
        if let Some(workload) = self.index.workload_at(&address) {
            return workload.waypoint.as_ref().is_some_and(is_ours);
        }
        let service = self.index.service_at(&address, &self.own.namespace);
        service.is_some_and(|service| {
            let weighted = service.weighted_waypoints.iter().map(|weighted| &weighted.destination);
            weighted.chain(&service.waypoint).any(is_ours)
        })
    }

    fn judge(&self, subject: &Subject) -> Result<Judgement, Stop> {
        let judgement = authz::authorize(self.index, self.own, subject)
            .map_err(|authz::Missing(policy)| Missing::Policy(policy))?;
        match &judgement.verdict {
            Verdict::Open | Verdict::Allowed(_) => Ok(judgement),
            Verdict::Denied(policy) => Err(What::Denied(policy.clone()).into()),
            Verdict::NotAllowed(policy) => Err(What::NotAllowed(policy.clone()).into()),
        }
    }

    /// A workload that calls itself must not see its own address as the client's: the kernel would take the answer for
    /// its own.
    fn from(&self, source: SocketAddr) -> From {
        if self.local.preserve_source && source.ip() != self.address {
            From::Client(source.ip())
        } else {
            From::Any
        }
    }

    /// The service of the workload that was meant: as the client says, else the first that has the port.
    fn meant(&self, forwarded: Option<&str>, port: u16) -> Option<Arc<Service>> {
        let said = forwarded.and_then(forwarded::host).and_then(|hostname| self.service_named(&hostname));
        said.filter(|service| self.is_endpoint_of(service)).or_else(|| {
            let services = self.own.services.keys().filter_map(|name| self.index.service(name));
            let reaches = |service: &Service| {
                let mut ports = service.ports.keys();
                ports.any(|known| balance::target_port(service, self.own, *known) == Some(port))
            };
            services
                .filter(|service| reaches(service))
                .min_by_key(|service| !service.canonical)
                .map(Arc::clone)
        })
    }

    fn workload_at(&self, source: SocketAddr) -> Option<Arc<Workload>> {
        self.index.workload_at(&self.local.at(source.ip())).map(Arc::clone)
    }
}

fn refuse_own_port(address: SocketAddr) -> Result<(), What> {
    if OWN_PORTS.contains(&address.port()) { Err(What::Recursive(address)) } else { Ok(()) }
}

fn proxied(tunnel: Option<ApplicationTunnel>, asked: SocketAddr) -> Option<SocketAddr> {
    match tunnel?.protocol {
        ApplicationTunnelProtocol::None => None,
        ApplicationTunnelProtocol::Proxy => Some(asked),
    }
}

fn loopback(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests;
