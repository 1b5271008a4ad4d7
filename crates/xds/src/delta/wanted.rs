// SPDX-License-Identifier: Apache-2.0
//! What a client wants of one type and how much of it was told: everything, by a position in the catalogue's order, or
//! names, by what was sent for each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arcstr::ArcStr;

use super::{
    ProtocolError, WILDCARD,
    draft::Draft,
    publisher::{Entry, Shelf},
    scope::Part,
};

/// Most names that one stream may subscribe to for a type.
const NAMES: usize = 262_144;

/// The client is so far behind that what was removed meanwhile is not known any more. The stream must end; the client
/// comes back with what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too far behind")]
pub struct Behind;

/// What a client asked for, and how much of it was told.
#[derive(Debug)]
pub(super) enum Wanted {
    Everything(Cursor),
    /// Everything that is in the client's scope.
    Part(Part),
    Named(Named),
}

/// Everything up to here was told.
#[derive(Debug)]
pub(super) struct Cursor {
    changes: u64,
    removals: u64,
    // What the client had when it came, until the catalogue is complete; then what of it was different, or is gone.
    known: HashMap<String, String>,
    stale: BTreeSet<ArcStr>,
    gone: BTreeSet<String>,
}

/// Names asked for, and what was told of them.
#[derive(Debug, Default)]
pub(super) struct Named {
    names: BTreeSet<String>,
    sent: BTreeMap<ArcStr, String>,
    absent: BTreeSet<String>,
    // Position at which all of it was told.
    told: Option<u64>,
}

impl Wanted {
    /// Whether it is within bounds.
    pub(super) fn check(&self) -> Result<(), ProtocolError> {
        match self {
            Self::Named(named) if named.names.len() > NAMES => {
                Err(ProtocolError::TooManyNames { limit: NAMES })
            }
            Self::Named(_) | Self::Everything(_) | Self::Part(_) => Ok(()),
        }
    }
}

impl Cursor {
    /// Of a client that has `known`.
    pub(super) fn new(known: HashMap<String, String>, shelf: &Shelf) -> Self {
        let (stale, gone) = (BTreeSet::new(), BTreeSet::new());
        Self { changes: 0, removals: shelf.head(), known, stale, gone }
    }

    pub(super) fn fill(&mut self, shelf: &Shelf, draft: &mut Draft) -> Result<(), Behind> {
        self.compare(shelf);
        if !shelf.remembers(self.removals) {
            return Err(Behind);
        }
        while let Some(name) = self.stale.first() {
            // What changed since is among the changes.
            let entry = shelf.entry(name).filter(|entry| entry.position <= self.changes);
            if let Some(entry) = entry
                && !draft.put(name, entry, Vec::new())
            {
                return Ok(());
            }
            self.stale.pop_first();
        }
        for (position, name, entry) in shelf.changes_after(self.changes) {
            if !draft.put(name, entry, Vec::new()) {
                return Ok(());
            }
            self.changes = position;
        }
        self.changes = shelf.head();
        while let Some(name) = self.gone.first() {
            if shelf.entry(name).is_none() && !draft.remove(name) {
                return Ok(());
            }
            self.gone.pop_first();
        }
        for (position, name) in shelf.removals_after(self.removals) {
            if !draft.remove(name) {
                return Ok(());
            }
            self.removals = position;
        }
        self.removals = shelf.head();
        Ok(())
    }

    /// Turns what the client has into what it lacks, once: the first is as large as the mesh, the second is not.
    fn compare(&mut self, shelf: &Shelf) {
        if self.known.is_empty() {
            return;
        }
        let known = std::mem::take(&mut self.known);
        let lacks = |(_, name, entry): &(u64, &ArcStr, &Entry)| {
            known.get(name.as_str()).is_none_or(|version| *version != entry.version)
        };
        self.stale = shelf.changes_after(0).filter(lacks).map(|(_, name, _)| name.clone()).collect();
        self.gone = known.into_keys().filter(|name| shelf.entry(name).is_none()).collect();
        (self.changes, self.removals) = (shelf.head(), shelf.head());
    }
}

impl Named {
    /// Of a client that has `known`.
    pub(super) fn new(names: BTreeSet<String>, known: HashMap<String, String>) -> Self {
        // Without a version it is a name that waits for its answer, or a resource that must be sent again.
        let sent = known.into_iter().filter(|(_, version)| !version.is_empty());
        let sent = sent.map(|(name, version)| (name.into(), version)).collect();
        Self { names, sent, ..Self::default() }
    }

    /// What the client has, by what it was told.
    pub(super) fn take_sent(&mut self) -> HashMap<String, String> {
        std::mem::take(&mut self.sent)
            .into_iter()
            .map(|(name, version)| (name.to_string(), version))
            .collect()
    }

    /// Names that come and go.
    pub(super) fn change(&mut self, subscribe: Vec<String>, unsubscribe: &[String], shelf: &Shelf) {
        for name in subscribe.into_iter().filter(|name| name != WILDCARD) {
            // Asking again is asking to be told again: the client still has it, in a version that does not count.
            self.absent.remove(&name);
            for found in shelf.lookup(&name) {
                if let Some(version) = self.sent.get_mut(&found) {
                    version.clear();
                }
            }
            self.names.insert(name);
        }
        if !unsubscribe.is_empty() {
            // What these names meant and no other does, the client has dropped by itself.
            let before = self.targets(shelf);
            for name in unsubscribe {
                self.names.remove(name);
                self.absent.remove(name);
            }
            let after = self.targets(shelf);
            self.sent.retain(|name, _| !before.contains_key(name) || after.contains_key(name));
        }
        self.told = None;
    }

    /// What the names mean now, each with the names that mean it besides its own.
    fn targets(&self, shelf: &Shelf) -> BTreeMap<ArcStr, Vec<String>> {
        let mut targets: BTreeMap<ArcStr, Vec<String>> = BTreeMap::new();
        for name in &self.names {
            for found in shelf.lookup(name) {
                let own = found == *name;
                let aliases = targets.entry(found).or_default();
                if !own {
                    aliases.push(name.clone());
                }
            }
        }
        targets
    }

    pub(super) fn fill(&mut self, shelf: &Shelf, draft: &mut Draft) {
        if self.told == Some(shelf.head()) {
            return;
        }
        let targets = self.targets(shelf);
        for (name, aliases) in &targets {
            let Some(entry) = shelf.entry(name) else { continue };
            if self.sent.get(name).is_some_and(|sent| *sent == entry.version) {
                continue;
            }
            if !draft.put(name, entry, aliases.clone()) {
                return;
            }
            self.sent.insert(name.clone(), entry.version.to_string());
        }
        for name in self.sent.keys().filter(|name| !targets.contains_key(*name)).cloned().collect::<Vec<_>>()
        {
            if !draft.remove(&name) {
                return;
            }
            self.sent.remove(&name);
        }
        for name in &self.names {
            let found = !shelf.lookup(name).is_empty();
            if found {
                self.absent.remove(name);
            } else if !self.absent.contains(name) {
                if !draft.remove(name) {
                    return;
                }
                self.absent.insert(name.clone());
            }
        }
        self.told = Some(shelf.head());
    }
}
