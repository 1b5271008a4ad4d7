// SPDX-License-Identifier: Apache-2.0
//! Endpoints that break off: who is set aside, who is not, and how often requests are sent again meanwhile.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use mesh::{
    WorkloadUid,
    l7::route::{HttpRule, Retry},
    service::AppProtocol,
};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;
use tokio::{io::AsyncReadExt as _, sync::Barrier};

use super::{get, named, route, rule, to};
use crate::{
    pick,
    testing::{Bench, SOON, Wire},
};

/// Counters of this thread, by name and labels.
#[derive(Default)]
struct Counters(Mutex<Vec<(Key, Arc<AtomicU64>)>>);

impl Counters {
    fn sum(&self, name: &str, label: Option<(&str, &str)>) -> u64 {
        let counters = self.0.lock();
        let meant = counters.iter().filter(|(key, _)| {
            key.name() == name
                && label.is_none_or(|label| key.labels().any(|one| (one.key(), one.value()) == label))
        });
        meant.map(|(_, count)| count.load(Ordering::Relaxed)).sum()
    }
}

impl Recorder for Counters {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}
    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _text: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        let mut counters = self.0.lock();
        let known = counters.iter().find(|(known, _)| known == key).map(|(_, count)| Arc::clone(count));
        let count = known.unwrap_or_else(|| {
            let count = Arc::new(AtomicU64::new(0));
            counters.push((key.clone(), Arc::clone(&count)));
            count
        });
        Counter::from_arc(count)
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

const SET_ASIDE: &str = "ambit_endpoints_set_aside_total";

fn uid(name: &str) -> WorkloadUid {
    WorkloadUid::parse(&format!("Kubernetes//Pod/shop/{name}")).unwrap()
}

/// Behind `web`: takes requests, and breaks off as soon as `together` of them wait. Counts them.
async fn breaking_off(bench: &mut Bench, name: &str, together: usize) -> Arc<AtomicUsize> {
    let listener = bench.listen(name, "web", AppProtocol::Http11).await;
    let (asked, barrier) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(together)));
    let (count, owner) = (Arc::clone(&asked), bench.tasks.clone());
    drop(bench.tasks.spawn("listener", async move {
        while let Ok((mut stream, _peer)) = listener.accept().await {
            let (count, barrier) = (Arc::clone(&count), Arc::clone(&barrier));
            drop(owner.spawn("server", async move {
                if stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    count.fetch_add(1, Ordering::Relaxed);
                    barrier.wait().await;
                }
            }));
        }
    }));
    asked
}

fn repeated(attempts: u32, backoff: Duration) -> mesh::Change {
    let retry = Some(Retry { attempts, backoff: Some(backoff), codes: Vec::new() });
    route(vec![HttpRule { retry, ..rule(vec![to("web", 1)]) }])
}

/// Who gets no requests now.
fn left_out(bench: &Bench) -> HashSet<WorkloadUid> {
    let waypoint = &bench.shard.waypoint;
    let web = waypoint.replica.read(|index| index.service(&super::name("web")).cloned()).unwrap();
    waypoint.replica.read(|index| pick::left_out(waypoint, index, &plan::waypoint::Target::Service(web)))
}

/// Four endpoints of which so many break off; each answers requests for the others.
async fn four(bad: usize) -> (Bench, Vec<(&'static str, Arc<AtomicUsize>)>) {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let mut broken = Vec::new();
    for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        if number < bad {
            broken.push((name, breaking_off(&mut bench, name, 1).await));
        } else {
            bench.server(name, AppProtocol::Http11, Wire::Http1, named(name)).await;
        }
    }
    bench.writer.apply([repeated(4, Duration::from_millis(1))]);
    (bench, broken)
}

/// Requests until something has come to be; all of them are answered.
async fn ask_until(bench: &Bench, mut done: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if done() {
            return;
        }
        assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK);
    }
    panic!("it does not come to be");
}

#[tokio::test]
async fn an_endpoint_that_breaks_off_is_set_aside_and_others_answer() {
    let counters = Counters::default();
    let _counting = metrics::set_default_local_recorder(&counters);
    let (bench, broken) = four(1).await;
    ask_until(&bench, || counters.sum(SET_ASIDE, Some(("reason", "failures"))) == 1).await;
    let [(name, asked)] = &broken[..] else { panic!("one breaks off") };
    assert!(asked.load(Ordering::Relaxed) >= 3, "failures in a row");
    assert_eq!(counters.sum(SET_ASIDE, None), 1, "for no other reason");
    let mut meanwhile = 0;
    for _ in 0..50 {
        let (before, seen) = (left_out(&bench), asked.load(Ordering::Relaxed));
        assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK);
        // On a slow machine its time may be over.
        if before == HashSet::from([uid(name)]) && left_out(&bench) == before {
            assert_eq!(asked.load(Ordering::Relaxed), seen, "it gets no request");
            meanwhile += 1;
        }
        assert!(left_out(&bench).iter().all(|one| *one == uid(name)), "the others are not set aside");
    }
    assert!(meanwhile > 0 || left_out(&bench).is_empty());
}

#[tokio::test]
async fn no_more_than_half_of_the_endpoints_are_left_out() {
    let counters = Counters::default();
    let _counting = metrics::set_default_local_recorder(&counters);
    let (bench, broken) = four(3).await;
    let mut most = 0;
    // All three are found wanting at a time …
    ask_until(&bench, || {
        let left_out = left_out(&bench);
        assert!(!left_out.contains(&uid("four")), "it answers");
        most = most.max(left_out.len());
        assert!(most <= 2, "{left_out:?}");
        let waypoint = &bench.shard.waypoint;
        waypoint.endpoints.aside(waypoint.now(), |_uid| true).len() == 3
    })
    .await;
    assert!(counters.sum(SET_ASIDE, Some(("reason", "failures"))) >= 3);
    // … and two of them are left out, the third is asked as before.
    assert_eq!(most, 2);
    let asked = || broken.iter().map(|(_, asked)| asked.load(Ordering::Relaxed)).sum::<usize>();
    let before = asked();
    ask_until(&bench, || asked() > before).await;
}

#[tokio::test]
async fn of_many_requests_that_break_off_at_once_only_a_few_are_sent_again_and_these_wait() {
    const TOGETHER: usize = 20;
    // A fifth of what is under way.
    const AGAIN: usize = 4;
    let counters = Counters::default();
    let _counting = metrics::set_default_local_recorder(&counters);
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let asked = breaking_off(&mut bench, "one", TOGETHER).await;
    bench.writer.apply([repeated(2, Duration::from_secs(3600))]);
    let bench = Arc::new(bench);
    let (answered, mut answers) = tokio::sync::mpsc::channel(TOGETHER);
    for _ in 0..TOGETHER {
        let (bench, answered) = (Arc::clone(&bench), answered.clone());
        let owner = bench.tasks.clone();
        drop(owner.spawn("client", async move {
            let connection = hyper_util::rt::TokioIo::new(bench.connect().await);
            let (mut sender, driver) = hyper::client::conn::http1::handshake(connection).await.unwrap();
            drop(bench.tasks.spawn("driver", async move { driver.await.unwrap_or_default() }));
            // Those that wait to be sent again are not answered within any test's time.
            let status = sender.send_request(get("/")).await.map(|response| response.status());
            answered.send(status.unwrap()).await.unwrap();
        }));
    }
    for _ in 0..TOGETHER - AGAIN {
        let status = tokio::time::timeout(SOON, answers.recv()).await.unwrap();
        assert_eq!(status, Some(StatusCode::SERVICE_UNAVAILABLE));
    }
    let again = counters.sum("ambit_retries_total", None);
    assert!((3..=AGAIN as u64).contains(&again), "{again} are sent again");
    assert_eq!(asked.load(Ordering::Relaxed), TOGETHER, "they wait before they are");
}
