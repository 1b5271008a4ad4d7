// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Traffic`. All of it decides where requests go, so nothing of it may be unknown.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use mesh::{
    Hostname,
    l7::{
        tls::{Root, Roots, ServerTls, SubjectName},
        traffic::{Balancer, Budget, HashOn, Limits, Traffic},
    },
};
use proto::waypoint as wire;
use wire::{Balancer as WireBalancer, hash_on::On, port_tls::Roots as WireRoots, subject_name::Of};

use super::{
    field::{self, FieldError, In, Problem},
    route::{header_name, micros, persistence, persistence_message, service, service_message},
};

/// From the wire.
pub(super) fn decode(message: &wire::Traffic) -> Result<Traffic, FieldError> {
    let on = || hash_on(message.hash_on.as_ref()).field("hash_on");
    let balancer = match field::known(message.balancer).field("balancer")? {
        WireBalancer::PeakEwma => Balancer::PeakEwma,
        WireBalancer::LeastRequest => Balancer::LeastRequest,
        WireBalancer::RoundRobin => Balancer::RoundRobin,
        WireBalancer::Random => Balancer::Random,
        WireBalancer::RingHash => Balancer::RingHash(on()?),
        WireBalancer::Maglev => Balancer::Maglev(on()?),
    };
    Ok(Traffic {
        service: service(message.service.as_ref()).field("service")?,
        balancer,
        persistence: message.persistence.as_ref().map(persistence).transpose()?,
        budget: message.retry_budget.as_ref().map(budget).transpose()?,
        limits: Limits { active: message.active, waiting: message.waiting },
        tls: ports(&message.tls).field("tls")?,
    })
}

/// To the wire.
pub(super) fn encode(traffic: &Traffic) -> wire::Traffic {
    let (balancer, on) = match &traffic.balancer {
        Balancer::PeakEwma => (WireBalancer::PeakEwma, None),
        Balancer::LeastRequest => (WireBalancer::LeastRequest, None),
        Balancer::RoundRobin => (WireBalancer::RoundRobin, None),
        Balancer::Random => (WireBalancer::Random, None),
        Balancer::RingHash(on) => (WireBalancer::RingHash, Some(on)),
        Balancer::Maglev(on) => (WireBalancer::Maglev, Some(on)),
    };
    wire::Traffic {
        service: Some(service_message(&traffic.service)),
        balancer: balancer.into(),
        hash_on: on.map(hash_on_message),
        persistence: traffic.persistence.as_ref().map(persistence_message),
        retry_budget: traffic.budget.map(|budget| wire::RetryBudget {
            percent: budget.percent.into(),
            interval: micros(budget.interval),
            least: budget.least,
            least_interval: micros(budget.least_interval),
        }),
        active: traffic.limits.active,
        waiting: traffic.limits.waiting,
        tls: traffic.tls.iter().map(|(port, tls)| port_message(*port, tls)).collect(),
    }
}

fn hash_on(message: Option<&wire::HashOn>) -> Result<HashOn, Problem> {
    Ok(match message.and_then(|message| message.on.as_ref()).ok_or(Problem::Missing)? {
        On::SourceIp(_) => HashOn::SourceIp,
        On::Header(name) => HashOn::Header(header_name(name)?),
        On::Cookie(name) => HashOn::Cookie(name.into()),
        On::Query(name) => HashOn::Query(name.into()),
    })
}

fn hash_on_message(on: &HashOn) -> wire::HashOn {
    let on = match on {
        HashOn::SourceIp => On::SourceIp(true),
        HashOn::Header(name) => On::Header(name.to_string()),
        HashOn::Cookie(name) => On::Cookie(name.to_string()),
        HashOn::Query(name) => On::Query(name.to_string()),
    };
    wire::HashOn { on: Some(on) }
}

fn budget(message: &wire::RetryBudget) -> Result<Budget, FieldError> {
    let percent = u8::try_from(message.percent).ok().filter(|percent| *percent <= 100);
    let wrong = || Problem::Text { what: "share in percent", value: message.percent.to_string() };
    Ok(Budget {
        percent: percent.ok_or_else(wrong).field("retry_budget.percent")?,
        interval: Duration::from_micros(message.interval),
        least: message.least,
        least_interval: Duration::from_micros(message.least_interval),
    })
}

fn ports(messages: &[wire::PortTls]) -> Result<BTreeMap<u16, Arc<ServerTls>>, Problem> {
    let mut ports = BTreeMap::new();
    for message in messages {
        let wrong = Problem::Port { port: message.port };
        // Of two settings of one port neither is the one that is meant.
        let Some(port) = field::port(message.port)?.filter(|port| !ports.contains_key(port)) else {
            return Err(wrong);
        };
        ports.insert(port, Arc::new(server_tls(message)?));
    }
    Ok(ports)
}

fn server_tls(message: &wire::PortTls) -> Result<ServerTls, Problem> {
    let roots = match message.roots.as_ref().ok_or(Problem::Missing)? {
        WireRoots::System(_) => Roots::System,
        WireRoots::Only(only) => Roots::Only(only.der.iter().map(|der| Root(der.as_ref().into())).collect()),
    };
    let names = message.names.iter().map(subject_name).collect::<Result<_, _>>()?;
    Ok(ServerTls { hostname: hostname(&message.hostname)?, names, roots })
}

fn subject_name(message: &wire::SubjectName) -> Result<SubjectName, Problem> {
    Ok(match message.of.as_ref().ok_or(Problem::Missing)? {
        Of::Dns(name) => SubjectName::Dns(hostname(name)?),
        Of::Uri(uri) => SubjectName::Uri(uri.into()),
    })
}

fn hostname(text: &str) -> Result<Hostname, Problem> {
    Hostname::parse(text).map_err(Problem::Name)
}

fn port_message(port: u16, tls: &ServerTls) -> wire::PortTls {
    let name = |name: &SubjectName| {
        let of = match name {
            SubjectName::Dns(name) => Of::Dns(name.to_string()),
            SubjectName::Uri(uri) => Of::Uri(uri.to_string()),
        };
        wire::SubjectName { of: Some(of) }
    };
    let roots = match &tls.roots {
        Roots::System => WireRoots::System(true),
        Roots::Only(roots) => {
            let der = roots.iter().map(|root| Bytes::copy_from_slice(&root.0)).collect();
            WireRoots::Only(wire::Certificates { der })
        }
    };
    wire::PortTls {
        port: port.into(),
        hostname: tls.hostname.to_string(),
        names: tls.names.iter().map(name).collect(),
        roots: Some(roots),
    }
}
