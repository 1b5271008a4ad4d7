// SPDX-License-Identifier: Apache-2.0
//! The client's side: what it accepted and in which version, kept over any number of streams.
//!
//! A response is taken piece by piece, so that a push of the whole mesh is never in memory twice. A resource that cannot
//! be used is refused by name; the others of its response count. It does not hold the resources themselves: `Replica`
//! does.

use std::collections::{BTreeSet, HashMap};

use arcstr::ArcStr;
use mesh::Change;
use proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
    google::rpc::Status,
};

use super::WILDCARD;
use crate::{
    codec::{self, Refused, ResourceKey},
    kind::{Kind, PerKind},
    replica::PIECE,
};

/// gRPC `INVALID_ARGUMENT`: the code of a refusal.
const INVALID_ARGUMENT: i32 = 3;

/// How long a complaint may be: ten thousand refused resources must not make a request that the server refuses.
const COMPLAINT: usize = 4096;

/// How many characters of it one resource may take.
const REASON: usize = 512;

/// See the module.
#[derive(Debug)]
pub struct Subscriber {
    node: Node,
    kinds: &'static [Kind],
    tracks: PerKind<Track>,
}

/// One type.
#[derive(Debug, Default)]
struct Track {
    retained: HashMap<ResourceKey, Retained>,
    demand: Option<Demand>,
    synced: bool,
}

/// A resource that is in force.
#[derive(Debug)]
struct Retained {
    // Empty when what the server has is something else that was refused: it must be sent again on the next stream.
    version: Box<str>,
    // Its name on the wire where that differs from the key's form, in case or by a dot.
    name: Option<Box<str>>,
}

/// Names asked for instead of everything.
#[derive(Debug, Default)]
struct Demand {
    names: BTreeSet<ArcStr>,
    unanswered: BTreeSet<ArcStr>,
}

/// One step of taking a response.
#[derive(Debug)]
pub enum Step {
    /// Apply these, in order, then go on.
    Apply(Vec<Change>),
    /// All is applied: answer the server.
    Answer(Box<Answer>),
}

/// What to tell after a response.
#[derive(Debug, Default)]
pub struct Answer {
    /// The acknowledgement, or the refusal.
    pub request: DeltaDiscoveryRequest,
    /// The type, when it is one that this end knows.
    pub kind: Option<Kind>,
    /// What was refused: name and reason.
    pub refused: Vec<(String, String)>,
    /// Whether everything of this type is known from now on.
    pub synced: bool,
    /// Names asked for on demand that this response settles, whether they exist or not.
    pub settled: Vec<ArcStr>,
}

impl Subscriber {
    /// Of everything of these kinds.
    pub fn new(node: Node, kinds: &'static [Kind]) -> Self {
        // Nothing is to come of the others.
        let track = |kind| Track { synced: !kinds.contains(&kind), ..Track::default() };
        Self { node, kinds, tracks: PerKind::new(track) }
    }

    /// The same, but only of those workloads and services that are asked for by [`Self::want`].
    pub fn on_demand(node: Node, kinds: &'static [Kind]) -> Self {
        let mut subscriber = Self::new(node, kinds);
        let track = subscriber.tracks.of_mut(Kind::Address);
        track.demand = Some(Demand::default());
        track.synced = true;
        subscriber
    }

    /// A new stream: its first requests, one per type.
    pub fn connect(&mut self) -> Vec<DeltaDiscoveryRequest> {
        self.kinds.iter().map(|kind| self.first_request(*kind)).collect()
    }

    fn first_request(&self, kind: Kind) -> DeltaDiscoveryRequest {
        let track = self.tracks.of(kind);
        let retained = track.retained.iter();
        let mut request = DeltaDiscoveryRequest {
            node: Some(self.node.clone()),
            type_url: kind.type_url().to_owned(),
            initial_resource_versions: retained
                .map(|(key, retained)| (retained.name_of(key), retained.version.to_string()))
                .collect(),
            ..DeltaDiscoveryRequest::default()
        };
        if let Some(demand) = &track.demand {
            // Without names a request would mean everything; this means nothing but the names.
            request.resource_names_subscribe.push(WILDCARD.to_owned());
            request.resource_names_unsubscribe.push(WILDCARD.to_owned());
            request.resource_names_subscribe.extend(demand.names.iter().map(ToString::to_string));
            for name in &demand.unanswered {
                request.initial_resource_versions.entry(name.to_string()).or_default();
            }
        }
        request
    }

    /// Asks for a workload or service by its name or by `<network>/<ip>`. The request to send, or none when it has been
    /// asked already, or when everything is subscribed anyway.
    pub fn want(&mut self, name: &ArcStr) -> Option<DeltaDiscoveryRequest> {
        let demand = self.tracks.of_mut(Kind::Address).demand.as_mut()?;
        demand.names.insert(name.clone());
        demand.unanswered.insert(name.clone()).then(|| DeltaDiscoveryRequest {
            type_url: Kind::Address.type_url().to_owned(),
            resource_names_subscribe: vec![name.to_string()],
            ..DeltaDiscoveryRequest::default()
        })
    }

    /// Whether everything of a type that is subscribed has arrived once.
    pub fn is_synced(&self, kind: Kind) -> bool {
        self.tracks.of(kind).synced
    }

    /// How many resources of a type are in force.
    pub fn len(&self, kind: Kind) -> usize {
        self.tracks.of(kind).retained.len()
    }

    /// Whether none is.
    pub fn is_empty(&self, kind: Kind) -> bool {
        self.len(kind) == 0
    }

    /// Takes a response, step by step. Dropping it half way is only safe when the stream ends too.
    pub fn take(&mut self, response: DeltaDiscoveryResponse) -> Delivery<'_> {
        let kind = Kind::of_type_url(&response.type_url);
        let mut answer = Answer { kind, ..Answer::default() };
        answer.request.type_url = response.type_url;
        answer.request.response_nonce = response.nonce;
        Delivery {
            subscriber: self,
            answer,
            resources: response.resources.into_iter(),
            removed: response.removed_resources.into_iter(),
        }
    }
}

impl Retained {
    fn name_of(&self, key: &ResourceKey) -> String {
        self.name.as_ref().map_or_else(|| key.to_string(), ToString::to_string)
    }
}

/// A response that is being taken.
#[derive(Debug)]
pub struct Delivery<'a> {
    subscriber: &'a mut Subscriber,
    answer: Answer,
    resources: std::vec::IntoIter<Resource>,
    removed: std::vec::IntoIter<String>,
}

impl Delivery<'_> {
    /// The next step; the last one is [`Step::Answer`].
    ///
    /// What is there comes before what is gone, so that an address that changes hands is never unknown in between.
    pub fn step(&mut self) -> Step {
        let Some(kind) = self.answer.kind else {
            let reason = "unknown resource type".to_owned();
            self.answer.refused.push((self.answer.request.type_url.clone(), reason));
            return self.finish();
        };
        let mut changes = Vec::new();
        while changes.len() < PIECE {
            if let Some(resource) = self.resources.next() {
                self.put(kind, resource, &mut changes);
            } else if let Some(name) = self.removed.next() {
                self.remove(kind, name, &mut changes);
            } else {
                break;
            }
        }
        if !changes.is_empty() {
            return Step::Apply(changes);
        }
        let track = self.subscriber.tracks.of_mut(kind);
        if self.answer.refused.is_empty() && track.demand.is_none() {
            self.answer.synced = !std::mem::replace(&mut track.synced, true);
        }
        self.finish()
    }

    fn finish(&mut self) -> Step {
        let mut answer = std::mem::take(&mut self.answer);
        if !answer.refused.is_empty() {
            let message = complaint(&answer.refused);
            answer.request.error_detail =
                Some(Status { code: INVALID_ARGUMENT, message, details: Vec::new() });
        }
        Step::Answer(Box::new(answer))
    }

    fn put(&mut self, kind: Kind, resource: Resource, changes: &mut Vec<Change>) {
        let track = self.subscriber.tracks.of_mut(kind);
        if let Some(demand) = &mut track.demand {
            let names = || std::iter::once(&resource.name).chain(&resource.aliases);
            self.answer.settled.extend(names().filter_map(|name| demand.unanswered.take(name.as_str())));
            // It came as an endpoint, or crossed the message that gave up its name: from now on it is followed by its
            // own, or nobody would say when it changes.
            if !names().any(|name| demand.names.contains(name.as_str())) {
                demand.names.insert(resource.name.as_str().into());
                self.answer.request.resource_names_subscribe.push(resource.name.clone());
            }
        }
        let decoded = body(kind, &resource).and_then(|bytes| codec::decode(kind, &resource.name, bytes));
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(refused) => {
                // What was accepted before stays in force.
                if let Some(retained) =
                    track.of_name(kind, &resource.name).and_then(|key| track.retained.get_mut(&key))
                {
                    retained.version = Box::default();
                }
                self.answer.refused.push((resource.name, reasons(&refused)));
                return;
            }
        };
        let key = decoded.key();
        // A name that was a workload and is a service now, or the other way round.
        if let Some(other) = track.of_name(kind, &resource.name).filter(|other| *other != key) {
            track.retained.remove(&other);
            changes.push(other.gone());
        }
        let name = (key.to_string() != resource.name).then(|| resource.name.into_boxed_str());
        track.retained.insert(key, Retained { version: resource.version.into_boxed_str(), name });
        changes.push(decoded.into());
    }

    fn remove(&mut self, kind: Kind, name: String, changes: &mut Vec<Change>) {
        let track = self.subscriber.tracks.of_mut(kind);
        if let Some(key) = track.of_name(kind, &name) {
            track.retained.remove(&key);
            changes.push(key.gone());
        }
        if let Some(demand) = &mut track.demand {
            self.answer.settled.extend(demand.unanswered.take(name.as_str()));
            // Names that do not exist are not kept: whoever asks for many must not make this grow.
            if demand.names.remove(name.as_str()) {
                self.answer.request.resource_names_unsubscribe.push(name);
            }
        }
    }
}

impl Track {
    /// What is in force under a name on the wire.
    fn of_name(&self, kind: Kind, name: &str) -> Option<ResourceKey> {
        let keys = ResourceKey::named(kind, name);
        keys.into_iter()
            .flatten()
            .find(|key| self.retained.get(key).is_some_and(|it| it.name_of(key) == name))
    }
}

/// The message inside a resource, of the type that its response says.
fn body(kind: Kind, resource: &Resource) -> Result<&[u8], Refused> {
    match &resource.resource {
        Some(any) if any.type_url == kind.type_url() => Ok(&any.value),
        other => Err(Refused::WrongType {
            url: other.as_ref().map(|any| any.type_url.clone()).unwrap_or_default(),
        }),
    }
}

/// An error with all that it says, cut where it quotes too much of what was sent.
fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    if let Some((end, _)) = text.char_indices().nth(REASON) {
        text.truncate(end);
    }
    text
}

/// `name: reason; name: reason`, as many as fit.
fn complaint(refused: &[(String, String)]) -> String {
    let mut text = String::new();
    for (told, (name, reason)) in refused.iter().enumerate() {
        if !text.is_empty() {
            text.push_str("; ");
        }
        if text.len() + name.len() + reason.len() > COMPLAINT {
            text.push_str(&format!("and {} more", refused.len() - told));
            break;
        }
        text.extend([name, ": ", reason]);
    }
    text
}
