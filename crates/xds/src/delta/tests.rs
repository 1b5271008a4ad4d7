// SPDX-License-Identifier: Apache-2.0
//! Both ends over a link that loses connections, repeats messages and interleaves types; each end alone is below.

mod scope;
mod session;
mod subscriber;

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
    arbitrary::{plain_policy, plain_route, plain_service, plain_workload},
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
        12..14 => plain_route(&format!("r{number}"), variant.into()).into(),
        14.. => {
            let service = plain_service(&format!("t{number}"), "10.1.0.1").key();
            let active = Some(variant.into());
            let limits = mesh::l7::traffic::Limits { active, waiting: None };
            mesh::Traffic { limits, ..mesh::Traffic::plain(service) }.into()
        }
        _ => {
            let mut policy = plain_policy(&format!("p{number}"));
            policy.dry_run = variant.is_multiple_of(2);
            policy.into()
        }
    }
}

const RESOURCES: u8 = 16;

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
            Change::Route(route) => drop(self.put(route.clone().into())),
            Change::Telemetry(telemetry) => drop(self.put(telemetry.clone().into())),
            Change::Traffic(traffic) => drop(self.put(traffic.clone().into())),
            Change::Guard(guard) => drop(self.put(guard.clone().into())),
            Change::Authentication(found) => drop(self.put(found.clone().into())),
            Change::WorkloadGone(uid) => drop(self.resources.remove(&gone(uid.to_string()))),
            Change::ServiceGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
            Change::PolicyGone(name) | Change::GuardGone(name) | Change::AuthenticationGone(name) => {
                drop(self.resources.remove(&gone(name.to_string())));
            }
            Change::RouteGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
            Change::TelemetryGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
            Change::TrafficGone(name) => drop(self.resources.remove(&gone(name.to_string()))),
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
        let routes = self.index.routes().map(|it| Resource::from(mesh::Route::clone(it)));
        let traffic = self.index.traffics().map(|it| Resource::from(mesh::Traffic::clone(it)));
        workloads
            .chain(services)
            .chain(policies)
            .chain(routes)
            .chain(traffic)
            .map(|resource| (resource.name(), resource))
            .collect()
    }
}

/// The first request for addresses of a new stream.
fn about_addresses(subscriber: &mut Subscriber) -> DeltaDiscoveryRequest {
    let mut requests = subscriber.connect().into_iter();
    requests.find(|request| request.type_url == proto::ADDRESS).unwrap()
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
        let mut world = World::new(Subscriber::new(node(), &Kind::ALL));
        for action in actions {
            world.act(action);
        }
        world.settle();
        prop_assert_eq!(&world.view.resources, &world.truth);
        for kind in Kind::ALL {
            prop_assert!(world.subscriber.is_synced(kind));
        }
        // The Index that grew by changes is the one that a newcomer gets in one piece.
        let mut fresh = World::new(Subscriber::new(node(), &Kind::ALL));
        fresh.publisher = world.publisher;
        fresh.connect();
        fresh.settle();
        prop_assert_eq!(world.view.of_index(), fresh.view.of_index());
    }

    #[test]
    fn a_subscriber_on_demand_has_what_it_asked_for_and_nothing_stale(actions in actions()) {
        let mut world = World::new(Subscriber::on_demand(node(), &Kind::ALL));
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
        let mut world = World::new(Subscriber::new(node(), &Kind::ALL));
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

fn publisher(resources: impl IntoIterator<Item = Resource>) -> Publisher {
    let resources: Vec<_> = resources.into_iter().collect();
    let mut publisher = Publisher::new();
    for kind in Kind::ALL {
        publisher.replace(kind, resources.iter().cloned());
    }
    publisher
}
