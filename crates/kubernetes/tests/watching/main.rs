// SPDX-License-Identifier: Apache-2.0
//! Watches and leases against a server that does what the test says.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a failing test panics")]

mod leading;
mod server;

use std::time::Duration;

use kubernetes::{Event, Happened, Phase, Problem, Resource, View, Watch, json};
use serde::Deserialize;
use server::{Answer, Server};
use tokio::{sync::mpsc, task::JoinSet};

const SOON: Duration = Duration::from_secs(20);

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Thing {
    metadata: Metadata,
    size: u32,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Metadata {
    name: String,
}

/// A watch that runs.
struct Watching {
    events: mpsc::Receiver<Happened<(), Thing>>,
    view: View,
    _running: JoinSet<()>,
}

impl Watching {
    async fn start(server: &Server) -> Self {
        let (sender, events) = mpsc::channel(1);
        let watch = Watch::new((), [Resource::new("x.example", "v1", "things")]);
        let view = watch.view.clone();
        let mut running = JoinSet::new();
        running.spawn(watch.run(server.api().await, json::<Thing>, sender));
        Self { events, view, _running: running }
    }

    /// The next event in a few letters.
    async fn next(&mut self) -> String {
        let happened = tokio::time::timeout(SOON, self.events.recv()).await.expect("an event comes");
        match happened.expect("the watch runs").event {
            Event::Applied(Thing { metadata, size }) => format!("+{}={size}", metadata.name),
            Event::Broken { name, problems, .. } => format!("!{name}:{}", problems.len()),
            Event::Deleted(name) => format!("-{name}"),
            Event::Synced => "synced".to_owned(),
            Event::Absent => "absent".to_owned(),
        }
    }

    async fn all<const N: usize>(&mut self) -> [String; N] {
        let mut all = std::array::from_fn(|_| String::new());
        for slot in &mut all {
            *slot = self.next().await;
        }
        all
    }
}

fn event(kind: &str, name: &str, size: &str, version: u32) -> String {
    let metadata = format!(r#"{{"name":"{name}","namespace":"n","resourceVersion":"{version}"}}"#);
    format!(r#"{{"type":"{kind}","object":{{"metadata":{metadata},"size":{size}}}}}"#)
}

fn end_of_list(version: u32) -> String {
    format!(
        r#"{{"type":"BOOKMARK","object":{{"metadata":{{"resourceVersion":"{version}","annotations":{{"k8s.io/initial-events-end":"true"}}}}}}}}"#
    )
}

fn expired() -> String {
    r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#
        .to_owned()
}

#[tokio::test]
async fn a_list_is_streamed_and_its_changes_follow_on_the_same_connection() {
    let answer = Answer::events([
        event("ADDED", "a", "1", 5),
        end_of_list(7),
        event("MODIFIED", "a", "2", 8),
        event("DELETED", "a", "2", 9),
    ]);
    let server = Server::start([answer]).await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["+a=1", "synced", "+a=2", "-n/a"]);
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("/apis/x.example/v1/things?watch=true"), "{asked:?}");
    assert!(asked[0].contains("sendInitialEvents=true"), "{asked:?}");
    assert_eq!(watching.view.progress().phase, Phase::Live);
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_read_page_by_page() {
    let page = |items: &str, next: &str| {
        Answer::json(&format!(
            r#"{{"metadata":{{"resourceVersion":"30","continue":"{next}"}},"items":[{items}]}}"#
        ))
    };
    let item = |name: &str| format!(r#"{{"metadata":{{"name":"{name}","namespace":"n"}},"size":1}}"#);
    let server = Server::start([
        Answer::refusal(422, "Invalid"),
        page(&format!("{},{}", item("a"), item("b")), "to/be+continued"),
        page(&item("c"), ""),
        Answer::events([event("ADDED", "d", "1", 31)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["+a=1", "+b=1", "+c=1", "synced", "+d=1"]);
    let asked = server.asked();
    assert!(asked[1].contains("limit=500") && !asked[1].contains("continue"), "{asked:?}");
    assert!(asked[2].contains("continue=to%2Fbe%2Bcontinued"), "{asked:?}");
    assert!(asked[3].contains("resourceVersion=30") && !asked[3].contains("sendInitial"), "{asked:?}");
}

#[tokio::test]
async fn a_broken_connection_goes_on_from_the_last_version() {
    let server = Server::start([
        Answer::events([event("ADDED", "a", "1", 5), end_of_list(7), event("ADDED", "b", "1", 9)]).broken(),
        Answer::events([event("ADDED", "c", "1", 10)]).whole(),
        Answer::events([event("ADDED", "d", "1", 11)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["+a=1", "synced", "+b=1", "+c=1", "+d=1"]);
    let asked = server.asked();
    assert!(asked[1].contains("resourceVersion=9"), "{asked:?}");
    assert!(asked[2].contains("resourceVersion=10"), "{asked:?}");
}

#[tokio::test]
async fn after_an_expired_version_the_list_is_read_again_and_what_has_gone_is_told() {
    let server = Server::start([
        Answer::events([event("ADDED", "a", "1", 5), event("ADDED", "b", "1", 6), end_of_list(7), expired()]),
        Answer::events([event("ADDED", "b", "2", 20), end_of_list(21)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["+a=1", "+b=1", "synced", "+b=2", "-n/a", "synced"]);
    assert_eq!(watching.view.progress().lists, 2);
}

#[tokio::test]
async fn a_list_that_breaks_off_takes_nothing_away() {
    let server = Server::start([
        Answer::events([event("ADDED", "a", "1", 5), event("ADDED", "b", "1", 6), end_of_list(7), expired()]),
        Answer::events([event("ADDED", "a", "1", 5)]).broken(),
        Answer::events([event("ADDED", "a", "1", 5), event("ADDED", "b", "1", 6), end_of_list(7)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    let seen: [String; 7] = watching.all().await;
    assert_eq!(seen, ["+a=1", "+b=1", "synced", "+a=1", "+a=1", "+b=1", "synced"]);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_is_named_and_the_others_go_on() {
    let server = Server::start([Answer::events([
        event("ADDED", "a", "\"large\"", 5),
        event("ADDED", "b", "2", 6),
        end_of_list(7),
    ])])
    .await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["!n/a:1", "+b=2", "synced"]);
    let broken = json::<Thing>("{}").unwrap_err();
    assert_eq!(broken, [Problem { field: String::new(), message: broken[0].message.clone() }]);
}

#[tokio::test]
async fn a_kind_that_the_server_does_not_have_is_waited_for() {
    let server = Server::start([Answer::refusal(404, "NotFound")]).await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.next().await, "absent");
    assert_eq!(watching.view.progress().phase, Phase::Absent);
    server.add(Answer::events([event("ADDED", "a", "1", 5), end_of_list(7)]));
    assert_eq!(watching.all().await, ["+a=1", "synced"]);
    assert_eq!(watching.view.progress().phase, Phase::Live);
}

#[tokio::test]
async fn a_kind_that_vanishes_for_a_moment_keeps_its_objects() {
    let server = Server::start([
        Answer::events([event("ADDED", "a", "1", 5), end_of_list(7)]).broken(),
        Answer::refusal(404, "NotFound"),
        Answer::events([event("ADDED", "a", "2", 8), end_of_list(9)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    assert_eq!(watching.all().await, ["+a=1", "synced", "+a=2", "synced"]);
}

#[tokio::test]
async fn a_refusal_is_shown_until_it_is_over() {
    let server = Server::start([
        Answer::refusal(403, "Forbidden"),
        Answer::refusal(403, "Forbidden"),
        Answer::events([end_of_list(7)]),
    ])
    .await;
    let mut watching = Watching::start(&server).await;
    let view = watching.view.clone();
    let failing = async {
        while view.progress().phase != Phase::Failing {
            tokio::task::yield_now().await;
        }
        view.progress().error
    };
    let error = tokio::time::timeout(SOON, failing).await.unwrap().unwrap();
    assert!(error.contains("403 Forbidden"), "{error}");
    assert_eq!(watching.next().await, "synced");
    assert_eq!(watching.view.progress().error, None);
}
