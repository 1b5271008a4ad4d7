// SPDX-License-Identifier: Apache-2.0
//! Both ends over a link that loses connections, repeats messages and interleaves types.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use arcstr::ArcStr;
use mesh::{Change, Index, Workload};
use proptest::{collection::vec, prelude::*};
use prost::Message;
use proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as Wire},
    google::rpc::Status,
};

use super::{
    Behind,
    publisher::{Published, Publisher, Update},
    session::{Event, Limits, Session},
    subscriber::{Answer, Step, Subscriber},
};
use crate::{
    arbitrary::{plain_policy, plain_service, plain_workload},
    codec::Resource,
    kind::{Kind, PerKind},
};

/// Small enough that most pushes are cut.
const LIMITS: Limits = Limits { first: 1 << 20, piece: 700 };

fn node() -> Node {
    Node {
        id: "ztunnel~10.0.0.1~ztunnel-1.istio-system~istio-system.svc.cluster.local".into(),
        ..Node::default()
    }
}

fn workload(number: u8, variant: u8) -> Workload {
    let mut workload = plain_workload(&format!("w{number}"), &format!("10.0.0.{number}"));
    workload.node = format!("node-{variant}").into();
    workload.services = std::sync::Arc::new(BTreeMap::from([(
        format!("shop/s{}.shop.svc.cluster.local", number % 3).parse().unwrap(),
        BTreeMap::new(),
    )]));
    workload
}

/// Resource `number` of a small mesh, in one of several states.
fn resource(number: u8, variant: u8) -> Resource {
    match number {
        0..6 => workload(number, variant).into(),
        6..9 => {
            let mut service = plain_service(&format!("s{}", number - 6), &format!("10.1.0.{number}"));
            service.canonical = variant.is_multiple_of(2);
            service.name = format!("s-{variant}").into();
            service.into()
        }
        _ => {
            let mut policy = plain_policy(&format!("p{number}"));
            policy.dry_run = variant.is_multiple_of(2);
            policy.into()
        }
    }
}

const RESOURCES: u8 = 12;

/// What a subscriber has been told, as the Index that it leads to.
#[derive(Default)]
struct View {
    index: Index,
    resources: BTreeMap<ArcStr, Resource>,
}

impl View {
    fn apply(&mut self, change: Change) {
        let gone = |name: String| ArcStr::from(name);
        match &change {
            Change::Workload(workload) => drop(self.put(workload.clone().into())),
            Change::Service(service) => drop(self.put(service.clone().into())),
            Change::Policy(policy) => drop(self.put(policy.clone().into())),
            Change::WorkloadGone(uid) => drop(self.resources.remove(&gone(uid.to_string()))),
            Change::ServiceGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
            Change::PolicyGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
        }
        self.index.apply(change);
    }

    fn put(&mut self, resource: Resource) -> Option<Resource> {
        self.resources.insert(resource.name(), resource)
    }

    fn of_index(&self) -> BTreeMap<ArcStr, Resource> {
        let workloads = self.index.workloads().map(|it| Resource::from(Workload::clone(it)));
        let services = self.index.services().map(|it| Resource::from(mesh::Service::clone(it)));
        let policies = self.index.policies().map(|it| Resource::from(mesh::Policy::clone(it)));
        workloads.chain(services).chain(policies).map(|resource| (resource.name(), resource)).collect()
    }
}

/// Takes a whole response.
fn take(subscriber: &mut Subscriber, response: DeltaDiscoveryResponse, view: &mut View) -> Answer {
    let mut delivery = subscriber.take(response);
    loop {
        match delivery.step() {
            Step::Apply(changes) => changes.into_iter().for_each(|change| view.apply(change)),
            Step::Answer(answer) => return *answer,
        }
    }
}

/// A server, a client, and what is under way between them: in order within a type, in any order across types.
struct World {
    truth: BTreeMap<ArcStr, Resource>,
    publisher: Publisher,
    session: Session,
    subscriber: Subscriber,
    view: View,
    requests: PerKind<VecDeque<DeltaDiscoveryRequest>>,
    responses: PerKind<VecDeque<DeltaDiscoveryResponse>>,
    answered: PerKind<bool>,
    unanswered: PerKind<Option<String>>,
}

#[derive(Clone, Debug)]
enum Action {
    Put(u8, u8),
    Remove(u8),
    Replace(BTreeSet<u8>, u8),
    Push,
    ToServer(Kind),
    ToClient(Kind),
    RepeatToServer(Kind),
    RepeatToClient(Kind),
    Disconnect,
    Restart,
    Want(u8),
    WantAddress(u8),
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let kind = || prop_oneof![Just(Kind::Address), Just(Kind::Authorization)];
    let action = prop_oneof![
        6 => (0..RESOURCES, 0..3_u8).prop_map(|(number, variant)| Action::Put(number, variant)),
        3 => (0..RESOURCES).prop_map(Action::Remove),
        1 => (proptest::collection::btree_set(0..RESOURCES, 0..8), 0..3_u8)
            .prop_map(|(numbers, variant)| Action::Replace(numbers, variant)),
        6 => Just(Action::Push),
        6 => kind().prop_map(Action::ToServer),
        6 => kind().prop_map(Action::ToClient),
        1 => kind().prop_map(Action::RepeatToServer),
        1 => kind().prop_map(Action::RepeatToClient),
        1 => Just(Action::Disconnect),
        1 => Just(Action::Restart),
        2 => (0..9_u8).prop_map(Action::Want),
        2 => (0..12_u8).prop_map(Action::WantAddress),
    ];
    vec(action, 0..80)
}

impl World {
    fn new(subscriber: Subscriber) -> Self {
        let mut publisher = Publisher::new();
        for kind in Kind::ALL {
            publisher.replace(kind, []);
        }
        let mut world = Self {
            truth: BTreeMap::new(),
            publisher,
            session: Session::new(LIMITS),
            subscriber,
            view: View::default(),
            requests: PerKind::default(),
            responses: PerKind::default(),
            answered: PerKind::default(),
            unanswered: PerKind::default(),
        };
        world.connect();
        world
    }

    fn connect(&mut self) {
        self.session = Session::new(LIMITS);
        (self.requests, self.responses) = Default::default();
        (self.answered, self.unanswered) = Default::default();
        for request in self.subscriber.connect() {
            self.send(request);
        }
    }

    fn send(&mut self, request: DeltaDiscoveryRequest) {
        let kind = Kind::of_type_url(&request.type_url).unwrap();
        self.requests.of_mut(kind).push_back(request);
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Put(number, variant) => {
                let resource = resource(number, variant);
                self.truth.insert(resource.name(), resource.clone());
                self.publisher.update([Update::Put(resource)]);
            }
            Action::Remove(number) => {
                let resource = resource(number, 0);
                self.truth.remove(&resource.name());
                self.publisher.update([Update::Remove(resource.kind(), resource.name())]);
            }
            Action::Replace(numbers, variant) => {
                let resources = || numbers.iter().map(|number| resource(*number, variant));
                self.truth = resources().map(|resource| (resource.name(), resource)).collect();
                for kind in Kind::ALL {
                    self.publisher.replace(kind, resources());
                }
            }
            Action::Push => self.push(),
            Action::ToServer(kind) => {
                if let Some(request) = self.requests.of_mut(kind).pop_front() {
                    self.receive(request);
                }
            }
            Action::ToClient(kind) => {
                if let Some(response) = self.responses.of_mut(kind).pop_front() {
                    self.deliver(response);
                }
            }
            Action::RepeatToServer(kind) => {
                if let Some(request) = self.requests.of(kind).front().cloned() {
                    self.receive(request);
                }
            }
            Action::RepeatToClient(kind) => {
                if let Some(response) = self.responses.of(kind).front().cloned() {
                    self.deliver(response);
                }
            }
            Action::Disconnect => self.connect(),
            Action::Restart => self.restart(),
            Action::Want(number) => self.want(&resource(number, 0).name()),
            Action::WantAddress(number) => {
                let subnet = if number < 6 { 0 } else { 1 };
                self.want(&format!("/10.{subnet}.0.{number}").into());
            }
        }
    }

    fn want(&mut self, name: &ArcStr) {
        if let Some(request) = self.subscriber.want(name) {
            self.send(request);
        }
    }

    /// Another server, which has read the same world in another order and knows nothing of what was removed.
    fn restart(&mut self) {
        self.publisher = Publisher::new();
        let resources: Vec<_> = self.truth.values().rev().cloned().collect();
        self.publisher.update(resources.iter().cloned().map(Update::Put));
        self.connect();
        self.push();
        assert!(
            Kind::ALL.iter().all(|kind| self.responses.of(*kind).is_empty()),
            "told before all was known"
        );
        for kind in Kind::ALL {
            self.publisher.replace(kind, resources.clone());
        }
    }

    fn push(&mut self) {
        while let Some(response) = self.session.poll(&self.publisher).unwrap() {
            let kind = Kind::of_type_url(&response.type_url).unwrap();
            let entries = response.resources.len() + response.removed_resources.len();
            let first = !std::mem::replace(self.answered.of_mut(kind), true);
            assert!(first || entries < 2 || response.encoded_len() <= LIMITS.piece);
            let unanswered = self.unanswered.of_mut(kind).replace(response.nonce.clone());
            assert_eq!(unanswered, None, "one unanswered response of a type");
            self.responses.of_mut(kind).push_back(response);
        }
    }

    fn receive(&mut self, request: DeltaDiscoveryRequest) {
        let kind = Kind::of_type_url(&request.type_url).unwrap();
        self.unanswered.of_mut(kind).take_if(|nonce| *nonce == request.response_nonce);
        self.session.receive(request, &self.publisher).unwrap();
    }

    fn deliver(&mut self, response: DeltaDiscoveryResponse) {
        let answer = take(&mut self.subscriber, response, &mut self.view);
        assert_eq!(answer.request.error_detail, None);
        self.send(answer.request);
    }

    /// Lets everything that is under way arrive. Bounded: it must come to rest.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.push();
            let busy = Kind::ALL
                .into_iter()
                .find(|kind| !self.requests.of(*kind).is_empty() || !self.responses.of(*kind).is_empty());
            let Some(kind) = busy else { return };
            self.act(Action::ToClient(kind));
            self.act(Action::ToServer(kind));
        }
        panic!("it never comes to rest");
    }
}

proptest! {
    #[test]
    fn a_subscriber_ends_with_what_is_published(actions in actions()) {
        let mut world = World::new(Subscriber::new(node()));
        for action in actions {
            world.act(action);
        }
        world.settle();
        prop_assert_eq!(&world.view.resources, &world.truth);
        for kind in Kind::ALL {
            prop_assert!(world.subscriber.is_synced(kind));
        }
        // The Index that grew by changes is the one that a newcomer gets in one piece.
        let mut fresh = World::new(Subscriber::new(node()));
        fresh.publisher = world.publisher;
        fresh.connect();
        fresh.settle();
        prop_assert_eq!(world.view.of_index(), fresh.view.of_index());
    }

    #[test]
    fn a_subscriber_on_demand_has_what_it_asked_for_and_nothing_stale(actions in actions()) {
        let mut world = World::new(Subscriber::on_demand(node()));
        for action in actions {
            world.act(action);
        }
        world.settle();
        for (name, resource) in &world.view.resources {
            prop_assert_eq!(world.truth.get(name), Some(resource));
        }
        // Whatever is asked for now is there afterwards when it exists.
        for number in 0..9 {
            world.act(Action::Want(number));
        }
        world.settle();
        prop_assert_eq!(&world.view.resources, &world.truth);
    }

    #[test]
    fn whoever_comes_back_is_sent_nothing_that_did_not_change(
        numbers in proptest::collection::btree_set(0..RESOURCES, 1..10), changed in 0..RESOURCES,
    ) {
        let mut world = World::new(Subscriber::new(node()));
        world.act(Action::Replace(numbers.clone(), 1));
        world.settle();
        world.act(Action::Restart);
        for kind in Kind::ALL {
            world.act(Action::ToServer(kind));
        }
        world.push();
        for kind in Kind::ALL {
            let response = world.responses.of(kind).front().expect("an answer, if an empty one");
            prop_assert_eq!(response.resources.len() + response.removed_resources.len(), 0);
        }
        world.settle();
        world.act(Action::Put(changed, 2));
        world.push();
        let kind = resource(changed, 0).kind();
        prop_assert_eq!(world.responses.of(kind).front().map(|response| response.resources.len()), Some(1));
    }
}

/// A session that has its first answer for everything, and its client.
fn connected(publisher: &Publisher) -> (Session, Subscriber, View) {
    let (mut session, mut subscriber, mut view) =
        (Session::new(LIMITS), Subscriber::new(node()), View::default());
    for request in subscriber.connect() {
        session.receive(request, publisher).unwrap();
    }
    while let Some(response) = session.poll(publisher).unwrap() {
        let answer = take(&mut subscriber, response, &mut view);
        session.receive(answer.request, publisher).unwrap();
    }
    (session, subscriber, view)
}

fn publisher(resources: impl IntoIterator<Item = Resource>) -> Publisher {
    let resources: Vec<_> = resources.into_iter().collect();
    let mut publisher = Publisher::new();
    for kind in Kind::ALL {
        publisher.replace(kind, resources.iter().cloned());
    }
    publisher
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
        (Session::new(LIMITS), Subscriber::new(node()), View::default());
    session.receive(subscriber.connect().remove(1), &publisher).unwrap();
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
    subscriber.connect().remove(1).initial_resource_versions.into_iter().collect()
}

#[test]
fn a_refused_resource_is_named_and_the_others_of_its_response_count() {
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
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
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
    let answer = take(&mut subscriber, response(vec![("uid", "v1", Vec::new())], &[]), &mut view);
    assert_eq!(answer.refused, [("uid".to_owned(), "is neither a workload nor a service".to_owned())]);
    assert!(!answer.synced && !subscriber.is_synced(Kind::Address));
    assert!(take(&mut subscriber, response(Vec::new(), &[]), &mut view).synced);
    assert!(subscriber.is_synced(Kind::Address) && !subscriber.is_synced(Kind::Authorization));
}

#[test]
fn a_type_that_nobody_asked_for_is_refused() {
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
    let strange = DeltaDiscoveryResponse { type_url: "strange".into(), ..response(Vec::new(), &[]) };
    let answer = take(&mut subscriber, strange, &mut view);
    assert_eq!(answer.request.error_detail.unwrap().message, "strange: unknown resource type");
    assert_eq!(answer.request.type_url, "strange");
}

#[test]
fn a_complaint_stays_short_however_much_is_refused() {
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
    let names: Vec<String> = (0..10_000).map(|number| format!("name-{number}")).collect();
    let bad = names.iter().map(|name| (name.as_str(), "v", Vec::new())).collect();
    let answer = take(&mut subscriber, response(bad, &[]), &mut view);
    let message = answer.request.error_detail.unwrap().message;
    assert!(message.len() < 4200 && message.contains("more"), "{message}");
    assert_eq!(answer.refused.len(), 10_000);
}

#[test]
fn a_service_is_removed_by_the_name_it_came_under() {
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
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
    let (mut subscriber, mut view) = (Subscriber::new(node()), View::default());
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
    let requests = Subscriber::new(node()).connect();
    assert_eq!(requests.len(), 2);
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
    let mut subscriber = Subscriber::on_demand(node());
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
    assert_eq!(view.resources.len(), 3, "policies only");
    // A service by its address brings its endpoints; what does not exist is settled too.
    for (name, known) in [("/10.1.0.6", 3 + 3), ("/10.99.0.1", 3 + 3), ("/10.0.0.1", 3 + 4)] {
        let name = ArcStr::from(name);
        session.receive(subscriber.want(&name).unwrap(), &publisher).unwrap();
        assert_eq!(subscriber.want(&name), None, "asked already");
        assert_eq!(exchange(&mut session, &mut subscriber, &mut view), [name]);
        assert_eq!(view.resources.len(), known);
    }
}
