// SPDX-License-Identifier: Apache-2.0
//! The client's end: what it asks for, and what it takes and refuses.

use super::*;

/// A response as another server might send it.
fn response(resources: Vec<(&str, &str, Vec<u8>)>, removed: &[&str]) -> DeltaDiscoveryResponse {
    let wire = |(name, version, value): (&str, &str, Vec<u8>)| Wire {
        name: name.into(),
        version: version.into(),
        resource: Some(prost_types::Any { type_url: proto::ADDRESS.into(), value }),
        aliases: Vec::new(),
    };
    DeltaDiscoveryResponse {
        type_url: proto::ADDRESS.into(),
        nonce: "n".into(),
        resources: resources.into_iter().map(wire).collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn versions(subscriber: &mut Subscriber) -> BTreeMap<String, String> {
    about_addresses(subscriber).initial_resource_versions.into_iter().collect()
}

#[test]
fn a_refused_resource_is_named_and_the_others_of_its_response_count() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let (good, bad) = (resource(1, 0), resource(2, 0));
    let first = response(vec![(&bad.name(), "v1", bad.encode())], &[]);
    assert!(take(&mut subscriber, first, &mut view).synced);

    let mixed = [
        (good.name(), "v1", good.encode()),
        (bad.name(), "v2", b"\xff".to_vec()),
        ("shop/new".into(), "v1", resource(6, 0).encode()),
    ];
    let mixed = mixed.iter().map(|(name, version, body)| (name.as_str(), *version, body.clone())).collect();
    let answer = take(&mut subscriber, response(mixed, &[]), &mut view);
    let error = answer.request.error_detail.expect("a refusal");
    assert_eq!((error.code, answer.request.response_nonce.as_str()), (3, "n"));
    assert!(error.message.contains(&format!("{}: is not a valid Address", bad.name())), "{}", error.message);
    assert!(
        error.message.contains("shop/new: calls itself \"shop/s0.shop.svc.cluster.local\""),
        "{}",
        error.message
    );
    // The good one counts; the last good state of the bad one stays, and has no version until it is good again.
    assert_eq!(view.resources.len(), 2);
    let expected =
        BTreeMap::from([(good.name().to_string(), "v1".to_owned()), (bad.name().to_string(), String::new())]);
    assert_eq!(versions(&mut subscriber), expected);
}

#[test]
fn a_first_answer_with_a_refused_resource_does_not_make_a_client_ready() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let answer = take(&mut subscriber, response(vec![("uid", "v1", Vec::new())], &[]), &mut view);
    assert_eq!(answer.refused, [("uid".to_owned(), "is neither a workload nor a service".to_owned())]);
    assert!(!answer.synced && !subscriber.is_synced(Kind::Address));
    assert!(take(&mut subscriber, response(Vec::new(), &[]), &mut view).synced);
    assert!(subscriber.is_synced(Kind::Address) && !subscriber.is_synced(Kind::Authorization));
}

#[test]
fn a_type_that_nobody_asked_for_is_refused() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let strange = DeltaDiscoveryResponse { type_url: "strange".into(), ..response(Vec::new(), &[]) };
    let answer = take(&mut subscriber, strange, &mut view);
    assert_eq!(answer.request.error_detail.unwrap().message, "strange: unknown resource type");
    assert_eq!(answer.request.type_url, "strange");
}

#[test]
fn a_complaint_stays_short_however_much_is_refused() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let names: Vec<String> = (0..10_000).map(|number| format!("name-{number}")).collect();
    let bad = names.iter().map(|name| (name.as_str(), "v", Vec::new())).collect();
    let answer = take(&mut subscriber, response(bad, &[]), &mut view);
    let message = answer.request.error_detail.unwrap().message;
    assert!(message.len() < 4200 && message.contains("more"), "{message}");
    assert_eq!(answer.refused.len(), 10_000);
}

#[test]
fn a_service_is_removed_by_the_name_it_came_under() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let name = "shop/S0.shop.svc.cluster.local";
    take(&mut subscriber, response(vec![(name, "v1", resource(6, 0).encode())], &[]), &mut view);
    assert_eq!(versions(&mut subscriber), BTreeMap::from([(name.to_owned(), "v1".to_owned())]));
    take(&mut subscriber, response(Vec::new(), &["shop/s0.shop.svc.cluster.local", "shop/none"]), &mut view);
    assert_eq!(view.resources.len(), 1);
    take(&mut subscriber, response(Vec::new(), &[name]), &mut view);
    assert!(view.resources.is_empty());
}

#[test]
fn a_name_that_turns_from_a_workload_into_a_service_leaves_nothing_behind() {
    let (mut subscriber, mut view) = (Subscriber::new(node(), &Kind::ALL), View::default());
    let name = resource(6, 0).name();
    let mut workload = workload(1, 0);
    workload.uid = mesh::WorkloadUid::parse(&name).unwrap();
    let workload = Resource::from(workload);
    take(&mut subscriber, response(vec![(&name, "v1", workload.encode())], &[]), &mut view);
    take(&mut subscriber, response(vec![(&name, "v2", resource(6, 0).encode())], &[]), &mut view);
    assert_eq!((view.index.workloads().count(), view.index.services().count()), (0, 1));
    take(&mut subscriber, response(Vec::new(), &[&name]), &mut view);
    assert_eq!((view.index.workloads().count(), view.index.services().count()), (0, 0));
}

#[test]
fn a_first_request_carries_the_node_and_asks_for_everything() {
    let requests = Subscriber::new(node(), &Kind::ALL).connect();
    assert_eq!(requests.len(), Kind::ALL.len());
    for (request, kind) in requests.iter().zip(Kind::ALL) {
        assert_eq!(request.type_url, kind.type_url());
        assert_eq!(request.node, Some(node()));
        assert!(request.resource_names_subscribe.is_empty() && request.response_nonce.is_empty());
    }
}

#[test]
fn on_demand_asks_for_nothing_until_a_name_is_wanted() {
    let publisher = publisher((0..RESOURCES).map(|number| resource(number, 0)));
    let (mut session, mut view) = (Session::new(LIMITS), View::default());
    let mut subscriber = Subscriber::on_demand(node(), &Kind::ALL);
    assert!(subscriber.is_synced(Kind::Address));
    for request in subscriber.connect() {
        session.receive(request, &publisher).unwrap();
    }
    let exchange = |session: &mut Session, subscriber: &mut Subscriber, view: &mut View| {
        let mut settled = Vec::new();
        while let Some(response) = session.poll(&publisher).unwrap() {
            let answer = take(subscriber, response, view);
            settled.extend(answer.settled);
            session.receive(answer.request, &publisher).unwrap();
        }
        settled
    };
    assert!(exchange(&mut session, &mut subscriber, &mut view).is_empty());
    assert_eq!(view.resources.len(), 7, "no addresses");
    // A service by its address brings its endpoints; what does not exist is settled too.
    for (name, known) in [("/10.1.0.6", 7 + 3), ("/10.99.0.1", 7 + 3), ("/10.0.0.1", 7 + 4)] {
        let name = ArcStr::from(name);
        session.receive(subscriber.want(&name).unwrap(), &publisher).unwrap();
        assert_eq!(subscriber.want(&name), None, "asked already");
        assert_eq!(exchange(&mut session, &mut subscriber, &mut view), [name]);
        assert_eq!(view.resources.len(), known);
    }
}
