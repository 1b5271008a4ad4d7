// SPDX-License-Identifier: Apache-2.0
//! Rules of many policies, found by what they ask for.
//!
//! Every rule is filed under exact values that a connection must have for it to match (an identity, a service account, a
//! source range, a namespace or a port); only rules that ask for none are looked at each time. So a check costs what
//! could match, not what exists.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use arcstr::ArcStr;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;

use super::matching::{Facts, principal_text};
use crate::{
    name::PolicyName,
    policy::{Action, Clause, Match, Policy, Rule, StringMatch},
};

/// Policies of one scope.
#[derive(Debug, Default)]
pub(crate) struct Rulebook {
    enforced: Chapters,
    dry_run: Chapters,
}

/// By action.
#[derive(Debug, Default)]
struct Chapters {
    allow: Chapter,
    deny: Chapter,
}

impl Rulebook {
    /// Policies of one action, enforced or under trial.
    pub(super) fn chapter(&self, action: Action, dry_run: bool) -> &Chapter {
        let chapters = if dry_run { &self.dry_run } else { &self.enforced };
        match action {
            Action::Allow => &chapters.allow,
            Action::Deny => &chapters.deny,
        }
    }

    fn chapter_mut(&mut self, policy: &Policy) -> &mut Chapter {
        let chapters = if policy.dry_run { &mut self.dry_run } else { &mut self.enforced };
        match policy.action {
            Action::Allow => &mut chapters.allow,
            Action::Deny => &mut chapters.deny,
        }
    }

    /// Adds a policy that is not there.
    pub(crate) fn insert(&mut self, policy: &Arc<Policy>) {
        self.chapter_mut(policy).insert(policy);
    }

    /// Removes a policy as it was added.
    pub(crate) fn remove(&mut self, policy: &Arc<Policy>) {
        self.chapter_mut(policy).remove(policy);
    }

    /// Whether it has no policy.
    pub(crate) fn is_empty(&self) -> bool {
        let chapters = [&self.enforced, &self.dry_run];
        chapters.iter().all(|chapters| chapters.allow.is_empty() && chapters.deny.is_empty())
    }
}

/// Policies of one scope and action.
#[derive(Debug, Default)]
pub(super) struct Chapter {
    policies: BTreeMap<PolicyName, Arc<Policy>>,
    principals: HashMap<ArcStr, Page>,
    accounts: HashMap<(ArcStr, ArcStr), Page>,
    namespaces: HashMap<ArcStr, Page>,
    ports: HashMap<u16, Page>,
    sources_v4: PrefixMap<Ipv4Net, Page>,
    sources_v6: PrefixMap<Ipv6Net, Page>,
    others: Page,
}

/// Rules, by policy and position.
#[derive(Debug, Default)]
struct Page(Vec<Entry>);

#[derive(Clone, Debug)]
struct Entry {
    policy: Arc<Policy>,
    rule: usize,
}

/// What a rule is filed under; from the one that fits fewest connections to the one that fits all.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Principal(ArcStr),
    Account(ArcStr, ArcStr),
    Source(IpNet),
    Namespace(ArcStr),
    Port(u16),
    Any,
}

impl Key {
    /// Smaller is better.
    fn breadth(&self) -> u8 {
        match self {
            Self::Principal(_) => 0,
            Self::Account(..) => 1,
            Self::Source(_) => 2,
            Self::Namespace(_) => 3,
            Self::Port(_) => 4,
            Self::Any => 5,
        }
    }
}

impl Chapter {
    /// Name of the first policy, if there is one.
    pub(super) fn first(&self) -> Option<&PolicyName> {
        self.policies.keys().next()
    }

    /// Name of the first policy that matches.
    pub(super) fn first_match(&self, facts: &Facts<'_>) -> Option<&PolicyName> {
        let subject = facts.subject;
        let (v4, v6) = match subject.source.ip() {
            IpAddr::V4(ip) => (Some(self.sources_v4.cover_values(&Ipv4Net::from(ip))), None),
            IpAddr::V6(ip) => (None, Some(self.sources_v6.cover_values(&Ipv6Net::from(ip)))),
        };
        let peer = subject.identity.as_ref();
        let named = facts.principal.as_ref().and_then(|principal| self.principals.get(principal.as_str()));
        let account = peer.filter(|_| !self.accounts.is_empty()).and_then(|identity| {
            self.accounts.get(&(identity.namespace().clone(), identity.service_account().clone()))
        });
        let namespace = peer.and_then(|identity| self.namespaces.get(identity.namespace()));
        let port = self.ports.get(&subject.destination.port());
        let pages = named.into_iter().chain(account).chain(namespace).chain(port);
        pages
            .chain(v4.into_iter().flatten())
            .chain(v6.into_iter().flatten())
            .chain(std::iter::once(&self.others))
            .filter_map(|page| page.first_match(facts))
            .min()
    }

    fn is_empty(&self) -> bool {
        self.policies.is_empty()
    }

    fn insert(&mut self, policy: &Arc<Policy>) {
        for (rule, keys) in filing(policy) {
            for key in keys {
                self.page(key).insert(Entry { policy: Arc::clone(policy), rule });
            }
        }
        self.policies.insert(policy.name.clone(), Arc::clone(policy));
    }

    fn remove(&mut self, policy: &Arc<Policy>) {
        self.policies.remove(&policy.name);
        for key in filing(policy).flat_map(|(_, keys)| keys) {
            self.strike(key, &policy.name);
        }
    }

    fn page(&mut self, key: Key) -> &mut Page {
        match key {
            Key::Principal(principal) => self.principals.entry(principal).or_default(),
            Key::Account(namespace, account) => self.accounts.entry((namespace, account)).or_default(),
            Key::Source(IpNet::V4(net)) => self.sources_v4.entry(net).or_default(),
            Key::Source(IpNet::V6(net)) => self.sources_v6.entry(net).or_default(),
            Key::Namespace(namespace) => self.namespaces.entry(namespace).or_default(),
            Key::Port(port) => self.ports.entry(port).or_default(),
            Key::Any => &mut self.others,
        }
    }

    /// Takes a policy's rules off a page, and the page away when it is empty.
    fn strike(&mut self, key: Key, policy: &PolicyName) {
        match key {
            Key::Principal(principal) => strike(&mut self.principals, &principal, policy),
            Key::Account(namespace, account) => strike(&mut self.accounts, &(namespace, account), policy),
            Key::Namespace(namespace) => strike(&mut self.namespaces, &namespace, policy),
            Key::Port(port) => strike(&mut self.ports, &port, policy),
            Key::Any => self.others.remove(policy),
            Key::Source(IpNet::V4(net)) => {
                if self.sources_v4.get_mut(&net).is_some_and(|page| page.strike(policy)) {
                    self.sources_v4.remove(&net);
                }
            }
            Key::Source(IpNet::V6(net)) => {
                if self.sources_v6.get_mut(&net).is_some_and(|page| page.strike(policy)) {
                    self.sources_v6.remove(&net);
                }
            }
        }
    }
}

fn strike<K: Eq + std::hash::Hash>(pages: &mut HashMap<K, Page>, key: &K, policy: &PolicyName) {
    if pages.get_mut(key).is_some_and(|page| page.strike(policy)) {
        pages.remove(key);
    }
}

impl Page {
    /// Entries are in the order of names, so the first that matches is the one to name.
    fn first_match(&self, facts: &Facts<'_>) -> Option<&PolicyName> {
        let matching = self
            .0
            .iter()
            .find(|entry| entry.policy.rules.get(entry.rule).is_some_and(|rule| facts.satisfy(rule)));
        matching.map(|entry| &entry.policy.name)
    }

    fn insert(&mut self, entry: Entry) {
        let order = |known: &Entry| (&known.policy.name, known.rule).cmp(&(&entry.policy.name, entry.rule));
        if let Err(position) = self.0.binary_search_by(order) {
            self.0.insert(position, entry);
        }
    }

    fn remove(&mut self, policy: &PolicyName) {
        self.0.retain(|entry| entry.policy.name != *policy);
    }

    /// Removes, and says whether nothing is left.
    fn strike(&mut self, policy: &PolicyName) -> bool {
        self.remove(policy);
        self.0.is_empty()
    }
}

/// Where the rules of a policy are filed.
fn filing(policy: &Policy) -> impl Iterator<Item = (usize, Vec<Key>)> {
    policy.rules.iter().enumerate().map(|(position, rule)| (position, keys(rule)))
}

/// A connection that satisfies the rule has one of these. All clauses must hold, so any of them will do: the one whose
/// broadest key is narrowest is taken.
fn keys(rule: &Rule) -> Vec<Key> {
    let breadth = |keys: &Vec<Key>| keys.iter().map(Key::breadth).max().unwrap_or_default();
    rule.clauses.iter().map(clause_keys).min_by_key(breadth).unwrap_or_else(|| vec![Key::Any])
}

/// Any match of a clause is enough: the keys of all of them. A match without fields never matches and has none.
fn clause_keys(clause: &Clause) -> Vec<Key> {
    clause.matches.iter().filter(|candidate| !candidate.is_empty()).flat_map(match_keys).collect()
}

/// All fields of a match must hold, so any of them will do: the narrowest is taken.
fn match_keys(candidate: &Match) -> Vec<Key> {
    let exact = |values: &[StringMatch]| -> Option<Vec<ArcStr>> {
        let values: Option<Vec<_>> = values.iter().map(exact_text).collect();
        values.filter(|values| !values.is_empty())
    };
    if let Some(principals) = exact(&candidate.principals) {
        return principals.iter().map(|text| Key::Principal(principal_text(text).into())).collect();
    }
    if !candidate.service_accounts.is_empty() {
        let accounts = candidate.service_accounts.iter();
        return accounts
            .map(|known| Key::Account(known.namespace.clone(), known.service_account.clone()))
            .collect();
    }
    if !candidate.source_ips.is_empty() {
        return candidate.source_ips.iter().map(|net| Key::Source(net.trunc())).collect();
    }
    if let Some(namespaces) = exact(&candidate.namespaces) {
        return namespaces.into_iter().map(Key::Namespace).collect();
    }
    if !candidate.destination_ports.is_empty() {
        return candidate.destination_ports.iter().map(|port| Key::Port(*port)).collect();
    }
    vec![Key::Any]
}

fn exact_text(value: &StringMatch) -> Option<ArcStr> {
    match value {
        StringMatch::Exact(text) => Some(text.clone()),
        StringMatch::Prefix(_) | StringMatch::Suffix(_) | StringMatch::Presence => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixtures::policy, policy::ServiceAccountMatch};

    fn exact(texts: &[&str]) -> Vec<StringMatch> {
        texts.iter().map(|text| StringMatch::Exact((*text).into())).collect()
    }

    #[test]
    fn a_rule_is_filed_under_the_narrowest_values_that_it_asks_for() {
        let port = || Match { destination_ports: vec![80], ..Match::default() };
        let namespace = || Match { namespaces: exact(&["a"]), ..Match::default() };
        let presence = || Match { principals: vec![StringMatch::Presence], ..Match::default() };
        let not = || Match { not_principals: exact(&["p"]), ..Match::default() };
        let account = || ServiceAccountMatch { namespace: "a".into(), service_account: "b".into() };
        let cases = [
            (vec![], vec![Key::Any]),
            (vec![vec![]], vec![]),
            (vec![vec![Match::default()]], vec![]),
            (vec![vec![not()]], vec![Key::Any]),
            (vec![vec![presence()]], vec![Key::Any]),
            (vec![vec![port()], vec![namespace()]], vec![Key::Namespace("a".into())]),
            (vec![vec![port(), namespace()]], vec![Key::Port(80), Key::Namespace("a".into())]),
            (vec![vec![port(), not()], vec![port()]], vec![Key::Port(80)]),
            (
                vec![vec![Match { principals: exact(&["spiffe://p", "q"]), ..port() }]],
                vec![Key::Principal("p".into()), Key::Principal("q".into())],
            ),
            (
                vec![vec![Match { service_accounts: vec![account()], ..namespace() }]],
                vec![Key::Account("a".into(), "b".into())],
            ),
            (
                vec![vec![Match { source_ips: vec!["10.0.0.9/24".parse().unwrap()], ..namespace() }]],
                vec![Key::Source("10.0.0.0/24".parse().unwrap())],
            ),
        ];
        for (clauses, expected) in cases {
            let rule = Rule { clauses: clauses.into_iter().map(|matches| Clause { matches }).collect() };
            assert_eq!(keys(&rule), expected, "{rule:?}");
        }
    }

    #[test]
    fn a_removed_policy_leaves_nothing_behind() {
        let matches = [
            Match { principals: exact(&["p", "q"]), ..Match::default() },
            Match { destination_ports: vec![80], ..Match::default() },
            Match {
                source_ips: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
                ..Match::default()
            },
            Match { not_principals: exact(&["p"]), ..Match::default() },
        ];
        let mut policy = policy("a/b", Action::Deny, vec![]);
        policy.rules =
            matches.iter().map(|one| Rule { clauses: vec![Clause { matches: vec![one.clone()] }] }).collect();
        let policy = Arc::new(policy);
        let mut chapter = Chapter::default();
        let filed = |chapter: &Chapter| {
            let exact = chapter.principals.len() + chapter.ports.len();
            exact + chapter.sources_v4.len() + chapter.sources_v6.len() + chapter.others.0.len()
        };
        chapter.insert(&policy);
        assert_eq!(filed(&chapter), 6);
        chapter.remove(&policy);
        assert_eq!(filed(&chapter), 0);
        assert!(chapter.is_empty());
    }
}
