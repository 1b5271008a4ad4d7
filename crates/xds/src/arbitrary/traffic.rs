// SPDX-License-Identifier: Apache-2.0
//! Arbitrary traffic of services.

use mesh::l7::traffic::{Balancer, Budget, HashOn, Limits, Traffic};
use proptest::{option, prelude::*};

use super::{
    any_text,
    route::{duration, header_name, persistence},
    service_name,
};

fn hash_on() -> impl Strategy<Value = HashOn> {
    prop_oneof![
        Just(HashOn::SourceIp),
        header_name().prop_map(HashOn::Header),
        any_text().prop_map(HashOn::Cookie),
        any_text().prop_map(HashOn::Query),
    ]
}

fn balancer() -> impl Strategy<Value = Balancer> {
    prop_oneof![
        Just(Balancer::PeakEwma),
        Just(Balancer::LeastRequest),
        Just(Balancer::RoundRobin),
        Just(Balancer::Random),
        hash_on().prop_map(Balancer::RingHash),
        hash_on().prop_map(Balancer::Maglev),
    ]
}

prop_compose! {
    /// Any traffic.
    pub(crate) fn traffic()(
        service in service_name(), balancer in balancer(), persistence in option::of(persistence()),
        budget in option::of((0_u8..=100, duration(), any::<u32>(), duration())),
        active in option::of(any::<u32>()), waiting in option::of(any::<u32>()),
    ) -> Traffic {
        let budget = budget.map(|(percent, interval, least, least_interval)| Budget {
            percent, interval, least, least_interval,
        });
        Traffic { service, balancer, persistence, budget, limits: Limits { active, waiting } }
    }
}
