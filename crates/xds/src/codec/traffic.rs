// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Traffic`. All of it decides where requests go, so nothing of it may be unknown.

use std::time::Duration;

use mesh::l7::traffic::{Balancer, Budget, HashOn, Limits, Traffic};
use proto::waypoint as wire;
use wire::{Balancer as WireBalancer, hash_on::On};

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
