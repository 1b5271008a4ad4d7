// SPDX-License-Identifier: Apache-2.0
//! Giving a lease back while the server does not take it.

use std::time::Duration;

use kubernetes::{LeaseSettings, lead};
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinSet};

use crate::{
    SOON,
    server::{Answer, Server},
};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/n/leases/work";
/// Before it is given back: a look, and making it.
const TAKEN: usize = 2;

fn held() -> Answer {
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "work", "namespace": "n", "resourceVersion": "7"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15},
    });
    Answer::json(&lease.to_string())
}

/// Takes the lease and is stopped; the server, after what `answers` say of giving it back.
async fn stopped(answers: impl IntoIterator<Item = Answer>) -> Server {
    let taken = [Answer::refusal(404, "NotFound"), held()];
    let server = Server::start(taken.into_iter().chain(answers)).await;
    let settings = LeaseSettings {
        namespace: "n".to_owned(),
        name: "work".to_owned(),
        identity: "me".to_owned(),
        duration: Duration::from_secs(60),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (mut leadership, leading) = lead(server.api().await, settings, async move {
        stopped.await.ok();
    });
    let mut running = JoinSet::new();
    running.spawn(leading);
    tokio::time::timeout(SOON, leadership.won()).await.expect("the lease is free");
    stop.send(()).expect("somebody waits for it");
    tokio::time::timeout(SOON, running.join_next()).await.expect("it ends").unwrap().unwrap();
    assert!(!leadership.is_mine());
    server
}

/// Who has the lease by the last word.
fn holder(told: &[Value]) -> Option<&Value> {
    told.last().expect("something was written").pointer("/spec/holderIdentity")
}

#[tokio::test]
async fn a_lease_that_is_not_taken_back_at_once_is_given_back_again() {
    let refusals = [(409, "Conflict"), (503, "ServiceUnavailable")];
    let refused = refusals.into_iter().flat_map(|(code, reason)| [held(), Answer::refusal(code, reason)]);
    let server = stopped(refused.chain([held(), held()])).await;
    let told = server.told();
    assert_eq!(told.len(), 4, "making it, and three times giving it back: {told:?}");
    assert_eq!(told[0].pointer("/spec/holderIdentity"), Some(&json!("me")));
    assert_eq!(holder(&told), None);
}

#[tokio::test]
async fn a_lease_that_is_somebody_elses_by_now_stays_theirs() {
    let theirs = json!({"metadata": {"name": "work"}, "spec": {"holderIdentity": "other"}}).to_string();
    let server = stopped([held(), Answer::refusal(409, "Conflict"), Answer::json(&theirs)]).await;
    assert_eq!(server.asked().len(), TAKEN + 3);
    assert_eq!(server.told().len(), 2, "it is looked at, not written");
}

#[tokio::test]
async fn who_cannot_give_a_lease_back_ends_all_the_same() {
    let refused = (0..8).flat_map(|_| [held(), Answer::refusal(409, "Conflict")]);
    let server = stopped(refused).await;
    let asked = server.asked();
    assert_eq!(asked.len(), TAKEN + 2 * 5, "{asked:?}");
    assert!(asked.iter().skip(TAKEN).all(|path| path == LEASE), "{asked:?}");
    // Something that is no matter of time is not tried again.
    let server = stopped([held(), Answer::refusal(403, "Forbidden")]).await;
    assert_eq!(server.asked().len(), TAKEN + 2);
}
