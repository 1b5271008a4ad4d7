// SPDX-License-Identifier: Apache-2.0
//! What a waypoint is asked for, and where that is from there.
//!
//! A waypoint is no open proxy: only services and workloads that name it as theirs are served. Dialing is the shell's.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use mesh::{Index, Service, ServiceName, Workload, WorkloadUid, service::AppProtocol};

use crate::{
    answer::{Answer, Missing, Stop},
    authority::Authority,
    failure::{Failure, What},
    flow::{Flow, Local},
    outbound::{Beyond, Hop, Transport, belongs, beyond},
};

/// What a tunnel to a waypoint asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addressed {
    /// The service or workload.
    pub target: Target,
    /// Port of the service, or of the workload.
    pub port: u16,
    /// What is declared to be spoken there.
    pub protocol: AppProtocol,
    /// The address that was asked for; unspecified where it was a name without addresses.
    pub asked: SocketAddr,
}

/// A service or a workload that a waypoint serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A service: any of its endpoints.
    Service(Arc<Service>),
    /// This very workload.
    Workload(Arc<Workload>),
}

impl Target {
    /// The service, if it is one.
    pub fn service(&self) -> Option<&Arc<Service>> {
        match self {
            Self::Service(service) => Some(service),
            Self::Workload(_) => None,
        }
    }

    /// The namespace that it belongs to.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Service(service) => &service.namespace,
            Self::Workload(workload) => &workload.namespace,
        }
    }
}

/// Finds what is asked for by a client of a namespace.
pub fn addressed(
    index: &Index,
    local: &Local,
    client: &str,
    authority: &Authority,
) -> Answer<Result<Addressed, Failure>> {
    find(index, local, client, authority).into()
}

fn find(index: &Index, local: &Local, client: &str, authority: &Authority) -> Result<Addressed, Stop> {
    let own = local.own(index)?;
    let unserved = || Stop::from(Missing::Served(authority.clone()));
    match authority {
        Authority::Address(asked) => {
            let at = local.at(asked.ip());
            if let Some(workload) = index.workload_at(&at) {
                let is_ours =
                    workload.waypoint.as_ref().is_some_and(|waypoint| belongs(index, own, waypoint));
                return if is_ours { Ok(of_workload(index, workload, *asked)) } else { Err(unserved()) };
            }
            let service = index.service_at(&at, client).filter(|service| serves(index, own, service));
            of_service(service.ok_or_else(unserved)?, *asked)
        }
        Authority::Host { hostname, port } => {
            let mut services = index.services_of_host(hostname, client);
            let service = services.find(|service| serves(index, own, service)).ok_or_else(unserved)?;
            of_service(service, SocketAddr::new(address_of(service, local), *port))
        }
    }
}

fn serves(index: &Index, own: &Workload, service: &Service) -> bool {
    let weighted = service.weighted_waypoints.iter().map(|weighted| &weighted.destination);
    weighted.chain(&service.waypoint).any(|waypoint| belongs(index, own, waypoint))
}

/// An address by which the service is known here, for the choice between address families.
pub fn address_of(service: &Service, local: &Local) -> IpAddr {
    let here = service.vips.iter().filter(|vip| vip.network == local.network);
    here.filter_map(mesh::service::Vip::address).next().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

fn of_service(service: &Arc<Service>, asked: SocketAddr) -> Result<Addressed, Stop> {
    let Some(port) = service.ports.get(&asked.port()) else { return Err(What::NoService.into()) };
    let target = Target::Service(Arc::clone(service));
    Ok(Addressed { target, port: asked.port(), protocol: port.protocol, asked })
}

fn of_workload(index: &Index, workload: &Arc<Workload>, asked: SocketAddr) -> Addressed {
    let protocol = workload.services.keys().find_map(|name| declared(index, workload, name, asked.port()));
    Addressed {
        target: Target::Workload(Arc::clone(workload)),
        port: asked.port(),
        protocol: protocol.unwrap_or_default(),
        asked,
    }
}

/// What a service says of the port of a workload.
fn declared(index: &Index, workload: &Workload, name: &ServiceName, port: u16) -> Option<AppProtocol> {
    let service = index.service(name)?;
    let leads_here = |known: &u16| mesh::balance::target_port(service, workload, *known) == Some(port);
    let known = service.ports.keys().find(|known| leads_here(known))?;
    let declared = service.ports.get(known)?.protocol;
    (declared != AppProtocol::Unknown).then_some(declared)
}

/// Where a flow goes from here: to an endpoint of the service, or to the workload. The flow's destination carries the
/// port.
pub fn hop(
    index: &Index,
    local: &Local,
    flow: &Flow,
    target: &Target,
    avoid: &HashSet<WorkloadUid>,
) -> Answer<Result<Hop, Failure>> {
    let hop = match target {
        Target::Service(service) => {
            let name = service.key();
            let hop = beyond(index, local, flow, avoid, Beyond::Service(&name));
            hop.map(|hop| secured(index, flow, &name, hop))
        }
        Target::Workload(workload) => beyond(index, local, flow, avoid, Beyond::Workload(&workload.uid)),
    };
    hop.into()
}

/// Where a flow goes whose endpoint was chosen by a key, a turn or a session. It fails where that is no endpoint any more.
pub fn endpoint(
    index: &Index,
    local: &Local,
    flow: &Flow,
    (service, uid): (&ServiceName, &WorkloadUid),
) -> Answer<Result<Hop, Failure>> {
    let hop = beyond(index, local, flow, &HashSet::new(), Beyond::Endpoint(service, uid));
    hop.map(|hop| secured(index, flow, service, hop)).into()
}

/// With the TLS that is said for the port. A tunnel proves more, to both ends, and stays as it is.
fn secured(index: &Index, flow: &Flow, service: &ServiceName, hop: Hop) -> Hop {
    let tls = match hop.transport {
        Transport::Plain(_) | Transport::Passthrough(_) => {
            index.traffic(service).and_then(|traffic| traffic.tls.get(&flow.destination.port()))
        }
        Transport::Tunnel(_) | Transport::Nested { .. } => None,
    };
    Hop { tls: tls.map(Arc::clone), ..hop }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh::{
        Change, Hostname, Traffic,
        l7::{ServerTls, tls::Roots},
        service::{BalanceMode, ServicePort},
        workload::TunnelProtocol,
    };

    use super::*;
    use crate::{
        fixtures::{gateway_named, index, local, memberships, ready, service, workload},
        flow::{Protocol, Resolved},
    };

    /// A service `web` behind a waypoint of its own, and `other` behind none.
    fn shop() -> (Index, Local) {
        let gate = service("gate", &["10.1.0.1"]);
        let mut web = service("web", &["10.1.0.2"]);
        web.waypoint = Some(gateway_named(gate.key()));
        let declared = ServicePort { target: Some(8080), protocol: AppProtocol::Http11 };
        web.ports.insert(80, declared);
        let other = service("other", &["10.1.0.3"]);
        let mut waypoint = workload("gate", &["10.0.0.1"]);
        waypoint.services = memberships(&[(&gate, &[])]);
        let mut pod = workload("web", &["10.0.0.2"]);
        pod.services = memberships(&[(&web, &[])]);
        let mut bound = workload("bound", &["10.0.0.3"]);
        bound.waypoint = Some(gateway_named(gate.key()));
        let local = local(&waypoint);
        let services = [gate, web, other].map(Change::Service);
        let workloads = [waypoint, pod, bound].map(Change::Workload);
        (index(services.into_iter().chain(workloads)), local)
    }

    fn ask(authority: &str) -> Answer<Result<Addressed, Failure>> {
        let (index, local) = shop();
        addressed(&index, &local, "shop", &authority.parse().unwrap())
    }

    #[test]
    fn what_names_this_waypoint_is_served_by_address_and_by_name() {
        for authority in ["10.1.0.2:80", "web.shop.svc.cluster.local:80"] {
            let found = ready(ask(authority));
            assert_eq!(
                found.target.service().map(|service| service.name.as_str()),
                Some("web"),
                "{authority}"
            );
            assert_eq!((found.port, found.protocol), (80, AppProtocol::Http11));
            assert_eq!(found.asked, "10.1.0.2:80".parse().unwrap());
        }
        let found = ready(ask("10.0.0.3:9000"));
        assert!(matches!(found.target, Target::Workload(workload) if workload.name == "bound"));
    }

    #[test]
    fn nothing_else_is_served() {
        for authority in
            ["10.1.0.3:80", "10.0.0.2:80", "10.9.9.9:80", "other.shop.svc.cluster.local:80", "x.example:1"]
        {
            let Answer::Needs(missing) = ask(authority) else { panic!("{authority} is served") };
            assert_eq!(missing.failure(), What::NotServed(authority.to_owned()));
        }
        assert_eq!(crate::fixtures::failed(ask("10.1.0.2:81")), What::NoService);
    }

    fn to(asked: SocketAddr) -> Flow {
        Flow {
            protocol: Protocol::TCP,
            source: "10.0.0.9:4000".parse().unwrap(),
            destination: asked,
            seed: 1,
            resolved: Resolved::default(),
        }
    }

    #[test]
    fn from_a_waypoint_the_way_leads_to_an_endpoint() {
        let (index, local) = shop();
        let found = ready(addressed(&index, &local, "shop", &"10.1.0.2:80".parse().unwrap()));
        let hop = ready(hop(&index, &local, &to(found.asked), &found.target, &HashSet::new()));
        let Transport::Tunnel(tunnel) = &hop.transport else { panic!("{hop:?}") };
        assert_eq!(tunnel.address, "10.0.0.2:15008".parse().unwrap());
        assert_eq!(tunnel.authority.to_string(), "10.0.0.2:8080");
    }

    /// The hops to `web`'s port, by both ways to choose an endpoint.
    fn hops(index: &Index, local: &Local, port: u16) -> Vec<Hop> {
        let asked = SocketAddr::new("10.1.0.2".parse().unwrap(), port);
        let service = index.service(&"shop/web.shop.svc.cluster.local".parse().unwrap()).unwrap();
        let any = hop(index, local, &to(asked), &Target::Service(Arc::clone(service)), &HashSet::new());
        let uid = WorkloadUid::parse("Kubernetes//Pod/shop/web").unwrap();
        let that = (index.workload(&uid).is_some())
            .then(|| ready(endpoint(index, local, &to(asked), (&service.key(), &uid))));
        std::iter::once(ready(any)).chain(that).collect()
    }

    #[test]
    fn servers_outside_the_mesh_are_spoken_to_by_the_tls_of_their_port() {
        let (mut index, local) = shop();
        let mut web = service("web", &["10.1.0.2"]);
        web.waypoint = Some(gateway_named("shop/gate.shop.svc.cluster.local".parse().unwrap()));
        let also = ServicePort { target: Some(8081), protocol: AppProtocol::Unknown };
        web.ports.insert(81, also);
        let hostname = Hostname::parse("api.example.com").unwrap();
        let tls = Arc::new(ServerTls { hostname, names: Vec::new(), roots: Roots::System });
        let tls = BTreeMap::from([(80, tls)]);
        index.apply(Change::Traffic(Traffic { tls: tls.clone(), ..Traffic::plain(web.key()) }));
        index.apply(Change::Service(web.clone()));
        assert!(hops(&index, &local, 80).iter().all(|hop| hop.tls.is_none()), "a tunnel proves more");

        let mut pod = workload("web", &["10.0.0.2"]);
        (pod.services, pod.tunnel) = (memberships(&[(&web, &[])]), TunnelProtocol::None);
        index.apply(Change::Workload(pod.clone()));
        for (port, expected) in [(80, tls.get(&80)), (81, None)] {
            for hop in hops(&index, &local, port) {
                assert!(matches!(hop.transport, Transport::Plain(_)), "{hop:?}");
                assert_eq!(hop.tls.as_ref(), expected, "{port}");
            }
        }

        web.load_balancing.mode = BalanceMode::Passthrough;
        index.apply(Change::Service(web));
        index.apply(Change::WorkloadGone(pod.uid));
        let hop = hops(&index, &local, 80).remove(0);
        assert!(matches!(hop.transport, Transport::Passthrough(_)), "{hop:?}");
        assert_eq!(hop.tls.as_ref(), tls.get(&80));
    }
}
