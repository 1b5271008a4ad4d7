// SPDX-License-Identifier: Apache-2.0
//! Attempts at the endpoints of a service, over real sockets of this host.

use std::time::Duration;

use mesh::{Change, Workload};
use tokio::net::TcpListener;

use super::*;
use crate::testing::{Bench, of, service, workload};

const VIP: &str = "10.9.9.9";

fn flow(seed: u64) -> Flow {
    Flow {
        protocol: Protocol::TCP,
        source: "10.0.0.1:4000".parse().unwrap(),
        destination: SocketAddr::new(VIP.parse().unwrap(), 80),
        seed,
        resolved: Resolved::default(),
    }
}

/// Endpoints of a service `web`, of which only the last listens.
async fn endpoints(bench: &mut Bench, addresses: &[&str]) -> (TcpListener, Vec<Workload>) {
    let listener = TcpListener::bind((*addresses.last().unwrap(), 0)).await.unwrap();
    let web = service("web", VIP, listener.local_addr().unwrap().port());
    let endpoints: Vec<_> = addresses
        .iter()
        .map(|address| Workload { services: of(&web), ..workload(&address.replace('.', "-"), address) })
        .collect();
    bench.writer.apply([Change::Service(web)]);
    bench.writer.apply(endpoints.iter().cloned().map(Change::Workload));
    (listener, endpoints)
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_passed_over_for_one_that_does_not() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.1.1", "127.0.1.2", "127.0.1.3"]).await;
    for seed in 0..20 {
        let reached = reach(&bench.shard, flow(seed)).await;
        let (facts, _upstream) = reached.unwrap_or_else(|unreached| panic!("{}", unreached.failure));
        assert_eq!(facts.destination_address, listener.local_addr().unwrap());
    }
    let held = bench.node.aside.held(Instant::now());
    assert!(held.len() <= 2 && !held.contains(&endpoints[2].uid), "{held:?}");
}

#[tokio::test]
async fn an_endpoint_that_others_set_aside_is_tried_before_giving_up() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.2.1", "127.0.2.2"]).await;
    bench.node.aside.strike(&endpoints[1].uid, Instant::now());
    let reached = reach(&bench.shard, flow(1)).await;
    let (facts, _upstream) = reached.unwrap_or_else(|unreached| panic!("{}", unreached.failure));
    assert_eq!(facts.destination_address, listener.local_addr().unwrap());
}

#[tokio::test]
async fn nobody_is_tried_twice_when_all_endpoints_refuse() {
    let mut bench = Bench::new();
    let (listener, endpoints) = endpoints(&mut bench, &["127.0.3.1", "127.0.3.2"]).await;
    drop(listener);
    let Err(unreached) = reach(&bench.shard, flow(1)).await else { panic!("nobody listens") };
    assert!(matches!(unreached.failure.what, What::ConnectFailed { .. }), "{}", unreached.failure);
    let now = Instant::now();
    let held = bench.node.aside.held(now);
    assert!(endpoints.iter().all(|endpoint| held.contains(&endpoint.uid)), "{held:?}");
    // A second strike would hold them for longer.
    assert!(bench.node.aside.held(now + Duration::from_secs(3)).is_empty());
}
