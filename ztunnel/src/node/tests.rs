// SPDX-License-Identifier: Apache-2.0
//! What a change of the mesh does to connections that are open.

use std::time::Duration;

use hbone::{Plain, Socket};
use mesh::{
    Change, Policy, Workload,
    authz::Subject,
    policy::{Action, PolicyScope, Rule},
};
use plan::What;

use super::*;
use crate::{
    live::Flow,
    metrics::End,
    record::Facts,
    relay::relay,
    testing::{Bench, workload},
};

const SOON: Duration = Duration::from_secs(20);

fn deny() -> Policy {
    Policy {
        name: "shop/deny".parse().unwrap(),
        scope: PolicyScope::WorkloadSelector,
        action: Action::Deny,
        rules: vec![Rule { clauses: Vec::new() }],
        dry_run: false,
    }
}

#[tokio::test]
async fn a_label_that_makes_a_policy_select_a_workload_closes_its_open_connections() {
    let mut bench = Bench::new();
    bench.writer.apply([Change::Policy(deny())]);
    drop(bench.tasks.spawn("follow", Arc::clone(&bench.node).follow(bench.tasks.clone())));
    tokio::task::yield_now().await;
    let (source, destination) = ("10.0.0.9:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let subject = Subject { source, identity: None, destination };
    let live = &bench.shard.live;
    let flow = |reporter, (source, destination), subject| Flow {
        reporter,
        source,
        destination,
        subject,
        counters: Arc::default(),
    };
    let (inbound, mut abort) = live.enter(flow(Reporter::Destination, (source, destination), Some(subject)));
    let (outbound, _abort) = live.enter(flow(Reporter::Source, (destination, source), None));

    // The workload of another pod changes its selection: that is not this pod's.
    let selecting = |name: &str, address: &str| {
        Change::Workload(Workload { policies: vec![deny().name], ..workload(name, address) })
    };
    bench.writer.apply([selecting("other", "10.0.0.2")]);
    assert!(tokio::time::timeout(Duration::from_millis(50), abort.aborted()).await.is_err());

    bench.writer.apply([selecting("client", "10.0.0.1")]);
    tokio::time::timeout(SOON, abort.aborted()).await.expect("it stays open");
    let failure = inbound.connection.failure().map(|failure| failure.what.clone());
    assert_eq!(failure, Some(What::PolicyChanged(deny().name)));
    assert!(outbound.connection.failure().is_none(), "what the pod itself opened is not judged here");
}

#[tokio::test]
async fn an_open_connection_can_be_ended_also_when_its_pod_takes_no_new_ones() {
    let Bench { node, shard, .. } = Bench::new();
    let (near, _client) = tokio::io::duplex(64);
    let (far, _application) = tokio::io::duplex(64);
    let (source, destination) = ("10.0.0.9:4000".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    let facts = Facts {
        reporter: Reporter::Destination,
        source: End::default(),
        source_address: source,
        destination: End::default(),
        destination_address: destination,
        authority: None,
        service: None,
        mutual_tls: false,
    };
    let [near, far] = [near, far].map(|stream| Socket::new(Plain(stream)));
    let relayed = relay(&shard, (facts, Instant::now()), None, near, far);
    // Its listeners are what else knows a shard.
    drop(shard);
    let shards = node.shards();
    assert_eq!(shards.iter().map(|shard| shard.live.end_all(&What::Drained.into())).sum::<usize>(), 1);
    tokio::time::timeout(SOON, relayed).await.expect("it stays open");
    drop(shards);
    assert!(node.shards().is_empty());
}
