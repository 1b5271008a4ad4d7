// SPDX-License-Identifier: Apache-2.0
//! Semantics as tables, the indexed evaluation against a naive one, and that a DENY only ever takes away.

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    fixtures::{identity, policy, policy_name, workload},
    index::Change,
    policy::{Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch},
};

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Open | Verdict::Allowed(_))
}

fn subject(identity: Option<SpiffeId>) -> Subject {
    Subject {
        source: "10.0.0.1:4000".parse().unwrap(),
        identity,
        destination: "10.0.1.1:8080".parse().unwrap(),
    }
}

fn client() -> Subject {
    subject(Some(identity("shop", "client")))
}

fn exact(text: &str) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text.into())]
}

/// Judges a connection to a workload of namespace `shop` that names the policies of scope WORKLOAD_SELECTOR.
fn judge(policies: Vec<Policy>, subject: &Subject) -> Result<Judgement, Missing> {
    let mut workload = workload("server", &["10.0.1.1"]);
    let selecting = policies.iter().filter(|policy| policy.scope == PolicyScope::WorkloadSelector);
    workload.policies = selecting.map(|policy| policy.name.clone()).collect();
    let mut index = Index::new();
    for policy in policies {
        index.apply(Change::Policy(policy));
    }
    authorize(&index, &workload, subject)
}

fn verdict(policies: Vec<Policy>, subject: &Subject) -> Verdict {
    judge(policies, subject).unwrap().verdict
}

/// Whether one match holds for a connection.
fn holds(candidate: Match, subject: &Subject) -> bool {
    match verdict(vec![policy("shop/p", Action::Deny, vec![candidate])], subject) {
        Verdict::Denied(_) => true,
        Verdict::Open => false,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_policies_everything_passes() {
    assert_eq!(verdict(vec![], &client()), Verdict::Open);
    assert_eq!(verdict(vec![], &subject(None)), Verdict::Open);
}

#[test]
fn the_verdict_names_the_policy_that_decided() {
    let yes = Match { destination_ports: vec![8080], ..Match::default() };
    let no = Match { destination_ports: vec![1], ..Match::default() };
    let allow = |name, matches: &Match| policy(name, Action::Allow, vec![matches.clone()]);
    let deny = |name, matches: &Match| policy(name, Action::Deny, vec![matches.clone()]);
    let cases = [
        (vec![deny("shop/d", &no)], Verdict::Open),
        (vec![deny("shop/d", &yes)], Verdict::Denied(policy_name("shop/d"))),
        (vec![allow("shop/a", &yes)], Verdict::Allowed(policy_name("shop/a"))),
        (vec![allow("shop/a", &no)], Verdict::NotAllowed(policy_name("shop/a"))),
        (vec![allow("shop/a", &yes), deny("shop/d", &yes)], Verdict::Denied(policy_name("shop/d"))),
        (vec![allow("shop/b", &yes), allow("shop/a", &no)], Verdict::Allowed(policy_name("shop/b"))),
        (vec![allow("shop/b", &yes), allow("shop/a", &yes)], Verdict::Allowed(policy_name("shop/a"))),
        (vec![deny("shop/b", &yes), deny("shop/a", &yes)], Verdict::Denied(policy_name("shop/a"))),
    ];
    for (policies, expected) in cases {
        assert_eq!(verdict(policies.clone(), &client()), expected, "{policies:?}");
    }
}

#[test]
fn empty_parts_mean_what_the_contract_says() {
    let rules = |action, rules: Vec<Rule>| {
        let policy = Policy { rules, ..policy("shop/p", action, vec![]) };
        verdict(vec![policy], &client())
    };
    let name = || policy_name("shop/p");
    let empty_clause = || Rule { clauses: vec![Clause { matches: vec![] }] };
    let empty_match = || Rule { clauses: vec![Clause { matches: vec![Match::default()] }] };
    assert_eq!(rules(Action::Allow, vec![]), Verdict::NotAllowed(name()), "no rules: allow nothing");
    assert_eq!(rules(Action::Deny, vec![]), Verdict::Open, "no rules: deny nothing");
    assert_eq!(
        rules(Action::Allow, vec![Rule::default()]),
        Verdict::Allowed(name()),
        "a rule without clauses"
    );
    assert_eq!(rules(Action::Deny, vec![Rule::default()]), Verdict::Denied(name()), "a rule without clauses");
    assert_eq!(
        rules(Action::Allow, vec![empty_clause()]),
        Verdict::NotAllowed(name()),
        "a clause without matches"
    );
    assert_eq!(rules(Action::Deny, vec![empty_clause()]), Verdict::Open, "a clause without matches");
    assert_eq!(
        rules(Action::Allow, vec![empty_match()]),
        Verdict::NotAllowed(name()),
        "a match without fields"
    );
    assert_eq!(rules(Action::Deny, vec![empty_match()]), Verdict::Open, "a match without fields");
}

#[test]
fn rules_are_alternatives_clauses_are_not_and_matches_are() {
    let yes = || Match { destination_ports: vec![8080], ..Match::default() };
    let no = || Match { destination_ports: vec![1], ..Match::default() };
    let denied = |rules: Vec<Vec<Vec<Match>>>| {
        let clauses =
            |clauses: Vec<Vec<Match>>| clauses.into_iter().map(|matches| Clause { matches }).collect();
        let rules = rules.into_iter().map(|rule| Rule { clauses: clauses(rule) }).collect();
        let policy = Policy { rules, ..policy("shop/p", Action::Deny, vec![]) };
        !passes(&verdict(vec![policy], &client()))
    };
    assert!(denied(vec![vec![vec![no()]], vec![vec![yes()]]]));
    assert!(!denied(vec![vec![vec![no()], vec![yes()]]]));
    assert!(denied(vec![vec![vec![yes()], vec![yes()]]]));
    assert!(denied(vec![vec![vec![no(), yes()], vec![yes()]]]));
    assert!(!denied(vec![vec![vec![no(), Match::default()]]]));
}

#[test]
fn a_field_holds_when_any_value_fits_and_a_negated_one_when_none_does() {
    let ports = |yes: &[u16], no: &[u16]| Match {
        destination_ports: yes.to_vec(),
        not_destination_ports: no.to_vec(),
        ..Match::default()
    };
    assert!(holds(ports(&[1, 8080], &[]), &client()));
    assert!(!holds(ports(&[1, 2], &[]), &client()));
    assert!(holds(ports(&[], &[1, 2]), &client()));
    assert!(!holds(ports(&[], &[1, 8080]), &client()));
    assert!(!holds(ports(&[8080], &[8080]), &client()));
}

#[test]
fn all_fields_of_a_match_must_hold() {
    let ports = Match { destination_ports: vec![8080], ..Match::default() };
    assert!(holds(Match { namespaces: exact("shop"), ..ports.clone() }, &client()));
    assert!(!holds(Match { namespaces: exact("bank"), ..ports }, &client()));
}

#[test]
fn principals_match_without_the_scheme() {
    let principal = |value: StringMatch| Match { principals: vec![value], ..Match::default() };
    let cases = [
        (StringMatch::Exact("cluster.local/ns/shop/sa/client".into()), true),
        (StringMatch::Exact("spiffe://cluster.local/ns/shop/sa/client".into()), true),
        (StringMatch::Exact("cluster.local/ns/shop/sa/clien".into()), false),
        (StringMatch::Prefix("cluster.local/ns/shop/".into()), true),
        (StringMatch::Prefix("spiffe://cluster.local/ns/shop/".into()), true),
        (StringMatch::Prefix("cluster.local/ns/bank/".into()), false),
        (StringMatch::Suffix("/sa/client".into()), true),
        (StringMatch::Suffix("/sa/server".into()), false),
        (StringMatch::Presence, true),
    ];
    for (value, expected) in cases {
        assert_eq!(holds(principal(value.clone()), &client()), expected, "{value:?}");
        assert!(!holds(principal(value.clone()), &subject(None)), "{value:?} without an identity");
    }
}

#[test]
fn the_strict_policy_keeps_plaintext_out_and_lets_any_identity_in() {
    let strict = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    assert!(holds(strict.clone(), &subject(None)));
    assert!(!holds(strict, &client()));
}

#[test]
fn without_an_identity_only_negations_about_the_peer_hold() {
    let account = || vec![ServiceAccountMatch { namespace: "shop".into(), service_account: "client".into() }];
    let cases = [
        (Match { namespaces: exact("shop"), ..Match::default() }, true, false),
        (Match { not_namespaces: exact("shop"), ..Match::default() }, false, true),
        (Match { not_principals: exact("cluster.local/ns/shop/sa/client"), ..Match::default() }, false, true),
        (Match { service_accounts: account(), ..Match::default() }, true, false),
        (Match { not_service_accounts: account(), ..Match::default() }, false, true),
    ];
    for (candidate, with, without) in cases {
        assert_eq!(holds(candidate.clone(), &client()), with, "{candidate:?} with an identity");
        assert_eq!(holds(candidate.clone(), &subject(None)), without, "{candidate:?} without");
    }
}

#[test]
fn addresses_match_by_range_and_family() {
    let nets = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
    let source = |texts: &[&str]| Match { source_ips: nets(texts), ..Match::default() };
    let not_source = |texts: &[&str]| Match { not_source_ips: nets(texts), ..Match::default() };
    let destination = |texts: &[&str]| Match { destination_ips: nets(texts), ..Match::default() };
    let not_destination = |texts: &[&str]| Match { not_destination_ips: nets(texts), ..Match::default() };
    let cases = [
        (source(&["10.0.0.0/24"]), true),
        (source(&["10.0.0.77/24"]), true),
        (source(&["10.0.1.0/24"]), false),
        (source(&["::/0"]), false),
        (source(&["0.0.0.0/0"]), true),
        (not_source(&["10.0.0.1/32"]), false),
        (not_source(&["::/0"]), true),
        (destination(&["10.0.1.1/32"]), true),
        (destination(&["10.0.0.0/24"]), false),
        (not_destination(&["10.0.1.0/24"]), false),
    ];
    for (candidate, expected) in cases {
        assert_eq!(holds(candidate.clone(), &client()), expected, "{candidate:?}");
    }
    let six = Subject { source: "[fd00::1]:4000".parse().unwrap(), ..client() };
    assert!(holds(source(&["fd00::/64"]), &six));
    assert!(!holds(source(&["fd01::/64"]), &six));
    assert!(!holds(source(&["0.0.0.0/0"]), &six));
}

#[test]
fn policies_of_other_namespaces_and_unnamed_selector_policies_do_not_apply() {
    let everyone = || Rule::default();
    let deny = |name, scope| Policy { scope, rules: vec![everyone()], ..policy(name, Action::Deny, vec![]) };
    let mut index = Index::new();
    index.apply(Change::Policy(deny("bank/ns", PolicyScope::Namespace)));
    index.apply(Change::Policy(deny("shop/selector", PolicyScope::WorkloadSelector)));
    let mut server = workload("server", &[]);
    assert_eq!(authorize(&index, &server, &client()).unwrap().verdict, Verdict::Open);
    server.policies = vec![policy_name("shop/selector")];
    let expected = Verdict::Denied(policy_name("shop/selector"));
    assert_eq!(authorize(&index, &server, &client()).unwrap().verdict, expected);
    server.policies = vec![];
    index.apply(Change::Policy(deny("istio-system/global", PolicyScope::Global)));
    let expected = Verdict::Denied(policy_name("istio-system/global"));
    assert_eq!(authorize(&index, &server, &client()).unwrap().verdict, expected);
}

#[test]
fn a_policy_that_is_named_and_missing_holds_the_answer_unless_another_denies() {
    let mut index = Index::new();
    let mut server = workload("server", &[]);
    server.policies = vec![policy_name("shop/late")];
    assert_eq!(authorize(&index, &server, &client()), Err(Missing(policy_name("shop/late"))));
    let allow = Policy { rules: vec![Rule::default()], ..policy("shop/allow", Action::Allow, vec![]) };
    index.apply(Change::Policy(allow.clone()));
    assert_eq!(authorize(&index, &server, &client()), Err(Missing(policy_name("shop/late"))));
    index.apply(Change::Policy(Policy { name: policy_name("shop/deny"), action: Action::Deny, ..allow }));
    let expected = Verdict::Denied(policy_name("shop/deny"));
    assert_eq!(authorize(&index, &server, &client()).unwrap().verdict, expected);
}

#[test]
fn policies_under_trial_decide_nothing_and_are_reported() {
    let all = || vec![Rule::default()];
    let none = Vec::new;
    let trial = |name, action, rules| Policy { rules, dry_run: true, ..policy(name, action, vec![]) };
    let cases = [
        (vec![], None),
        (vec![trial("shop/d", Action::Deny, all())], Some(Verdict::Denied(policy_name("shop/d")))),
        (vec![trial("shop/d", Action::Deny, none())], Some(Verdict::Open)),
        (vec![trial("shop/a", Action::Allow, all())], Some(Verdict::Allowed(policy_name("shop/a")))),
        (vec![trial("shop/a", Action::Allow, none())], Some(Verdict::NotAllowed(policy_name("shop/a")))),
    ];
    for (policies, dry_run) in cases {
        let judgement = judge(policies.clone(), &client()).unwrap();
        assert_eq!(judgement, Judgement { verdict: Verdict::Open, dry_run }, "{policies:?}");
    }
}

/// What the contract says, read straight down, over all policies.
fn naive(policies: &[Policy], workload: &Workload, subject: &Subject) -> Verdict {
    let applies = |policy: &&Policy| match policy.scope {
        PolicyScope::Global => true,
        PolicyScope::Namespace => policy.name.namespace == workload.namespace,
        PolicyScope::WorkloadSelector => workload.policies.contains(&policy.name),
    };
    let mut policies: Vec<&Policy> =
        policies.iter().filter(applies).filter(|policy| !policy.dry_run).collect();
    policies.sort_by(|a, b| a.name.cmp(&b.name));
    let of = |action| policies.iter().filter(move |policy| policy.action == action);
    let matching =
        |action| of(action).find(|policy| naive_policy(policy, subject)).map(|policy| policy.name.clone());
    if let Some(name) = matching(Action::Deny) {
        return Verdict::Denied(name);
    }
    let Some(first) = of(Action::Allow).next() else { return Verdict::Open };
    match matching(Action::Allow) {
        Some(name) => Verdict::Allowed(name),
        None => Verdict::NotAllowed(first.name.clone()),
    }
}

fn naive_policy(policy: &Policy, subject: &Subject) -> bool {
    for rule in &policy.rules {
        let mut all = true;
        for clause in &rule.clauses {
            let mut any = false;
            for candidate in &clause.matches {
                any |= naive_match(candidate, subject);
            }
            all &= any;
        }
        if all {
            return true;
        }
    }
    false
}

fn naive_match(candidate: &Match, subject: &Subject) -> bool {
    if *candidate == Match::default() {
        return false;
    }
    let text = |values: &[StringMatch], text: Option<&str>| {
        values.iter().any(|value| match (value, text) {
            (_, None) => false,
            (StringMatch::Exact(pattern), Some(text)) => pattern == text,
            (StringMatch::Prefix(pattern), Some(text)) => text.starts_with(pattern.as_str()),
            (StringMatch::Suffix(pattern), Some(text)) => text.ends_with(pattern.as_str()),
            (StringMatch::Presence, Some(text)) => !text.is_empty(),
        })
    };
    let principal = subject.identity.as_ref().map(SpiffeId::principal);
    let namespace = subject.identity.as_ref().map(|identity| identity.namespace().to_string());
    let account = |values: &[ServiceAccountMatch]| {
        values.iter().any(|value| {
            subject.identity.as_ref().is_some_and(|identity| {
                identity
                    .principal()
                    .ends_with(&format!("/ns/{}/sa/{}", value.namespace, value.service_account))
            })
        })
    };
    let nets = |nets: &[ipnet::IpNet], ip| nets.iter().any(|net| net.contains(&ip));
    let port = subject.destination.port();
    let checks = [
        (candidate.namespaces.is_empty(), text(&candidate.namespaces, namespace.as_deref())),
        (candidate.principals.is_empty(), text(&candidate.principals, principal.as_deref())),
        (candidate.service_accounts.is_empty(), account(&candidate.service_accounts)),
        (candidate.source_ips.is_empty(), nets(&candidate.source_ips, subject.source.ip())),
        (candidate.destination_ips.is_empty(), nets(&candidate.destination_ips, subject.destination.ip())),
        (candidate.destination_ports.is_empty(), candidate.destination_ports.contains(&port)),
    ];
    let excluded = [
        text(&candidate.not_namespaces, namespace.as_deref()),
        text(&candidate.not_principals, principal.as_deref()),
        account(&candidate.not_service_accounts),
        nets(&candidate.not_source_ips, subject.source.ip()),
        nets(&candidate.not_destination_ips, subject.destination.ip()),
        candidate.not_destination_ports.contains(&port),
    ];
    checks.iter().all(|(empty, any)| *empty || *any) && !excluded.contains(&true)
}

fn any_text() -> impl Strategy<Value = StringMatch> {
    let texts =
        ["shop", "bank", "cluster.local/ns/shop/sa/a", "cluster.local/ns/bank/sa/b", "cluster", "/sa/a", ""];
    (select(texts.to_vec()), 0..4_u8).prop_map(|(text, kind)| match kind {
        0 => StringMatch::Exact(text.into()),
        1 => StringMatch::Prefix(text.into()),
        2 => StringMatch::Suffix(text.into()),
        _ => StringMatch::Presence,
    })
}

/// As [`any_text`], more often a whole identity of those that subjects have.
fn any_principal() -> impl Strategy<Value = StringMatch> {
    let whole = ["cluster.local/ns/shop/sa/a", "cluster.local/ns/bank/sa/b", "cluster.local/ns/bank/sa/a"];
    prop_oneof![any_text(), select(whole.to_vec()).prop_map(|text| StringMatch::Exact(text.into()))]
}

fn any_account() -> impl Strategy<Value = ServiceAccountMatch> {
    (select(&["shop", "bank"]), select(&["a", "b"])).prop_map(|(namespace, account)| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: account.into(),
    })
}

fn any_net() -> impl Strategy<Value = ipnet::IpNet> {
    select(&[
        "10.0.0.1/32",
        "10.0.0.9/24",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "fd00::1/128",
        "fd00::/64",
        "fd00::/8",
        "::/0",
    ])
    .prop_map(|text| text.parse().unwrap())
}

/// Mostly none, so that a match has one or two of its twelve fields and has a chance to hold.
fn few<T: std::fmt::Debug>(values: impl Strategy<Value = T> + 'static) -> impl Strategy<Value = Vec<T>> {
    let values = values.boxed();
    prop_oneof![20 => Just(0_usize), 2 => Just(1), 1 => Just(2)]
        .prop_flat_map(move |count| vec(values.clone(), count))
}

fn any_match() -> impl Strategy<Value = Match> {
    let texts = (few(any_text()), few(any_text()), few(any_principal()), few(any_principal()));
    let accounts = (few(any_account()), few(any_account()));
    let nets = (few(any_net()), few(any_net()), few(any_net()), few(any_net()));
    let ports = (few(select(vec![80_u16, 81])), few(select(vec![80_u16, 81])));
    (texts, accounts, nets, ports).prop_map(|(texts, accounts, nets, ports)| Match {
        namespaces: texts.0,
        not_namespaces: texts.1,
        principals: texts.2,
        not_principals: texts.3,
        service_accounts: accounts.0,
        not_service_accounts: accounts.1,
        source_ips: nets.0,
        not_source_ips: nets.1,
        destination_ips: nets.2,
        not_destination_ips: nets.3,
        destination_ports: ports.0,
        not_destination_ports: ports.1,
    })
}

fn any_policy(actions: Vec<Action>) -> impl Strategy<Value = Policy> {
    let clause = vec(any_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    let scopes = vec![PolicyScope::Global, PolicyScope::Namespace, PolicyScope::WorkloadSelector];
    (select(&["shop", "bank"]), 0..6_u8, select(scopes), select(actions), vec(rule, 0..3), any::<bool>())
        .prop_map(|(namespace, number, scope, action, rules, dry_run)| Policy {
            name: policy_name(&format!("{namespace}/p{number}")),
            scope,
            action,
            rules,
            dry_run,
        })
}

fn any_subject() -> impl Strategy<Value = Subject> {
    let identities =
        vec![None, Some(identity("shop", "a")), Some(identity("bank", "b")), Some(identity("bank", "a"))];
    (select(identities), select(&["10.0.0.1", "10.9.9.9", "fd00::1", "fd00::1:0:1"]), 80..82_u16).prop_map(
        |(identity, source, port)| Subject {
            source: format!("{source}:1")
                .parse()
                .unwrap_or_else(|_| format!("[{source}]:1").parse().unwrap()),
            identity,
            destination: ([10, 0, 0, 1], port).into(),
        },
    )
}

/// The last policy of each name, in an index that has seen all of them, and a workload that names the selectors.
fn applied(policies: &[Policy]) -> (Index, Vec<Policy>, Workload) {
    let mut index = Index::new();
    let mut last = std::collections::BTreeMap::new();
    for policy in policies {
        index.apply(Change::Policy(policy.clone()));
        last.insert(policy.name.clone(), policy.clone());
    }
    let last: Vec<Policy> = last.into_values().collect();
    let mut server = workload("server", &[]);
    let selecting = last.iter().filter(|policy| policy.scope == PolicyScope::WorkloadSelector);
    server.policies = selecting.map(|policy| policy.name.clone()).collect();
    (index, last, server)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    #[test]
    fn the_indexed_evaluation_equals_the_naive_one(
        policies in vec(any_policy(vec![Action::Allow, Action::Deny]), 0..12),
        removed in vec(0..6_u8, 0..2),
        subject in any_subject(),
    ) {
        let (mut index, mut last, mut server) = applied(&policies);
        for number in removed {
            let name = policy_name(&format!("shop/p{number}"));
            index.apply(Change::PolicyGone(name.clone()));
            last.retain(|policy| policy.name != name);
            server.policies.retain(|policy| *policy != name);
        }
        let judgement = authorize(&index, &server, &subject).unwrap();
        prop_assert_eq!(judgement.verdict, naive(&last, &server, &subject));
        let mut trial: Vec<Policy> = last.into_iter().filter(|policy| policy.dry_run).collect();
        trial.iter_mut().for_each(|policy| policy.dry_run = false);
        if let Some(dry_run) = judgement.dry_run {
            prop_assert_eq!(dry_run, naive(&trial, &server, &subject));
        }
    }

    #[test]
    fn one_more_deny_never_lets_more_in(
        policies in vec(any_policy(vec![Action::Allow, Action::Deny]), 0..8),
        mut more in any_policy(vec![Action::Deny]),
        subject in any_subject(),
    ) {
        more.name = policy_name("shop/more");
        let (mut index, _, mut server) = applied(&policies);
        let before = authorize(&index, &server, &subject).unwrap().verdict;
        if more.scope == PolicyScope::WorkloadSelector {
            server.policies.push(more.name.clone());
        }
        index.apply(Change::Policy(more));
        let after = authorize(&index, &server, &subject).unwrap().verdict;
        prop_assert!(passes(&before) || !passes(&after), "{:?} then {:?}", before, after);
    }
}
