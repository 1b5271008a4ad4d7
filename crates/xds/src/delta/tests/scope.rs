// SPDX-License-Identifier: Apache-2.0
//! A client that is told a part of the mesh.

use std::sync::Arc;

use super::*;
use crate::delta::Scope;

fn scope<const N: usize>(addresses: [&str; N]) -> Arc<Scope> {
    let names = addresses.into_iter().map(ArcStr::from).collect();
    Arc::new(Scope::default().only(Kind::Address, names).only(Kind::Route, BTreeSet::new()))
}

/// Tells everything that is due; says how many messages that took.
fn tell(publisher: &Publisher, ends: &mut (Session, Subscriber, View)) -> usize {
    let (session, subscriber, view) = ends;
    let mut messages = 0;
    while let Some(response) = session.poll(publisher).unwrap() {
        let answer = take(subscriber, response, view);
        session.receive(answer.request, publisher).unwrap();
        messages += 1;
    }
    messages
}

fn connected(publisher: &Publisher, scope: &Arc<Scope>) -> (Session, Subscriber, View) {
    let mut session = Session::new(LIMITS);
    session.narrow(scope);
    let mut subscriber = Subscriber::new(node(), &Kind::ALL);
    for request in subscriber.connect() {
        session.receive(request, publisher).unwrap();
    }
    let mut ends = (session, subscriber, View::default());
    tell(publisher, &mut ends);
    ends
}

fn known(view: &View) -> Vec<&str> {
    view.resources.keys().map(ArcStr::as_str).collect()
}

const SERVICE: &str = "shop/s1.shop.svc.cluster.local";

#[test]
fn of_a_service_in_scope_its_endpoints_are_told_too_and_nothing_else() {
    let publisher = publisher((0..RESOURCES).map(|number| resource(number, 0)));
    let (session, subscriber, view) = connected(&publisher, &scope([SERVICE]));
    let service = view.index.service(&SERVICE.parse().unwrap()).unwrap();
    assert_eq!(view.index.members(&service.key()).len(), view.index.workloads().count());
    assert_eq!(view.index.services().count(), 1);
    assert!(view.index.workloads().count() > 1 && view.index.routes().count() == 0);
    assert!(view.index.policies().count() > 1, "a kind without names is told whole");
    assert!(Kind::ALL.into_iter().all(|kind| subscriber.is_synced(kind)), "{:?}", known(&view));
    let progress = session.progress(Kind::Address).unwrap();
    assert!(progress.wildcard && progress.acked == publisher.position(Kind::Address));
}

#[test]
fn what_happens_outside_of_the_scope_is_no_message_and_no_arrears() {
    let mut publisher = publisher((0..RESOURCES).map(|number| resource(number, 0)));
    let mut ends = connected(&publisher, &scope([SERVICE]));
    let outside = |number: &u8| !ends.2.resources.contains_key(&resource(*number, 0).name());
    let outside: Vec<u8> = (0..6).filter(outside).collect();
    publisher.update(outside.iter().map(|number| Update::Put(resource(*number, 1))));
    publisher.update(
        outside.iter().take(1).map(|number| Update::Remove(Kind::Address, resource(*number, 0).name())),
    );
    assert_eq!(tell(&publisher, &mut ends), 0);
    assert_eq!(ends.0.acked(Kind::Address), publisher.position(Kind::Address));
    publisher.update([Update::Put(resource(1, 1))]);
    assert_eq!(tell(&publisher, &mut ends), 1);
    assert_eq!(ends.2.index.workloads().filter(|workload| workload.node == "node-1").count(), 1);
}

#[test]
fn a_scope_that_moves_gives_and_takes_nothing_that_exists_and_a_new_stream_keeps_what_still_holds() {
    let mut publisher = publisher((0..RESOURCES).map(|number| resource(number, 0)));
    let mut ends = connected(&publisher, &scope([SERVICE]));
    let other = "shop/s2.shop.svc.cluster.local";
    ends.0.narrow(&scope([SERVICE, other]));
    tell(&publisher, &mut ends);
    assert_eq!(ends.2.index.services().count(), 2);
    ends.0.narrow(&scope([other]));
    tell(&publisher, &mut ends);
    assert_eq!(ends.2.index.services().count(), 2, "connections from before may ask for it");
    publisher.update([Update::Remove(Kind::Address, SERVICE.into())]);
    tell(&publisher, &mut ends);
    assert!(ends.2.index.service(&SERVICE.parse().unwrap()).is_none());
    assert!(!ends.2.index.members(&other.parse().unwrap()).is_empty());
    // A new stream, whose server says the same.
    let (_, mut subscriber, view) = ends;
    let mut session = Session::new(LIMITS);
    session.narrow(&scope([other]));
    for request in subscriber.connect() {
        session.receive(request, &publisher).unwrap();
    }
    let mut ends = (session, subscriber, view);
    while let Some(response) = ends.0.poll(&publisher).unwrap() {
        assert!(response.resources.is_empty() && response.removed_resources.is_empty(), "{response:?}");
        let answer = take(&mut ends.1, response, &mut ends.2);
        ends.0.receive(answer.request, &publisher).unwrap();
    }
    assert_eq!(ends.2.index.services().count(), 1);
}

#[test]
fn what_leaves_the_scope_is_told_on_and_what_returns_is_not_told_twice() {
    let mut publisher = publisher((0..RESOURCES).map(|number| resource(number, 0)));
    let other = "shop/s2.shop.svc.cluster.local";
    let (both, one) = (scope([SERVICE, other]), scope([other]));
    let mut ends = connected(&publisher, &both);
    let endpoint = |variant| resource(1, variant);
    let name = endpoint(0).name();
    ends.0.narrow(&one);
    assert_eq!(tell(&publisher, &mut ends), 0, "it exists");
    publisher.update([Update::Put(endpoint(1))]);
    assert_eq!(tell(&publisher, &mut ends), 1);
    assert_eq!(ends.2.resources.get(&name), Some(&endpoint(1)));
    ends.0.narrow(&both);
    assert_eq!(tell(&publisher, &mut ends), 0, "it was told on");
    publisher.update([Update::Put(endpoint(2))]);
    assert_eq!(tell(&publisher, &mut ends), 1);
    assert_eq!(ends.2.resources.get(&name), Some(&endpoint(2)));
    // What is gone is forgotten, and not told when it comes back where the scope is not.
    ends.0.narrow(&one);
    publisher.update([Update::Remove(Kind::Address, name.clone())]);
    assert_eq!(tell(&publisher, &mut ends), 1);
    publisher.update([Update::Put(endpoint(2))]);
    assert_eq!(tell(&publisher, &mut ends), 0);
    assert_eq!(ends.2.resources.get(&name), None);
    ends.0.narrow(&both);
    assert_eq!(tell(&publisher, &mut ends), 1);
    assert_eq!(ends.2.resources.get(&name), Some(&endpoint(2)));
}

/// 10,000 services of three endpoints each, and a waypoint for ten of them.
#[test]
fn a_waypoint_of_ten_services_is_told_a_thousandth_of_ten_thousand() {
    const SERVICES: u32 = 10_000;
    let ip = |first: u8, number: u32| {
        let [_, b, c, d] = number.to_be_bytes();
        format!("{first}.{b}.{c}.{d}")
    };
    let mut resources: Vec<Resource> = Vec::new();
    for number in 0..SERVICES {
        let name = format!("service-{number}");
        let service = plain_service(&name, &ip(172, number));
        for endpoint in 0..3 {
            let number = number * 3 + endpoint;
            let mut workload = plain_workload(&format!("{name}-{endpoint}"), &ip(10, number));
            workload.services = Arc::new(BTreeMap::from([(service.key(), BTreeMap::new())]));
            resources.push(workload.into());
        }
        resources.push(service.into());
    }
    let publisher = publisher(resources);
    let first = |scope: Option<&Arc<Scope>>| {
        let mut session = Session::new(Limits::default());
        scope.into_iter().for_each(|scope| session.narrow(scope));
        let request = Subscriber::new(node(), &[Kind::Address]).connect().remove(0);
        session.receive(request, &publisher).unwrap();
        session.poll(&publisher).unwrap().unwrap().encoded_len()
    };
    let names: Vec<String> = (0..10)
        .map(|number| plain_service(&format!("service-{number}"), "172.0.0.1").key().to_string())
        .collect();
    let ten = names.iter().map(|name| ArcStr::from(name.as_str())).collect();
    let (all, part) = (first(None), first(Some(&Arc::new(Scope::default().only(Kind::Address, ten)))));
    assert!(part * 900 < all, "{part} of {all} bytes");
    assert!(part * 1100 > all, "{part} of {all} bytes: some of its own is missing");
}
