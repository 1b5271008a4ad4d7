// SPDX-License-Identifier: Apache-2.0
//! A part of the catalogue: what one proxy is told when it asks for everything of a kind.
//!
//! A part is a list of names. A service stands for its endpoints too, and `<network>/<ip>` for what has that address, as in
//! a subscription by name. Which names those are is `control`'s knowledge.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;

use super::{draft::Draft, publisher::Shelf};
use crate::kind::{Kind, PerKind};

/// See the module. A kind without names of its own is told whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope(PerKind<Option<BTreeSet<ArcStr>>>);

impl Scope {
    /// Of a kind only these names.
    #[must_use]
    pub fn only(mut self, kind: Kind, names: BTreeSet<ArcStr>) -> Self {
        *self.0.of_mut(kind) = Some(names);
        self
    }

    /// The names of a kind; nothing: all of them.
    pub fn names(&self, kind: Kind) -> Option<&BTreeSet<ArcStr>> {
        self.0.of(kind).as_ref()
    }
}

/// What a proxy with a scope was told of one kind.
#[derive(Debug, Default)]
pub(super) struct Part {
    scope: Arc<Scope>,
    /// Versions of what is in the scope, as they were told.
    sent: BTreeMap<ArcStr, String>,
    /// Of what was told and is not in the scope now. It is told on while it exists: connections from before may still ask
    /// for it.
    left: BTreeMap<ArcStr, String>,
    // Position at which all of it was told.
    told: Option<u64>,
}

impl Part {
    /// Of a client that has `known`.
    pub(super) fn new(scope: Arc<Scope>, known: HashMap<String, String>) -> Self {
        let sent = known.into_iter().map(|(name, version)| (name.into(), version)).collect();
        Self { scope, sent, left: BTreeMap::new(), told: None }
    }

    /// Its scope is another now.
    pub(super) fn rescope(&mut self, scope: &Arc<Scope>) {
        if !Arc::ptr_eq(&self.scope, scope) {
            self.scope = Arc::clone(scope);
            self.told = None;
        }
    }

    /// Adds what the client lacks, then what it has too much of.
    pub(super) fn fill(&mut self, kind: Kind, shelf: &Shelf, draft: &mut Draft) {
        if self.told == Some(shelf.head()) {
            return;
        }
        let names = self.scope.names(kind).into_iter().flatten();
        let targets: BTreeSet<ArcStr> = names.flat_map(|name| shelf.lookup(name)).collect();
        let returned = self.left.extract_if(.., |name, _| targets.contains(name));
        self.sent.extend(returned);
        for name in &targets {
            let Some(entry) = shelf.entry(name) else { continue };
            if self.sent.get(name).is_some_and(|sent| *sent == entry.version) {
                continue;
            }
            if !draft.put(name, entry, Vec::new()) {
                return;
            }
            self.sent.insert(name.clone(), entry.version.to_string());
        }
        // Every target is there and was sent by now, so what is more has left: the scope moved, or what it leads to did.
        if self.sent.len() > targets.len() {
            let leaving = self.sent.extract_if(.., |name, _| !targets.contains(name));
            self.left.extend(leaving);
        }
        if self.tell_left(shelf, draft) {
            self.told = Some(shelf.head());
        }
    }

    /// Tells on what has left; says whether all of it fitted.
    fn tell_left(&mut self, shelf: &Shelf, draft: &mut Draft) -> bool {
        let mut gone = Vec::new();
        for (name, sent) in &mut self.left {
            match shelf.entry(name) {
                Some(entry) if *sent == entry.version => {}
                Some(entry) => {
                    if !draft.put(name, entry, Vec::new()) {
                        return false;
                    }
                    *sent = entry.version.to_string();
                }
                None => gone.push(name.clone()),
            }
        }
        for name in gone {
            if !draft.remove(&name) {
                return false;
            }
            self.left.remove(&name);
        }
        true
    }

    /// Position at which all of it was told.
    pub(super) fn told(&self) -> Option<u64> {
        self.told
    }
}
