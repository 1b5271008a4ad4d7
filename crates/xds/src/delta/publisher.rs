// SPDX-License-Identifier: Apache-2.0
//! What exists, and in which order it last changed. A session remembers one position in that order instead of a copy of
//! the catalogue, so a thousand proxies cost a thousand numbers. It does not know who listens.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::OnceLock,
};

use arcstr::ArcStr;
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::places::Places;
use crate::{
    codec::Resource,
    kind::{Kind, PerKind},
};

/// Removals remembered for sessions that are behind. A session further behind than that starts again.
const REMOVALS: usize = 65_536;

/// Bytes of the content hash that make a version: 96 bits, so that a changed resource never looks unchanged.
const VERSION_BYTES: usize = 12;

/// A change of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// A resource appeared or changed.
    Put(Resource),
    /// The resource of this name is gone.
    Remove(Kind, ArcStr),
}

/// What a change of the catalogue came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// Resources that are new or different.
    pub put: usize,
    /// Resources that were there and are not.
    pub removed: usize,
}

/// The catalogue.
#[derive(Debug, Default)]
pub struct Publisher {
    shelves: PerKind<Shelf>,
}

/// All resources of one kind.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    entries: HashMap<ArcStr, Entry>,
    // Position of the last change of each resource that exists, and of the removal of each that was forgotten lately.
    changes: BTreeMap<u64, ArcStr>,
    removals: BTreeMap<u64, ArcStr>,
    removed_at: HashMap<ArcStr, u64>,
    bytes: usize,
    head: u64,
    horizon: u64,
    complete: bool,
    // Made when the first proxy asks on demand; most meshes have none.
    places: OnceLock<Places>,
}

/// One resource as it is sent.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) version: ArcStr,
    pub(super) body: Bytes,
    pub(super) position: u64,
}

impl Publisher {
    /// An empty one. Nothing of a kind is told to anyone before its first [`Self::replace`]: a server that has just
    /// started must not make proxies forget what they know.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes `resources` all that exists of a kind; resources of another kind among them are left out. What did not
    /// change is not sent again.
    pub fn replace(&mut self, kind: Kind, resources: impl IntoIterator<Item = Resource>) -> Published {
        let shelf = self.shelves.of_mut(kind);
        let mut kept = HashSet::new();
        let mut published = Published::default();
        for resource in resources.into_iter().filter(|resource| resource.kind() == kind) {
            let name = resource.name();
            published.put += usize::from(shelf.put(name.clone(), &resource));
            kept.insert(name);
        }
        // Sorted, so that the same input always gives the same order.
        let mut gone: Vec<ArcStr> =
            shelf.entries.keys().filter(|name| !kept.contains(*name)).cloned().collect();
        gone.sort_unstable();
        published.removed = gone.iter().filter(|name| shelf.remove(name)).count();
        shelf.complete = true;
        published
    }

    /// Applies changes. Within one call, what is put is told before what is removed.
    pub fn update(&mut self, updates: impl IntoIterator<Item = Update>) -> Published {
        let mut published = Published::default();
        for update in updates {
            match update {
                Update::Put(resource) => {
                    let shelf = self.shelves.of_mut(resource.kind());
                    published.put += usize::from(shelf.put(resource.name(), &resource));
                }
                Update::Remove(kind, name) => {
                    published.removed += usize::from(self.shelves.of_mut(kind).remove(&name));
                }
            }
        }
        published
    }

    /// How many resources of a kind exist.
    pub fn len(&self, kind: Kind) -> usize {
        self.shelves.of(kind).entries.len()
    }

    /// Whether nothing of a kind exists.
    pub fn is_empty(&self, kind: Kind) -> bool {
        self.len(kind) == 0
    }

    /// Whether every kind has been filled: before that there is nothing to say.
    pub fn is_complete(&self) -> bool {
        Kind::ALL.into_iter().all(|kind| self.shelf(kind).complete)
    }

    /// Bytes of all resources, about what a newcomer is sent.
    pub fn bytes(&self) -> usize {
        Kind::ALL.into_iter().map(|kind| self.shelf(kind).bytes).sum()
    }

    /// Position of the last change of a kind.
    pub fn position(&self, kind: Kind) -> u64 {
        self.shelves.of(kind).head
    }

    /// Names and versions of what exists of a kind, in no order.
    pub fn versions(&self, kind: Kind) -> impl Iterator<Item = (&ArcStr, &ArcStr)> {
        self.shelves.of(kind).entries.iter().map(|(name, entry)| (name, &entry.version))
    }

    pub(super) fn shelf(&self, kind: Kind) -> &Shelf {
        self.shelves.of(kind)
    }
}

impl Shelf {
    /// Whether it was different.
    fn put(&mut self, name: ArcStr, resource: &Resource) -> bool {
        let body = resource.encode();
        let version = version(&body);
        if let Some(entry) = self.entries.get(&name) {
            if entry.version == version {
                return false;
            }
            self.changes.remove(&entry.position);
            self.bytes -= entry.body.len();
            if let Some(places) = self.places.get_mut() {
                places.forget(&name, &entry.body);
            }
        }
        if let Some(position) = self.removed_at.remove(&name) {
            self.removals.remove(&position);
        }
        if let Some(places) = self.places.get_mut() {
            places.learn(&name, &body);
        }
        self.bytes += body.len();
        let position = self.advance();
        self.changes.insert(position, name.clone());
        self.entries.insert(name, Entry { version, body: body.into(), position });
        true
    }

    /// Whether it was there.
    fn remove(&mut self, name: &ArcStr) -> bool {
        let Some(entry) = self.entries.remove(name) else { return false };
        self.changes.remove(&entry.position);
        self.bytes -= entry.body.len();
        if let Some(places) = self.places.get_mut() {
            places.forget(name, &entry.body);
        }
        let position = self.advance();
        self.removals.insert(position, name.clone());
        self.removed_at.insert(name.clone(), position);
        if self.removals.len() > REMOVALS
            && let Some((position, name)) = self.removals.pop_first()
        {
            self.removed_at.remove(&name);
            self.horizon = position;
        }
        true
    }

    fn advance(&mut self) -> u64 {
        self.head += 1;
        self.head
    }

    /// Position of the last change.
    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Whether it has been filled; before that nothing may be said about what does not exist.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether removals after this position are all still known.
    pub(super) fn remembers(&self, position: u64) -> bool {
        position >= self.horizon
    }

    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.get(name)
    }

    /// What exists and changed after a position, oldest change first.
    pub(super) fn changes_after(&self, position: u64) -> impl Iterator<Item = (u64, &ArcStr, &Entry)> {
        self.changes
            .range(position + 1..)
            .filter_map(|(position, name)| Some((*position, name, self.entries.get(name)?)))
    }

    /// What was removed after a position, oldest first.
    pub(super) fn removals_after(&self, position: u64) -> impl Iterator<Item = (u64, &ArcStr)> {
        self.removals.range(position + 1..).map(|(position, name)| (*position, name))
    }

    /// What a proxy means that asks for `name`: the resource of that name, what has that address, and the endpoints of
    /// every service among them.
    pub(super) fn lookup(&self, name: &str) -> BTreeSet<ArcStr> {
        let places = self.places.get_or_init(|| {
            let mut places = Places::default();
            self.entries.iter().for_each(|(name, entry)| places.learn(name, &entry.body));
            places
        });
        let named = self.entries.get_key_value(name).map(|(name, _)| name.clone());
        let mut found: BTreeSet<ArcStr> = places.at(name).chain(named).collect();
        let endpoints: Vec<ArcStr> = found.iter().flat_map(|name| places.endpoints_of(name)).collect();
        found.extend(endpoints);
        found
    }
}

/// A hash of the content: the same on every replica of the server and after a restart, so a proxy that changes over is
/// not sent again what it has.
fn version(body: &[u8]) -> ArcStr {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(body);
    let mut text = String::with_capacity(2 * VERSION_BYTES);
    for byte in digest.iter().take(VERSION_BYTES) {
        for nibble in [byte >> 4, byte & 0xf] {
            text.extend(DIGITS.get(usize::from(nibble)).map(|digit| char::from(*digit)));
        }
    }
    text.into()
}
