// SPDX-License-Identifier: Apache-2.0
//! The writer, its readers and those who wait for news.

use std::time::Duration;

use mesh::{Network, NetworkAddress};
use tokio::time::timeout;

use super::*;
use crate::arbitrary::{plain_policy, plain_workload};

const DEADLINE: Duration = Duration::from_secs(10);

fn workload(number: usize, account: &str) -> Change {
    let address = format!("10.{}.{}.{}", number >> 16, (number >> 8) & 0xff, number & 0xff);
    let mut workload = plain_workload(&format!("w{number}"), &address);
    workload.service_account = account.into();
    Change::Workload(workload)
}

#[test]
fn a_large_push_is_applied_in_pieces() {
    let mut writer = Writer::new();
    let version = writer.replica().changed();
    writer.apply((0..600).map(|number| workload(number, "a")));
    assert_eq!(*version.borrow(), 3);
    assert_eq!(writer.replica().read(|index| index.workloads().count()), 600);
}

#[test]
fn what_changes_nothing_wakes_nobody() {
    let mut writer = Writer::new();
    writer.apply([workload(1, "a")]);
    let (mut touches, version) = (writer.replica().touches(), writer.replica().changed());
    writer.apply([workload(1, "a")]);
    writer.apply([]);
    assert_eq!(touches.take(), None);
    assert!(!version.has_changed().unwrap());
}

#[tokio::test]
async fn a_slow_consumer_misses_no_move_and_no_policy_change() {
    let mut writer = Writer::new();
    writer.apply([workload(1, "a"), workload(2, "a")]);
    let mut touches = writer.replica().touches();
    writer.apply([workload(1, "b")]);
    writer.apply([Change::Policy(plain_policy("deny"))]);
    writer.apply([workload(2, "b")]);
    let touched = timeout(DEADLINE, touches.next()).await.unwrap();
    assert!(touched.policies);
    let moved: Vec<_> = touched.moved.iter().map(|moved| moved.address.ip.to_string()).collect();
    assert_eq!(moved, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(touches.take(), None);
}

#[test]
fn a_consumer_that_never_looks_costs_no_more_than_the_mesh_is_large() {
    let mut writer = Writer::new();
    let mut touches = writer.replica().touches();
    for round in 0..3000 {
        let account = if round % 2 == 0 { "a" } else { "b" };
        writer.apply((1..4).map(|number| workload(number, account)));
    }
    let touched = touches.take().unwrap();
    assert!(touched.moved.len() <= MOVES_BEFORE_COMPACTION, "{}", touched.moved.len());
    for number in 1..4 {
        let address = NetworkAddress::new(Network::default(), format!("10.0.0.{number}").parse().unwrap());
        for was in ["a", "b"] {
            let of =
                |moved: &&mesh::index::Moved| moved.address == address && moved.was.service_account() == was;
            assert!(touched.moved.iter().any(|moved| of(&moved)), "{address} was {was}");
        }
    }
}

#[tokio::test]
async fn who_waits_is_woken_after_the_state_is_there() {
    let mut writer = Writer::new();
    let replica = writer.replica();
    let mut touches = replica.touches();
    let waiter = async {
        let touched = touches.next().await;
        (touched.workloads, replica.read(|index| index.workloads().count()))
    };
    let (seen, ()) = timeout(DEADLINE, async {
        tokio::join!(waiter, async {
            tokio::task::yield_now().await;
            writer.apply([workload(1, "a")]);
        })
    })
    .await
    .unwrap();
    assert_eq!(seen, (true, 1));
}

#[tokio::test]
async fn a_replica_is_synced_when_every_kind_is() {
    let mut writer = Writer::new();
    let replica = writer.replica();
    for kind in Kind::ALL.into_iter().rev() {
        assert!(!replica.synced());
        writer.mark_synced(kind);
    }
    timeout(DEADLINE, replica.wait_synced()).await.unwrap();
    assert!(replica.synced());
}

#[test]
fn who_leaves_is_forgotten() {
    let mut writer = Writer::new();
    let replica = writer.replica();
    for _ in 0..100 {
        drop(replica.touches());
    }
    writer.apply([workload(1, "a")]);
    assert!(replica.shared.ledgers.lock().is_empty());
}
