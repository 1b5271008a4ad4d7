// SPDX-License-Identifier: Apache-2.0
//! The server's end: what is told, when, in what order and pieces.

use super::*;

/// A session that has its first answer for everything, and its client.
fn connected(publisher: &Publisher) -> (Session, Subscriber, View) {
    let (mut session, mut subscriber, mut view) =
        (Session::new(LIMITS), Subscriber::new(node(), &Kind::ALL), View::default());
    for request in subscriber.connect() {
        session.receive(request, publisher).unwrap();
    }
    while let Some(response) = session.poll(publisher).unwrap() {
        let answer = take(&mut subscriber, response, &mut view);
        session.receive(answer.request, publisher).unwrap();
    }
    (session, subscriber, view)
}

#[test]
fn nothing_is_told_before_the_catalogue_is_complete() {
    let mut publisher = Publisher::new();
    publisher.update([Update::Put(resource(1, 0))]);
    let (mut session, _, view) = connected(&publisher);
    assert!(view.resources.is_empty());
    publisher.replace(Kind::Address, [resource(1, 0), resource(2, 0)]);
    let response = session.poll(&publisher).unwrap().unwrap();
    assert_eq!((response.type_url.as_str(), response.resources.len()), (proto::ADDRESS, 2));
    assert_eq!(session.poll(&publisher).unwrap(), None);
}

#[test]
fn a_catalogue_that_stays_the_same_is_not_published() {
    let mut publisher = publisher([resource(1, 0), resource(9, 0)]);
    let position = publisher.position(Kind::Address);
    assert_eq!(publisher.replace(Kind::Address, [resource(1, 0)]), Published::default());
    assert_eq!(publisher.update([Update::Put(resource(9, 0))]), Published::default());
    assert_eq!(publisher.position(Kind::Address), position);
    let changed = publisher.replace(Kind::Address, [resource(1, 1), resource(2, 0)]);
    assert_eq!(changed, Published { put: 2, removed: 0 });
    assert_eq!(publisher.replace(Kind::Address, []), Published { put: 0, removed: 2 });
}

#[test]
fn the_first_answer_is_whole_however_large_and_later_ones_come_in_pieces() {
    let mesh = || (0..200).map(|number| workload(number, 0).into());
    let mut publisher = publisher(mesh());
    let (mut session, mut subscriber, mut view) =
        (Session::new(LIMITS), Subscriber::new(node(), &Kind::ALL), View::default());
    session.receive(about_addresses(&mut subscriber), &publisher).unwrap();
    let first = session.poll(&publisher).unwrap().unwrap();
    assert_eq!(first.resources.len(), 200);
    let answer = take(&mut subscriber, first, &mut view);
    assert!(answer.synced);
    session.receive(answer.request, &publisher).unwrap();

    publisher.update((0..200).map(|number| Update::Put(workload(number, 1).into())));
    let mut pieces = 0;
    while let Some(piece) = session.poll(&publisher).unwrap() {
        assert!(piece.encoded_len() <= LIMITS.piece, "{} bytes", piece.encoded_len());
        assert_eq!(session.poll(&publisher).unwrap(), None, "the next piece waits for the answer");
        let answer = take(&mut subscriber, piece, &mut view);
        session.receive(answer.request, &publisher).unwrap();
        pieces += 1;
    }
    assert!(pieces > 10, "{pieces}");
    assert!(view.index.workloads().all(|workload| workload.node == "node-1"));
}

#[test]
fn an_address_that_moves_is_never_unknown_in_between() {
    let address = mesh::NetworkAddress::new(mesh::Network::default(), "10.0.0.1".parse().unwrap());
    let mut publisher = publisher((1..6).map(|number| resource(number, 0)));
    let (mut session, mut subscriber, mut view) = connected(&publisher);
    // The old holder goes first, and everything else changes so that it takes several pieces.
    publisher.update([Update::Remove(Kind::Address, resource(1, 0).name())]);
    publisher.update((2..6).map(|number| Update::Put(resource(number, 1))));
    publisher.update([Update::Put(plain_workload("new", "10.0.0.1").into())]);
    let mut pieces = 0;
    while let Some(response) = session.poll(&publisher).unwrap() {
        let mut delivery = subscriber.take(response);
        let answer = loop {
            match delivery.step() {
                Step::Answer(answer) => break answer,
                Step::Apply(changes) => {
                    for change in changes {
                        view.apply(change);
                        assert!(view.index.workload_at(&address).is_some());
                    }
                }
            }
        };
        session.receive(answer.request, &publisher).unwrap();
        pieces += 1;
    }
    assert!(pieces > 1);
    assert_eq!(view.index.workload_at(&address).map(|workload| workload.name.as_str()), Some("new"));
    assert_eq!(view.index.workloads().count(), 5);
}

#[test]
fn what_changes_while_a_response_is_unanswered_is_gathered() {
    let mut publisher = publisher([resource(1, 0)]);
    let (mut session, mut subscriber, mut view) = connected(&publisher);
    publisher.update([Update::Put(resource(2, 0))]);
    let response = session.poll(&publisher).unwrap().unwrap();
    for variant in [1, 2] {
        publisher.update([Update::Put(resource(3, variant)), Update::Put(resource(1, variant))]);
        assert_eq!(session.poll(&publisher).unwrap(), None);
    }
    assert!(session.in_flight());
    let answer = take(&mut subscriber, response, &mut view);
    session.receive(answer.request, &publisher).unwrap();
    let gathered = session.poll(&publisher).unwrap().unwrap();
    assert_eq!(gathered.resources.len(), 2);
    assert!(gathered.removed_resources.is_empty());
}

#[test]
fn a_late_or_foreign_answer_counts_for_nothing() {
    let mut publisher = publisher([resource(1, 0)]);
    let (mut session, ..) = connected(&publisher);
    publisher.update([Update::Put(resource(1, 1))]);
    let response = session.poll(&publisher).unwrap().unwrap();
    let answer = |nonce: &str| DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: nonce.into(),
        ..DeltaDiscoveryRequest::default()
    };
    for nonce in ["", "0", "999"] {
        assert_eq!(session.receive(answer(nonce), &publisher), Ok(Event::Nothing));
        assert!(session.in_flight());
    }
    let acked = session.receive(answer(&response.nonce), &publisher);
    assert_eq!(acked, Ok(Event::Acked { kind: Kind::Address }));
    assert_eq!(session.receive(answer(&response.nonce), &publisher), Ok(Event::Nothing));
}

fn refusal(response: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: Some(Status { code: 3, message: message.into(), details: Vec::new() }),
        ..DeltaDiscoveryRequest::default()
    }
}

#[test]
fn a_refusal_is_reported_with_the_names_and_kept_until_the_resource_changes() {
    let mut publisher = publisher([resource(1, 0), resource(6, 0)]);
    let (mut session, ..) = connected(&publisher);
    let (name, service) = (resource(1, 0).name(), resource(6, 0).name());
    publisher.update([Update::Put(resource(1, 1)), Update::Put(resource(6, 1))]);
    let response = session.poll(&publisher).unwrap().unwrap();
    let message = format!("{name}: field waypoint: is missing; {service}: field ports: 0 is not a port");
    let event = session.receive(refusal(&response, &message), &publisher).unwrap();
    let names = BTreeSet::from([name.clone(), service.clone()]);
    let Event::Rejected { kind: Kind::Address, names: told, message: said } = event else {
        panic!("{event:?}")
    };
    assert_eq!((BTreeSet::from_iter(told), said), (names, message));
    assert_eq!(session.poll(&publisher).unwrap(), None, "what was refused is not sent again as it is");
    assert_eq!(session.progress(Kind::Address).unwrap().refused.len(), 2);

    publisher.update([Update::Put(resource(1, 2))]);
    let response = session.poll(&publisher).unwrap().unwrap();
    let ack = DeltaDiscoveryRequest { error_detail: None, ..refusal(&response, "") };
    session.receive(ack, &publisher).unwrap();
    let refused = session.progress(Kind::Address).unwrap().refused;
    assert_eq!(refused.keys().collect::<Vec<_>>(), [&service]);
}

#[test]
fn a_session_too_far_behind_has_to_start_again() {
    let mut publisher = publisher((1..6).map(|number| resource(number, 0)));
    let (mut session, mut subscriber, mut view) = connected(&publisher);
    publisher.update([Update::Remove(Kind::Address, resource(1, 0).name())]);
    publisher.update([Update::Remove(Kind::Address, resource(2, 0).name())]);
    // Each removal of another name is remembered on its own, up to the limit.
    for number in 0..66_000 {
        let mut workload = plain_workload(&format!("x{number}"), "10.9.9.9");
        workload.addresses.clear();
        let resource = Resource::from(workload);
        let name = resource.name();
        publisher.update([Update::Put(resource), Update::Remove(Kind::Address, name)]);
    }
    assert_eq!(session.poll(&publisher), Err(Behind));

    let mut session = Session::new(LIMITS);
    for request in subscriber.connect() {
        session.receive(request, &publisher).unwrap();
    }
    while let Some(response) = session.poll(&publisher).unwrap() {
        let answer = take(&mut subscriber, response, &mut view);
        session.receive(answer.request, &publisher).unwrap();
    }
    assert_eq!(view.index.workloads().count(), 3);
}

#[test]
fn an_unknown_type_ends_the_stream() {
    let request = DeltaDiscoveryRequest { type_url: "x".into(), ..DeltaDiscoveryRequest::default() };
    let error = Session::new(LIMITS).receive(request, &Publisher::new()).unwrap_err();
    assert_eq!(error.to_string(), "unknown resource type \"x\"");
}
