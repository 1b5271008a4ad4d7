// SPDX-License-Identifier: Apache-2.0
//! Rules of many guards, found by what they ask for.
//!
//! Every rule is filed under exact values of which a request must have one for it to match (an identity, an account, a
//! namespace, a path, a port); only rules that ask for none are looked at each time. So a check costs what could match,
//! not what exists.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;

use super::{Attribute, Condition, Guard, GuardAction, GuardClause, GuardRule, Test, matching::Facts};
use crate::{authz::matching::principal_text, name::PolicyName, policy::StringMatch};

/// Guards of one attachment.
#[derive(Debug, Default)]
pub struct Book {
    enforced: [Chapter; 3],
    dry_run: [Chapter; 3],
}

impl Book {
    /// Guards of one action, enforced or under trial.
    pub(super) fn chapter(&self, action: GuardAction, dry_run: bool) -> &Chapter {
        let [allow, deny, audit] = if dry_run { &self.dry_run } else { &self.enforced };
        match action {
            GuardAction::Allow => allow,
            GuardAction::Deny => deny,
            GuardAction::Audit => audit,
        }
    }

    fn chapter_mut(&mut self, guard: &Guard) -> &mut Chapter {
        let [allow, deny, audit] = if guard.dry_run { &mut self.dry_run } else { &mut self.enforced };
        match guard.action {
            GuardAction::Allow => allow,
            GuardAction::Deny => deny,
            GuardAction::Audit => audit,
        }
    }

    /// Adds a guard that is not there.
    pub(crate) fn insert(&mut self, guard: &Arc<Guard>) {
        self.chapter_mut(guard).insert(guard);
    }

    /// Removes a guard as it was added.
    pub(crate) fn remove(&mut self, guard: &Arc<Guard>) {
        self.chapter_mut(guard).remove(guard);
    }

    /// Whether it has no guard.
    pub(crate) fn is_empty(&self) -> bool {
        self.enforced.iter().chain(&self.dry_run).all(|chapter| chapter.guards.is_empty())
    }
}

/// Guards of one attachment and action.
#[derive(Debug, Default)]
pub(super) struct Chapter {
    guards: BTreeMap<PolicyName, Arc<Guard>>,
    pages: HashMap<Key, Page>,
    others: Page,
}

/// Rules, by guard and position.
type Page = Vec<(Arc<Guard>, usize)>;

/// What a rule is filed under; the smaller is the narrower.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key {
    Principal(ArcStr),
    Account(ArcStr, ArcStr),
    Path(ArcStr),
    Namespace(ArcStr),
    Port(u16),
}

impl Key {
    fn breadth(&self) -> u8 {
        match self {
            Self::Principal(_) => 0,
            Self::Account(..) => 1,
            Self::Path(_) => 2,
            Self::Namespace(_) => 3,
            Self::Port(_) => 4,
        }
    }
}

impl Chapter {
    /// Name of the first guard, if there is one.
    pub(super) fn first(&self) -> Option<&PolicyName> {
        self.guards.keys().next()
    }

    /// Names of the guards that match, some of them perhaps several times.
    pub(super) fn matching<'a>(
        &'a self,
        facts: &'a Facts<'a>,
        action: GuardAction,
    ) -> impl Iterator<Item = &'a PolicyName> {
        let found = (!self.pages.is_empty()).then(|| self.found(facts)).into_iter().flatten();
        let entries = found.chain([&self.others]).flatten();
        entries
            .filter(move |(guard, rule)| {
                guard.rules.get(*rule).is_some_and(|rule| facts.satisfy(rule, action))
            })
            .map(|(guard, _)| &guard.name)
    }

    /// Pages that the request's values lead to. Of a connection no path is known: all that ask for one are looked at.
    fn found(&self, facts: &Facts<'_>) -> Vec<&Page> {
        let asked = facts.asked;
        let identity = asked.identity;
        let keys = [
            Some(Key::Principal(facts.principal.as_str().into())),
            Some(Key::Account(identity.namespace().clone(), identity.service_account().clone())),
            Some(Key::Namespace(identity.namespace().clone())),
            Some(Key::Port(asked.destination.port())),
            asked.http.map(|http| Key::Path(http.path.into())),
        ];
        let mut pages: Vec<&Page> = keys.iter().flatten().filter_map(|key| self.pages.get(key)).collect();
        if asked.http.is_none() {
            let paths = self.pages.iter().filter(|(key, _)| matches!(key, Key::Path(_)));
            pages.extend(paths.map(|(_, page)| page));
        }
        pages
    }

    fn insert(&mut self, guard: &Arc<Guard>) {
        for (position, keys) in filing(guard) {
            let entry = || (Arc::clone(guard), position);
            match keys {
                Some(keys) => {
                    keys.into_iter().for_each(|key| self.pages.entry(key).or_default().push(entry()))
                }
                None => self.others.push(entry()),
            }
        }
        self.guards.insert(guard.name.clone(), Arc::clone(guard));
    }

    fn remove(&mut self, guard: &Arc<Guard>) {
        self.guards.remove(&guard.name);
        let strike = |page: &mut Page| page.retain(|(known, _)| known.name != guard.name);
        strike(&mut self.others);
        for key in filing(guard).filter_map(|(_, keys)| keys).flatten() {
            if let Some(page) = self.pages.get_mut(&key) {
                strike(page);
                if page.is_empty() {
                    self.pages.remove(&key);
                }
            }
        }
    }
}

/// Where the rules of a guard are filed; `None`: among those that are always looked at.
fn filing(guard: &Guard) -> impl Iterator<Item = (usize, Option<Vec<Key>>)> {
    guard.rules.iter().enumerate().map(|(position, rule)| (position, keys(rule)))
}

/// What satisfies the rule has one of these. All clauses must hold, so any of them will do: the one whose broadest key is
/// narrowest is taken.
fn keys(rule: &GuardRule) -> Option<Vec<Key>> {
    let breadth = |keys: &Vec<Key>| keys.iter().map(Key::breadth).max().unwrap_or_default();
    let mut keys = rule.clauses.iter().filter_map(clause_keys).min_by_key(breadth)?;
    keys.sort();
    keys.dedup();
    Some(keys)
}

/// Any alternative is enough: the keys of all of them, if each has some.
fn clause_keys(clause: &GuardClause) -> Option<Vec<Key>> {
    let alternatives = clause.alternatives.iter().filter(|conditions| !conditions.is_empty());
    let keys: Option<Vec<Vec<Key>>> = alternatives.map(|conditions| alternative_keys(conditions)).collect();
    Some(keys?.into_iter().flatten().collect())
}

/// All conditions must hold, so any of them will do.
fn alternative_keys(conditions: &[Condition]) -> Option<Vec<Key>> {
    let breadth = |keys: &Vec<Key>| keys.iter().map(Key::breadth).max().unwrap_or_default();
    conditions.iter().filter_map(condition_keys).min_by_key(breadth)
}

fn condition_keys(condition: &Condition) -> Option<Vec<Key>> {
    if condition.any.is_empty() {
        return None;
    }
    condition.any.iter().map(|test| key(&condition.of, test)).collect()
}

fn key(attribute: &Attribute, test: &Test) -> Option<Key> {
    match (attribute, test) {
        (Attribute::Principal, Test::Text(StringMatch::Exact(text))) => {
            Some(Key::Principal(principal_text(text).into()))
        }
        (Attribute::Namespace, Test::Text(StringMatch::Exact(text))) => Some(Key::Namespace(text.clone())),
        (Attribute::Path, Test::Text(StringMatch::Exact(text))) => Some(Key::Path(text.clone())),
        (Attribute::ServiceAccount, Test::Account(account)) => {
            Some(Key::Account(account.namespace.clone(), account.service_account.clone()))
        }
        (Attribute::DestinationPort, Test::Port(port)) => Some(Key::Port(*port)),
        _ => None,
    }
}
