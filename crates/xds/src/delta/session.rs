// SPDX-License-Identifier: Apache-2.0
//! The server's side of one stream: what this client subscribed to, what it has been told, what it answered.
//!
//! At most one response of a type is unanswered; what changes meanwhile is gathered. The first answer of a stream is
//! whole, because a client takes it for the state of the mesh; later ones come in pieces. Removals come after
//! everything that was there when they are told: an address that moves to another workload is never unknown in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arcstr::ArcStr;
use proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

use super::{
    ProtocolError, WILDCARD,
    draft::Draft,
    publisher::{Publisher, Shelf},
    scope::{Part, Scope},
    wanted::{Behind, Cursor, Named, Wanted},
};
use crate::kind::{Kind, PerKind};

/// How much of a client's complaint is kept.
const COMPLAINT: usize = 4096;

/// Most refused resources remembered for one stream and type.
const REFUSED: usize = 1024;

/// Sizes of responses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The first answer of a type on a stream, in bytes. Clients accept 200 MB.
    pub first: usize,
    /// Every later one, in bytes.
    pub piece: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { first: 150 << 20, piece: 1 << 20 }
    }
}

/// What a request came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The stream's first request of a type.
    Subscribed {
        /// The type.
        kind: Kind,
        /// How many resources the client says it has.
        known: usize,
    },
    /// The client took a response.
    Acked {
        /// Its type.
        kind: Kind,
    },
    /// The client refused resources of a response; it keeps the others.
    Rejected {
        /// Its type.
        kind: Kind,
        /// Which, as far as its message names them.
        names: Vec<ArcStr>,
        /// Its message.
        message: String,
    },
    /// Nothing that matters outside: a late answer, a change of subscription.
    Nothing,
}

/// How far a client is with one type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether it wants everything, not names.
    pub wildcard: bool,
    /// Whether a response is unanswered.
    pub in_flight: bool,
    /// Position in the catalogue that it has acknowledged.
    pub acked: u64,
    /// Resources that it refused and that have not changed since, with its message.
    pub refused: BTreeMap<ArcStr, String>,
}

/// See the module.
#[derive(Debug)]
pub struct Session {
    tracks: PerKind<Option<Track>>,
    // `None`: everything is everything.
    scope: Option<Arc<Scope>>,
    nonces: u64,
    limits: Limits,
}

#[derive(Debug)]
struct Track {
    wanted: Wanted,
    in_flight: Option<InFlight>,
    answered: bool,
    // A response was cut at the limit: the rest follows without waiting for a change.
    cut: bool,
    acked: u64,
    refused: BTreeMap<ArcStr, Refusal>,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    position: u64,
}

#[derive(Debug)]
struct Refusal {
    version: Option<ArcStr>,
    message: String,
}

impl Session {
    /// Of a stream that has just been opened.
    pub fn new(limits: Limits) -> Self {
        Self { tracks: PerKind::default(), scope: None, nonces: 0, limits }
    }

    /// What the client is told when it asks for everything, from now on. A client that asked before there was a scope is
    /// still told everything.
    pub fn narrow(&mut self, scope: &Arc<Scope>) {
        self.scope = Some(Arc::clone(scope));
        for kind in Kind::ALL {
            if let Some(Track { wanted: Wanted::Part(part), .. }) = self.tracks.of_mut(kind) {
                part.rescope(scope);
            }
        }
    }

    /// Its scope.
    pub fn scope(&self) -> Option<&Arc<Scope>> {
        self.scope.as_ref()
    }

    /// Takes a request.
    ///
    /// # Errors
    /// When it is for an unknown type or asks for too much; the stream must end.
    pub fn receive(
        &mut self,
        request: DeltaDiscoveryRequest,
        publisher: &Publisher,
    ) -> Result<Event, ProtocolError> {
        let Some(kind) = Kind::of_type_url(&request.type_url) else {
            return Err(ProtocolError::UnknownType { url: request.type_url });
        };
        let shelf = publisher.shelf(kind);
        let scope = self.scope.as_ref().filter(|scope| scope.names(kind).is_some());
        let slot = self.tracks.of_mut(kind);
        match slot {
            None => {
                let known = request.initial_resource_versions.len();
                *slot = Some(Track::open(request, shelf, scope)?);
                Ok(Event::Subscribed { kind, known })
            }
            Some(track) => {
                let event = track.answer(kind, &request, shelf);
                track.resubscribe(request, shelf)?;
                Ok(event)
            }
        }
    }

    /// The next response that is due, if any. Policies go before workloads.
    ///
    /// # Errors
    /// [`Behind`].
    pub fn poll(&mut self, publisher: &Publisher) -> Result<Option<DeltaDiscoveryResponse>, Behind> {
        for kind in Kind::ALL {
            let shelf = publisher.shelf(kind);
            let Some(track) = self.tracks.of_mut(kind) else { continue };
            let Some(draft) = track.poll(kind, shelf, self.limits)? else { continue };
            self.nonces += 1;
            let nonce = self.nonces.to_string();
            let position = if track.cut { track.acked } else { shelf.head() };
            track.in_flight = Some(InFlight { nonce: nonce.clone(), position });
            return Ok(Some(draft.into_response(nonce, shelf.head())));
        }
        Ok(None)
    }

    /// Whether [`Self::poll`] has something that must not wait for a change: a first answer, or the rest of a long one.
    pub fn is_urgent(&self) -> bool {
        let urgent = |track: &Track| track.in_flight.is_none() && (!track.answered || track.cut);
        self.tracks().any(urgent)
    }

    /// Whether the first answer of every type that is subscribed, workloads and policies among them, has been given and
    /// acknowledged.
    pub fn is_settled(&self) -> bool {
        let settled = |track: &Track| track.answered && !track.cut && track.in_flight.is_none();
        Kind::L4.into_iter().all(|kind| self.tracks.of(kind).is_some()) && self.tracks().all(settled)
    }

    /// Whether a response is unanswered.
    pub fn in_flight(&self) -> bool {
        self.tracks().any(|track| track.in_flight.is_some())
    }

    /// How far the client is with a type; `None` before it subscribes.
    pub fn progress(&self, kind: Kind) -> Option<Progress> {
        self.tracks.of(kind).as_ref().map(|track| Progress {
            wildcard: matches!(track.wanted, Wanted::Everything(_) | Wanted::Part(_)),
            in_flight: track.in_flight.is_some(),
            acked: track.acked,
            refused: track
                .refused
                .iter()
                .map(|(name, refusal)| (name.clone(), refusal.message.clone()))
                .collect(),
        })
    }

    /// Position of a type that the client has acknowledged; 0 before it has any.
    pub fn acked(&self, kind: Kind) -> u64 {
        self.tracks.of(kind).as_ref().map_or(0, |track| track.acked)
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        Kind::ALL.into_iter().filter_map(|kind| self.tracks.of(kind).as_ref())
    }
}

impl Track {
    /// The first request of a type. Without names it asks for everything, as old clients do.
    fn open(
        request: DeltaDiscoveryRequest,
        shelf: &Shelf,
        scope: Option<&Arc<Scope>>,
    ) -> Result<Self, ProtocolError> {
        let known = request.initial_resource_versions;
        let subscribe = request.resource_names_subscribe;
        let unsubscribe: BTreeSet<String> = request.resource_names_unsubscribe.into_iter().collect();
        let wildcard = subscribe.is_empty() || subscribe.iter().any(|name| name == WILDCARD);
        let wanted = if wildcard && !unsubscribe.contains(WILDCARD) {
            match scope {
                Some(scope) => Wanted::Part(Part::new(Arc::clone(scope), known)),
                None => Wanted::Everything(Cursor::new(known, shelf)),
            }
        } else {
            // A client that asks on demand names what it has only as a version.
            let names = subscribe.into_iter().chain(known.keys().cloned());
            let names = names.filter(|name| name != WILDCARD && !unsubscribe.contains(name)).collect();
            Wanted::Named(Named::new(names, known))
        };
        wanted.check()?;
        Ok(Self { wanted, in_flight: None, answered: false, cut: false, acked: 0, refused: BTreeMap::new() })
    }

    /// An answer to a response; one to an older response says nothing any more.
    fn answer(&mut self, kind: Kind, request: &DeltaDiscoveryRequest, shelf: &Shelf) -> Event {
        let Some(in_flight) = self.in_flight.take_if(|in_flight| in_flight.nonce == request.response_nonce)
        else {
            return Event::Nothing;
        };
        self.acked = in_flight.position;
        let version = |name: &str| shelf.entry(name).map(|entry| entry.version.clone());
        self.refused.retain(|name, refusal| refusal.version == version(name));
        let Some(error) = &request.error_detail else { return Event::Acked { kind } };
        let message = head(&error.message, COMPLAINT).to_owned();
        let names = names_in(&message, shelf);
        for name in &names {
            if self.refused.len() < REFUSED {
                let refusal = Refusal { version: version(name), message: message.clone() };
                self.refused.insert(name.clone(), refusal);
            }
        }
        Event::Rejected { kind, names, message }
    }

    /// Names that come and go while the stream is open.
    fn resubscribe(&mut self, request: DeltaDiscoveryRequest, shelf: &Shelf) -> Result<(), ProtocolError> {
        let (subscribe, unsubscribe) = (request.resource_names_subscribe, request.resource_names_unsubscribe);
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return Ok(());
        }
        let everything = subscribe.iter().any(|name| name == WILDCARD);
        let nothing = unsubscribe.iter().any(|name| name == WILDCARD);
        match &mut self.wanted {
            Wanted::Named(named) if everything && !nothing => {
                self.wanted = Wanted::Everything(Cursor::new(named.take_sent(), shelf));
                self.answered = false;
            }
            Wanted::Everything(_) | Wanted::Part(_) if nothing => {
                let mut named = Named::default();
                named.change(subscribe, &unsubscribe, shelf);
                self.wanted = Wanted::Named(named);
                self.answered = false;
            }
            // Everything includes every name.
            Wanted::Everything(_) | Wanted::Part(_) => {}
            Wanted::Named(named) => {
                named.change(subscribe, &unsubscribe, shelf);
                self.cut = true;
            }
        }
        self.wanted.check()
    }

    fn poll(&mut self, kind: Kind, shelf: &Shelf, limits: Limits) -> Result<Option<Draft>, Behind> {
        if self.in_flight.is_some() || !shelf.is_complete() {
            return Ok(None);
        }
        let mut draft = Draft::new(kind, if self.answered { limits.piece } else { limits.first });
        match &mut self.wanted {
            Wanted::Everything(cursor) => cursor.fill(shelf, &mut draft)?,
            Wanted::Part(part) => part.fill(kind, shelf, &mut draft),
            Wanted::Named(named) => named.fill(shelf, &mut draft),
        }
        self.cut = draft.is_full();
        if draft.is_empty() && self.answered {
            // Nothing of what changed is for this client: it is where it would be had it been told.
            if let Wanted::Part(part) = &self.wanted {
                self.acked = part.told().unwrap_or(self.acked);
            }
            return Ok(None);
        }
        self.answered = true;
        Ok(Some(draft))
    }
}

/// Names of resources that a complaint is about: each stands before its reason, as in `name: reason`.
fn names_in(message: &str, shelf: &Shelf) -> Vec<ArcStr> {
    let mut names = BTreeSet::new();
    for (end, _) in message.match_indices(": ") {
        let before = message.get(..end).unwrap_or_default();
        let name = before.rsplit([' ', '\n', ',', ';', '[', '"']).next().unwrap_or_default();
        if shelf.entry(name).is_some() {
            names.insert(ArcStr::from(name));
        }
    }
    names.into_iter().collect()
}

/// The first `limit` bytes, at a character's edge.
fn head(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or_default()
}
