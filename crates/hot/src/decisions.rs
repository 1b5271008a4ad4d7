// SPDX-License-Identifier: Apache-2.0
//! Decisions on a connection, in a mesh that is large.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};
use mesh::{
    Change, Index, Policy, Service, SpiffeId, Workload,
    authz::{Subject, Verdict, authorize as judge},
    name::{Hostname, Network, TrustDomain, WorkloadUid},
    policy::{Action, Clause, Match, PolicyScope, Rule, StringMatch},
    service::{IpFamilies, LoadBalancing, ServicePort, Vip, Visibility},
    workload::{Health, Locality, NetworkMode, TunnelProtocol, WorkloadType},
};
use plan::{Answer, Flow, Local, Protocol, Resolved, outbound::decide};

use crate::path::Work;

const CONNECTIONS: u32 = 1_000;
const POLICIES: u32 = 10_000;
const RULES: u32 = 10;
const SERVICES: u32 = 100;
const ENDPOINTS: u32 = 10;

/// Every policy holds for the workload, and each connection is let in by another.
pub(crate) fn authorize() -> Result<Work> {
    let mut index = Index::new();
    for number in 0..POLICIES {
        index.apply(Change::Policy(policy(number)?));
    }
    let own = workload("web", Ipv4Addr::new(10, 0, 0, 1), &Arc::default())?;
    let subjects: Result<Vec<Subject>> =
        (0..CONNECTIONS).map(|number| subject(number * 7 % POLICIES)).collect();
    let subjects = subjects?;
    Ok(Box::new(move || {
        for subject in &subjects {
            let judgement = judge(&index, &own, subject).ok().context("a policy is missing")?;
            ensure!(matches!(judgement.verdict, Verdict::Allowed(_)), "{judgement:?}");
        }
        Ok(())
    }))
}

/// Of ten rules one names a range, one a port and the others an identity each.
fn policy(number: u32) -> Result<Policy> {
    let rule = |rule: u32| {
        let mut fields = Match::default();
        match rule {
            0 => {
                fields.source_ips = vec![format!("10.{}.{}.0/24", 100 + number / 256, number % 256).parse()?]
            }
            1 => fields.destination_ports = vec![u16::try_from(10_000 + number)?],
            _ => {
                let principal = format!("cluster.local/ns/n{number}/sa/a{rule}");
                fields.principals = vec![StringMatch::Exact(principal.into())];
            }
        }
        Ok(Rule { clauses: vec![Clause { matches: vec![fields] }] })
    };
    Ok(Policy {
        name: format!("shop/p{number}").parse()?,
        scope: PolicyScope::Namespace,
        action: Action::Allow,
        rules: (0..RULES).map(rule).collect::<Result<_>>()?,
        dry_run: false,
    })
}

fn subject(policy: u32) -> Result<Subject> {
    let identity: SpiffeId = format!("spiffe://cluster.local/ns/n{policy}/sa/a{}", RULES - 1).parse()?;
    Ok(Subject {
        source: SocketAddr::from(([10, 0, 1, 1], 40_000)),
        identity: Some(identity),
        destination: SocketAddr::from(([10, 0, 0, 1], 8080)),
    })
}

pub(crate) fn outbound() -> Result<Work> {
    let mut index = Index::new();
    let client = workload("client", Ipv4Addr::new(10, 0, 0, 1), &Arc::default())?;
    let local = Local {
        workload: client.key(),
        network: Network::default(),
        cluster: client.cluster.clone(),
        synced: true,
        preserve_source: true,
        tunnel_on_loopback: false,
    };
    index.apply(Change::Workload(client));
    let ports = BTreeMap::from([(80, ServicePort { target: Some(8080), ..ServicePort::default() })]);
    for number in 0..SERVICES {
        let service = service(number, &ports)?;
        let member = Arc::new([(service.key(), ports.clone())].into_iter().collect());
        index.apply(Change::Service(service));
        for endpoint in 0..ENDPOINTS {
            let address = Ipv4Addr::from_bits(0x0a01_0000 + number * ENDPOINTS + endpoint);
            index.apply(Change::Workload(workload(&format!("s{number}-{endpoint}"), address, &member)?));
        }
    }
    let flows: Vec<Flow> = (0..CONNECTIONS).map(flow).collect();
    Ok(Box::new(move || {
        let avoid = HashSet::new();
        for flow in &flows {
            match decide(&index, &local, flow, &avoid) {
                Answer::Ready(Ok(hop)) if hop.authority().is_some() => {}
                other => bail!("{other:?}"),
            }
        }
        Ok(())
    }))
}

fn flow(number: u32) -> Flow {
    Flow {
        protocol: Protocol::TCP,
        source: SocketAddr::from(([10, 0, 0, 1], 40_000)),
        destination: SocketAddr::new(vip(number % SERVICES), 80),
        seed: u64::from(number),
        resolved: Resolved::default(),
    }
}

fn vip(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0x0a60_0000 + number).into()
}

fn service(number: u32, ports: &BTreeMap<u16, ServicePort>) -> Result<Service> {
    Ok(Service {
        name: format!("s{number}").into(),
        namespace: "shop".into(),
        hostname: Hostname::parse(&format!("s{number}.shop.svc.cluster.local"))?,
        vips: vec![Vip { network: Network::default(), net: vip(number).into() }],
        ports: ports.clone(),
        subject_alt_names: Vec::new(),
        waypoint: None,
        weighted_waypoints: Vec::new(),
        load_balancing: LoadBalancing::default(),
        ip_families: IpFamilies::Automatic,
        canonical: true,
        ingress_use_waypoint: false,
        visibility: Visibility::Public,
    })
}

fn workload(name: &str, address: Ipv4Addr, services: &Arc<mesh::workload::Memberships>) -> Result<Workload> {
    Ok(Workload {
        uid: WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}"))?,
        name: name.into(),
        namespace: "shop".into(),
        trust_domain: TrustDomain::parse("cluster.local")?,
        service_account: name.into(),
        addresses: vec![address.into()],
        hostname: None,
        network: Network::default(),
        network_gateway: None,
        network_mode: NetworkMode::Standard,
        tunnel: TunnelProtocol::Hbone,
        native_tunnel: false,
        application_tunnel: None,
        waypoint: None,
        node: "n1".into(),
        locality: Locality::default(),
        cluster: "Kubernetes".into(),
        canonical_name: name.into(),
        canonical_revision: "v1".into(),
        workload_type: WorkloadType::Pod,
        workload_name: name.into(),
        policies: Vec::new(),
        services: Arc::clone(services),
        health: Health::Healthy,
        capacity: 1,
    })
}
