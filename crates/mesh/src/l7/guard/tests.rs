// SPDX-License-Identifier: Apache-2.0
//! Semantics as tables, the indexed evaluation against a naive one, and that a DENY only ever takes away.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderMap, HeaderValue, Method};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    authz::Verdict,
    l7::claims::{Claim, Claims},
    name::SpiffeId,
};

fn name(text: &str) -> PolicyName {
    PolicyName { namespace: "shop".into(), name: text.into() }
}

fn exact(text: &str) -> Test {
    Test::Text(StringMatch::Exact(text.into()))
}

fn presence() -> Test {
    Test::Text(StringMatch::Presence)
}

fn is(of: Attribute, tests: Vec<Test>) -> Condition {
    Condition { of, any: tests, none: Vec::new() }
}

fn is_not(of: Attribute, tests: Vec<Test>) -> Condition {
    Condition { of, any: Vec::new(), none: tests }
}

fn rule(conditions: Vec<Condition>) -> GuardRule {
    GuardRule { clauses: vec![GuardClause { alternatives: vec![conditions] }] }
}

fn guard(called: &str, action: GuardAction, rules: Vec<GuardRule>) -> Guard {
    Guard { name: name(called), attached: Vec::new(), action, rules, dry_run: false }
}

/// Asks for a path, by GET, from the service account `client` of `shop`.
struct Question {
    identity: SpiffeId,
    method: Method,
    host: &'static str,
    path: &'static str,
    headers: HeaderMap,
    claims: Option<Claims>,
    is_connection: bool,
}

impl Question {
    fn new(path: &'static str) -> Self {
        Self {
            identity: "spiffe://td/ns/shop/sa/client".parse().unwrap(),
            method: Method::GET,
            host: "Web.shop:8080",
            path,
            headers: HeaderMap::new(),
            claims: None,
            is_connection: false,
        }
    }

    fn ask<T>(&self, about: impl FnOnce(&Asked<'_>) -> T) -> T {
        let http = Http {
            method: &self.method,
            host: self.host,
            path: self.path,
            headers: &self.headers,
            claims: self.claims.as_ref(),
        };
        about(&Asked {
            identity: &self.identity,
            source: "10.0.0.9".parse().unwrap(),
            remote: "1.2.3.4".parse().unwrap(),
            destination: "10.1.0.1:80".parse().unwrap(),
            server_name: self.is_connection.then_some("db.shop"),
            http: (!self.is_connection).then_some(http),
        })
    }

    fn judged(&self, guards: &[Guard]) -> Judgement {
        let mut book = Book::default();
        guards.iter().for_each(|guard| book.insert(&Arc::new(guard.clone())));
        self.ask(|asked| judge(&[&book], asked))
    }

    /// Whether a condition holds.
    fn holds(&self, condition: Condition) -> bool {
        let guard = guard("p", GuardAction::Allow, vec![rule(vec![condition])]);
        matches!(self.judged(&[guard]).verdict, Verdict::Allowed(_))
    }
}

#[test]
fn deny_goes_before_allow_and_allow_lets_nothing_else_pass() {
    let paths = |action, called: &str, path: &str| {
        guard(called, action, vec![rule(vec![is(Attribute::Path, vec![exact(path)])])])
    };
    let deny = paths(GuardAction::Deny, "deny", "/a");
    let allow = paths(GuardAction::Allow, "allow", "/b");
    let both = paths(GuardAction::Allow, "both", "/a");
    let audit = paths(GuardAction::Audit, "audit", "/a");
    let verdict = |path, guards: &[Guard]| Question::new(path).judged(guards).verdict;
    assert_eq!(verdict("/a", &[]), Verdict::Open);
    assert_eq!(verdict("/b", std::slice::from_ref(&deny)), Verdict::Open);
    let all = [deny.clone(), allow.clone(), both.clone(), audit.clone()];
    assert_eq!(verdict("/a", &all), Verdict::Denied(name("deny")));
    assert_eq!(verdict("/b", &all), Verdict::Allowed(name("allow")));
    assert_eq!(verdict("/c", &all), Verdict::NotAllowed(name("allow")));
    assert_eq!(Question::new("/a").judged(&all).audited, [name("audit")]);
    assert_eq!(
        verdict("/c", &[guard("empty", GuardAction::Allow, vec![])]),
        Verdict::NotAllowed(name("empty"))
    );
    let everything = guard("all", GuardAction::Allow, vec![GuardRule::default()]);
    assert_eq!(verdict("/c", &[everything]), Verdict::Allowed(name("all")));

    let trial = Guard { dry_run: true, ..deny };
    let judged = Question::new("/a").judged(&[trial, both]);
    assert_eq!(judged.verdict, Verdict::Allowed(name("both")));
    assert_eq!(judged.dry_run, Some(Verdict::Denied(name("deny"))));
}

/// A request with headers and a token.
fn rich() -> Question {
    let mut question = Question::new("/orders/7/items");
    question.headers.append("x-role", HeaderValue::from_static("user"));
    question.headers.append("x-role", HeaderValue::from_static("admin"));
    question.headers.insert("x-empty", HeaderValue::from_static(""));
    let text = |text: &str| Claim::Text(text.into());
    let claims = [
        ("iss", text("issuer")),
        ("sub", text("ann")),
        ("aud", Claim::List(vec![text("web"), text("api")])),
        ("azp", text("app")),
        ("realm", Claim::Map(BTreeMap::from([("roles".into(), Claim::List(vec![text("boss")]))]))),
    ];
    let claims = claims.map(|(name, claim)| (name.into(), claim));
    question.claims = Some(Claims::new(BTreeMap::from(claims), &[]));
    question
}

/// What is asked of it, and whether it is so.
fn asked() -> Vec<(Attribute, Test, bool)> {
    let (prefix, suffix) = (
        |text: &str| Test::Text(StringMatch::Prefix(text.into())),
        |text: &str| Test::Text(StringMatch::Suffix(text.into())),
    );
    let header = |name: &'static str| Attribute::Header(HeaderName::from_static(name));
    let account = |text: &str| {
        Test::Account(ServiceAccountMatch { namespace: "shop".into(), service_account: text.into() })
    };
    let net = |text: &str| Test::Net(text.parse().unwrap());
    let template = |text: &str| Test::Template(Template::parse(text).unwrap());
    let roles = Attribute::Claim(vec!["realm".into(), "roles".into()]);
    vec![
        (Attribute::Principal, exact("td/ns/shop/sa/client"), true),
        (Attribute::Principal, exact("spiffe://td/ns/shop/sa/client"), true),
        (Attribute::Principal, suffix("/sa/other"), false),
        (Attribute::Namespace, prefix("sh"), true),
        (Attribute::TrustDomain, exact("td"), true),
        (Attribute::ServiceAccount, account("client"), true),
        (Attribute::ServiceAccount, account("other"), false),
        (Attribute::SourceIp, net("10.0.0.0/24"), true),
        (Attribute::RemoteIp, net("10.0.0.0/24"), false),
        (Attribute::RemoteIp, net("1.2.3.4/32"), true),
        (Attribute::DestinationIp, net("10.1.0.1/32"), true),
        (Attribute::DestinationPort, Test::Port(80), true),
        (Attribute::DestinationPort, Test::Port(8080), false),
        (Attribute::ServerName, presence(), false),
        (Attribute::RequestPrincipal, exact("issuer/ann"), true),
        (Attribute::RequestPrincipal, presence(), true),
        (Attribute::Audience, exact("api"), true),
        (Attribute::Audience, exact("other"), false),
        (Attribute::Presenter, exact("app"), true),
        (roles.clone(), exact("boss"), true),
        (roles, exact("clerk"), false),
        (Attribute::Host, exact("web.shop"), true),
        (Attribute::Host, exact("WEB.shop:8080"), true),
        (Attribute::Host, exact("web.shop:80"), false),
        (Attribute::Host, suffix(".SHOP"), true),
        (Attribute::Method, exact("GET"), true),
        (Attribute::Method, exact("get"), false),
        (Attribute::Path, prefix("/orders/"), true),
        (Attribute::Path, exact("/Orders/7/items"), false),
        (Attribute::Path, template("/orders/{*}/items"), true),
        (header("x-role"), exact("admin"), true),
        (header("x-role"), exact("user,admin"), true),
        (header("x-empty"), presence(), true),
        (header("x-none"), presence(), false),
    ]
}

#[test]
fn every_attribute_is_compared_in_its_own_way() {
    let mut question = rich();
    for (of, test, expected) in asked() {
        assert_eq!(question.holds(is(of.clone(), vec![test.clone()])), expected, "{of:?} {test:?}");
        assert_eq!(question.holds(is_not(of.clone(), vec![test.clone()])), !expected, "not {of:?} {test:?}");
    }
    question.claims = None;
    assert!(
        question.holds(is_not(Attribute::RequestPrincipal, vec![presence()])),
        "what is lacking is none of them"
    );
    assert!(!question.holds(is(Attribute::RequestPrincipal, vec![presence()])));
}

#[test]
fn of_a_connection_what_is_of_requests_refuses_and_lets_nothing_pass() {
    let mut connection = Question::new("");
    connection.is_connection = true;
    let path = || is(Attribute::Path, vec![exact("/a")]);
    let port = |port| is(Attribute::DestinationPort, vec![Test::Port(port)]);
    let verdict =
        |action, conditions| connection.judged(&[guard("p", action, vec![rule(conditions)])]).verdict;
    assert_eq!(verdict(GuardAction::Deny, vec![path()]), Verdict::Denied(name("p")));
    assert_eq!(verdict(GuardAction::Deny, vec![path(), port(80)]), Verdict::Denied(name("p")));
    assert_eq!(verdict(GuardAction::Deny, vec![path(), port(81)]), Verdict::Open);
    assert_eq!(verdict(GuardAction::Allow, vec![path()]), Verdict::NotAllowed(name("p")));
    let negated = is_not(Attribute::Method, vec![exact("GET")]);
    assert_eq!(verdict(GuardAction::Allow, vec![negated]), Verdict::NotAllowed(name("p")));
    assert_eq!(verdict(GuardAction::Allow, vec![port(80)]), Verdict::Allowed(name("p")));
    let server = is(Attribute::ServerName, vec![exact("db.shop")]);
    assert_eq!(verdict(GuardAction::Allow, vec![server]), Verdict::Allowed(name("p")));
}

#[test]
fn what_is_taken_out_of_a_book_leaves_nothing_behind() {
    let conditions = [
        is(Attribute::Path, vec![exact("/a"), exact("/b")]),
        is(Attribute::Principal, vec![exact("td/ns/shop/sa/client")]),
        is(Attribute::Method, vec![exact("GET")]),
    ];
    let rules = conditions.into_iter().map(|condition| rule(vec![condition])).collect();
    let guard = Arc::new(guard("p", GuardAction::Deny, rules));
    let mut book = Book::default();
    book.insert(&guard);
    assert!(!book.is_empty());
    book.remove(&guard);
    assert!(book.is_empty());
    assert_eq!(Question::new("/a").ask(|asked| judge(&[&book], asked)), Judgement::open());
}

fn condition() -> impl Strategy<Value = Condition> {
    let path = select(vec!["/a", "/b"]).prop_map(exact);
    let tests = |one: BoxedStrategy<Test>| (vec(one.clone(), 0..2), vec(one, 0..2));
    let paths = tests(path.boxed()).prop_map(|(any, none)| Condition { of: Attribute::Path, any, none });
    let ports = tests(select(vec![80, 81]).prop_map(Test::Port).boxed());
    let ports = ports.prop_map(|(any, none)| Condition { of: Attribute::DestinationPort, any, none });
    let namespaces = tests(select(vec!["shop", "bank"]).prop_map(exact).boxed());
    let namespaces = namespaces.prop_map(|(any, none)| Condition { of: Attribute::Namespace, any, none });
    let principals = tests(select(vec!["td/ns/shop/sa/client", "td/ns/a/sa/b"]).prop_map(exact).boxed());
    let principals = principals.prop_map(|(any, none)| Condition { of: Attribute::Principal, any, none });
    prop_oneof![paths, ports, namespaces, principals]
}

fn rules() -> impl Strategy<Value = Vec<GuardRule>> {
    let clause = vec(vec(condition(), 0..3), 0..3).prop_map(|alternatives| GuardClause { alternatives });
    vec(vec(clause, 0..3).prop_map(|clauses| GuardRule { clauses }), 0..3)
}

fn guards() -> impl Strategy<Value = Vec<Guard>> {
    let one = (rules(), select(vec![GuardAction::Allow, GuardAction::Deny]));
    vec(one, 0..4).prop_map(|all| {
        let numbered = all.into_iter().enumerate();
        numbered.map(|(number, (rules, action))| guard(&number.to_string(), action, rules)).collect()
    })
}

fn passes(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Open | Verdict::Allowed(_))
}

proptest! {
    #[test]
    fn the_book_says_what_asking_every_rule_says(
        guards in guards(), path in select(vec!["/a", "/b", "/c"]), is_connection in any::<bool>(),
    ) {
        let question = Question { is_connection, ..Question::new(path) };
        let found = question.judged(&guards).verdict;
        let matching = |action| question.ask(|asked| {
            let facts = matching::Facts::new(asked);
            let of = guards.iter().filter(|guard| guard.action == action);
            let mut found: Vec<_> = of
                .filter(|guard| guard.rules.iter().any(|rule| facts.satisfy(rule, action)))
                .map(|guard| guard.name.clone())
                .collect();
            found.sort();
            found.into_iter().next()
        });
        let allow = guards.iter().filter(|guard| guard.action == GuardAction::Allow).map(|guard| guard.name.clone()).min();
        let expected = match (matching(GuardAction::Deny), allow, matching(GuardAction::Allow)) {
            (Some(deny), ..) => Verdict::Denied(deny),
            (None, None, _) => Verdict::Open,
            (None, Some(_), Some(matching)) => Verdict::Allowed(matching),
            (None, Some(first), None) => Verdict::NotAllowed(first),
        };
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn one_more_deny_never_lets_more_pass(guards in guards(), more in rules(), path in select(vec!["/a", "/b"])) {
        let question = Question::new(path);
        let before = question.judged(&guards).verdict;
        let mut guards = guards;
        guards.push(guard("more", GuardAction::Deny, more));
        let after = question.judged(&guards).verdict;
        prop_assert!(passes(&before) || !passes(&after));
    }
}
