// SPDX-License-Identifier: Apache-2.0
//! Arbitrary guards and authentications.

use std::time::Duration;

use http::HeaderName;
use mesh::{
    Authentication, Guard, NetworkAddress,
    l7::{
        authentication::{JwtRule, Keys, Location},
        guard::{Attachment, Attribute, Condition, GuardAction, GuardClause, GuardRule, Template, Test},
    },
    policy::{ServiceAccountMatch, StringMatch},
    workload::GatewayDestination,
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{any_text, ip, net, network, policy_name, service_name, text};

fn header_name() -> impl Strategy<Value = HeaderName> {
    select(vec![HeaderName::from_static("x"), HeaderName::from_static("authorization")])
}

fn attachment() -> impl Strategy<Value = Attachment> {
    prop_oneof![
        service_name().prop_map(Attachment::Service),
        service_name().prop_map(|name| Attachment::Waypoint(GatewayDestination::Hostname(name))),
        (network(), ip()).prop_map(|(network, ip)| {
            Attachment::Waypoint(GatewayDestination::Address(NetworkAddress::new(network, ip)))
        }),
    ]
}

fn string() -> impl Strategy<Value = Test> {
    prop_oneof![
        any_text().prop_map(StringMatch::Exact),
        any_text().prop_map(StringMatch::Prefix),
        any_text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
    .prop_map(Test::Text)
}

fn template() -> impl Strategy<Value = Test> {
    select(vec!["/{*}", "/a/{**}", "/{*}/b/{**}/c"])
        .prop_map(|text| Test::Template(Template::parse(text).unwrap()))
}

fn condition() -> impl Strategy<Value = Condition> {
    let texts = select(vec![
        Attribute::Principal,
        Attribute::Namespace,
        Attribute::TrustDomain,
        Attribute::ServerName,
        Attribute::RequestPrincipal,
        Attribute::Audience,
        Attribute::Presenter,
        Attribute::Host,
        Attribute::Method,
    ]);
    let texts = prop_oneof![
        texts,
        vec(any_text(), 1..3).prop_map(Attribute::Claim),
        header_name().prop_map(Attribute::Header),
    ];
    let of = |of: Attribute, (any, none): (Vec<Test>, Vec<Test>)| Condition { of, any, none };
    let nets = select(vec![Attribute::SourceIp, Attribute::RemoteIp, Attribute::DestinationIp]);
    let paths = || vec(prop_oneof![string(), template()], 0..3);
    let nets_of = || vec(net().prop_map(Test::Net), 0..2);
    let ports = || vec(any::<u16>().prop_map(Test::Port), 0..2);
    let account = || {
        (any_text(), any_text()).prop_map(|(namespace, service_account)| {
            Test::Account(ServiceAccountMatch { namespace, service_account })
        })
    };
    prop_oneof![
        (texts, (vec(string(), 0..3), vec(string(), 0..2))).prop_map(move |(what, tests)| of(what, tests)),
        (nets, (nets_of(), nets_of())).prop_map(move |(what, tests)| of(what, tests)),
        (paths(), paths()).prop_map(move |tests| of(Attribute::Path, tests)),
        (ports(), ports()).prop_map(move |tests| of(Attribute::DestinationPort, tests)),
        (vec(account(), 0..2), vec(account(), 0..2))
            .prop_map(move |tests| of(Attribute::ServiceAccount, tests)),
    ]
}

fn rule() -> impl Strategy<Value = GuardRule> {
    let clause = vec(vec(condition(), 0..3), 0..3).prop_map(|alternatives| GuardClause { alternatives });
    vec(clause, 0..3).prop_map(|clauses| GuardRule { clauses })
}

pub(crate) fn guard() -> impl Strategy<Value = Guard> {
    let action = select(vec![GuardAction::Allow, GuardAction::Deny, GuardAction::Audit]);
    (policy_name(), vec(attachment(), 0..3), action, vec(rule(), 0..3), any::<bool>())
        .prop_map(|(name, attached, action, rules, dry_run)| Guard { name, attached, action, rules, dry_run })
}

fn keys() -> impl Strategy<Value = Keys> {
    let timeout = || any::<u64>().prop_map(Duration::from_micros);
    prop_oneof![
        any_text().prop_map(Keys::Inline),
        (any_text(), timeout()).prop_map(|(uri, timeout)| Keys::At { uri, timeout }),
        timeout().prop_map(|timeout| Keys::Discovered { timeout }),
    ]
}

fn location() -> impl Strategy<Value = Location> {
    prop_oneof![
        (header_name(), any_text()).prop_map(|(name, prefix)| Location::Header { name, prefix }),
        any_text().prop_map(Location::Param),
        any_text().prop_map(Location::Cookie),
    ]
}

prop_compose! {
    fn jwt_rule()(
        issuer in any_text(), audiences in vec(any_text(), 0..3), keys in keys(),
        from in vec(location(), 0..3), forward in any::<bool>(), payload_header in option::of(header_name()),
        claim_headers in vec((header_name(), vec(any_text(), 1..3)), 0..2), words in vec(text("[a-z]{1,4}"), 0..2),
    ) -> JwtRule {
        JwtRule { issuer, audiences, keys, from, forward, payload_header, claim_headers, words }
    }
}

pub(crate) fn authentication() -> impl Strategy<Value = Authentication> {
    (policy_name(), vec(attachment(), 0..3), vec(jwt_rule(), 0..3))
        .prop_map(|(name, attached, rules)| Authentication { name, attached, rules })
}
