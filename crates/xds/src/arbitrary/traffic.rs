// SPDX-License-Identifier: Apache-2.0
//! Arbitrary traffic of services.

use std::sync::Arc;

use mesh::l7::{
    tls::{Root, Roots, ServerTls, SubjectName},
    traffic::{Balancer, Budget, HashOn, Limits, Traffic},
};
use proptest::{
    collection::{btree_map, vec},
    option,
    prelude::*,
};

use super::{
    any_text, hostname,
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

fn server_tls() -> impl Strategy<Value = Arc<ServerTls>> {
    let name = prop_oneof![hostname().prop_map(SubjectName::Dns), any_text().prop_map(SubjectName::Uri),];
    let root = vec(any::<u8>(), 0..4).prop_map(|der| Root(der.into()));
    let roots = prop_oneof![Just(Roots::System), vec(root, 0..3).prop_map(Roots::Only)];
    (hostname(), vec(name, 0..3), roots)
        .prop_map(|(hostname, names, roots)| Arc::new(ServerTls { hostname, names, roots }))
}

prop_compose! {
    /// Any traffic.
    pub(crate) fn traffic()(
        service in service_name(), balancer in balancer(), persistence in option::of(persistence()),
        budget in option::of((0_u8..=100, duration(), any::<u32>(), duration())),
        active in option::of(any::<u32>()), waiting in option::of(any::<u32>()),
        tls in btree_map(1_u16.., server_tls(), 0..3),
    ) -> Traffic {
        let budget = budget.map(|(percent, interval, least, least_interval)| Budget {
            percent, interval, least, least_interval,
        });
        Traffic { service, balancer, persistence, budget, limits: Limits { active, waiting }, tls }
    }
}
