// SPDX-License-Identifier: Apache-2.0
//! Which guards apply at a waypoint.

use http::{HeaderValue, Method};
use mesh::{
    Change, Guard, PolicyName,
    authz::Verdict,
    l7::guard::{Attribute, Condition, GuardAction, GuardClause, GuardRule, Http, Test},
    policy::StringMatch,
};

use super::*;
use crate::fixtures::{gateway_named, local, memberships, ready, service, workload};

fn shop() -> (Index, Local, ServiceName) {
    let gate = service("gate", &["10.1.0.1"]);
    let mut web = service("web", &["10.1.0.2"]);
    web.waypoint = Some(gateway_named(gate.key()));
    let mut waypoint = workload("gate", &["10.0.0.1"]);
    waypoint.services = memberships(&[(&gate, &[])]);
    let (local, name) = (local(&waypoint), web.key());
    let mut index = Index::new();
    for change in [Change::Service(gate), Change::Service(web), Change::Workload(waypoint)] {
        index.apply(change);
    }
    (index, local, name)
}

fn denying(name: &str, attached: Attachment, path: &str) -> Change {
    let condition = Condition {
        of: Attribute::Path,
        any: vec![Test::Text(StringMatch::Prefix(path.into()))],
        none: Vec::new(),
    };
    let rule = GuardRule { clauses: vec![GuardClause { alternatives: vec![vec![condition]] }] };
    Change::Guard(Guard {
        name: PolicyName { namespace: "shop".into(), name: name.into() },
        attached: vec![attached],
        action: GuardAction::Deny,
        rules: vec![rule],
        dry_run: false,
    })
}

fn ask(index: &Index, local: &Local, service: Option<&ServiceName>, path: &str) -> Verdict {
    let (identity, headers) = ("spiffe://td/ns/shop/sa/client".parse().unwrap(), HeaderMap::new());
    let http = Http { method: &Method::GET, host: "web", path, headers: &headers, claims: None };
    let source = "10.0.0.9".parse().unwrap();
    let asked = Asked {
        identity: &identity,
        source,
        remote: source,
        destination: "10.1.0.2:80".parse().unwrap(),
        server_name: None,
        http: Some(http),
    };
    ready(match guard(index, local, service, &asked) {
        Answer::Ready(judgement) => Answer::Ready(Ok(judgement)),
        Answer::Needs(missing) => Answer::Needs(missing),
    })
    .verdict
}

#[test]
fn a_guard_of_the_service_or_of_the_waypoint_applies_and_no_other() {
    let (mut index, local, web) = shop();
    let gate = service("gate", &[]).key();
    let other = service("other", &[]).key();
    let vip = NetworkAddress::new(local.network.clone(), "10.1.0.1".parse().unwrap());
    let waypoint = |to| Attachment::Waypoint(to);
    index.apply(denying("service", Attachment::Service(web.clone()), "/a"));
    index.apply(denying("name", waypoint(GatewayDestination::Hostname(gate)), "/b"));
    index.apply(denying("address", waypoint(GatewayDestination::Address(vip)), "/c"));
    index.apply(denying("other", Attachment::Service(other.clone()), "/"));
    index.apply(denying("elsewhere", waypoint(GatewayDestination::Hostname(other)), "/"));
    for (path, by) in [("/a", Some("service")), ("/b", Some("name")), ("/c", Some("address")), ("/d", None)] {
        let name = |name: &str| PolicyName { namespace: "shop".into(), name: name.into() };
        let expected = by.map_or(Verdict::Open, |by| Verdict::Denied(name(by)));
        assert_eq!(ask(&index, &local, Some(&web), path), expected, "{path}");
    }
    assert_eq!(ask(&index, &local, None, "/a"), Verdict::Open, "a workload is not the service");
}

#[test]
fn before_the_first_sync_there_is_no_answer() {
    let (index, local, web) = shop();
    assert_eq!(issuers(&index, &local, Some(&web)), Answer::Ready(Vec::new()));
    let local = Local { synced: false, ..local };
    assert!(matches!(issuers(&index, &local, Some(&web)), Answer::Needs(_)));
}

#[test]
fn the_client_before_proxies_is_the_last_that_was_written() {
    let peer: IpAddr = "10.0.0.9".parse().unwrap();
    let read = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", HeaderValue::from_str(value).unwrap());
        }
        remote(&headers, peer).to_string()
    };
    assert_eq!(read(&[]), "10.0.0.9");
    assert_eq!(read(&["1.2.3.4, 5.6.7.8"]), "5.6.7.8");
    assert_eq!(read(&["1.2.3.4", "::ffff:9.9.9.9"]), "9.9.9.9");
    assert_eq!(read(&["1.2.3.4, nonsense"]), "10.0.0.9");
}
