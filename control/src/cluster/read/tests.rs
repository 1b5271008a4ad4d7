// SPDX-License-Identifier: Apache-2.0
//! Objects with faults: what becomes of them, and what is said.

use mesh::{Change, Policy};

use super::*;
use crate::{
    testing::settings,
    world::{Event, World},
};

fn policy(spec: &str) -> (Option<Policy>, Vec<String>) {
    let text = format!(
        r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p","namespace":"shop"}},"spec":{spec}}}"#
    );
    let read = match read(Kind::AuthorizationPolicy, &text) {
        Ok(read) => read,
        Err(problems) => return (None, problems.into_iter().map(|problem| problem.field).collect()),
    };
    let mut world = World::new(settings());
    let changes = world.apply([Event::Applied(Box::new(read.object))]);
    let policy = changes.into_iter().find_map(|change| match change {
        Change::Policy(policy) => Some(policy),
        _ => None,
    });
    (policy, read.notes.into_iter().map(|note| note.field).collect())
}

/// A rule as text: its clauses, in a form that is short enough for a table.
fn rules(policy: &Policy) -> Vec<usize> {
    policy.rules.iter().map(|rule| rule.clauses.len()).collect()
}

#[test]
fn an_allow_policy_that_is_not_understood_allows_less() {
    let good = r#"{"from":[{"source":{"namespaces":["a"]}}]}"#;
    for (spec, left, said) in [
        (format!(r#"{{"rules":[{good}]}}"#), vec![1], None),
        (
            format!(r#"{{"rules":[{good},{{"from":[{{"source":{{"namespaces":["b"],"moons":["x"]}}}}]}}]}}"#),
            vec![1],
            Some("spec.rules[1].from[0].source.moons"),
        ),
        (format!(r#"{{"rules":[{good}],"moon":1}}"#), vec![], Some("spec.moon")),
        (
            format!(r#"{{"rules":[{good}],"selector":{{"matchLabels":{{"a":"b"}},"matchMoons":{{}}}}}}"#),
            vec![],
            Some("spec.selector.matchMoons"),
        ),
        (format!(r#"{{"rules":[{good}],"action":"PERHAPS"}}"#), vec![], Some("spec.action")),
        (r#"{"rules":7}"#.to_owned(), vec![], Some("spec.rules")),
    ] {
        let (policy, fields) = policy(&spec);
        let policy = policy.expect("it is enforced");
        assert_eq!(policy.action, mesh::policy::Action::Allow, "{spec}");
        assert_eq!(rules(&policy), left, "{spec}");
        assert_eq!(fields.first().map(String::as_str), said, "{spec}");
    }
}

#[test]
fn a_deny_policy_that_is_not_understood_denies_more() {
    let deny = |rule: &str| format!(r#"{{"action":"DENY","rules":[{rule}]}}"#);
    for (rule, clauses) in [
        // Known beside unknown: the known condition stays, alone.
        (
            r#"{"from":[{"source":{"namespaces":["a"],"moons":["x"]}}],"to":[{"operation":{"ports":["80"]}}]}"#,
            2,
        ),
        // Only unknown: the condition is gone.
        (r#"{"from":[{"source":{"moons":["x"]}}],"to":[{"operation":{"ports":["80"]}}]}"#, 1),
        // One alternative of two: any source would do.
        (
            r#"{"from":[{"source":{"namespaces":["a"]}},{"moon":{}}],"to":[{"operation":{"ports":["80"]}}]}"#,
            1,
        ),
        // One value of two cannot be read: the list is gone, not shorter.
        (r#"{"to":[{"operation":{"ports":["80",{}]}}]}"#, 0),
        (r#"{"when":[{"key":"source.ip","moons":["x"]},{"key":"destination.port","values":["80"]}]}"#, 1),
        (r#"{"unless":[]}"#, 0),
        ("7", 0),
    ] {
        let (policy, fields) = policy(&deny(rule));
        let policy = policy.expect("it is enforced");
        assert_eq!(rules(&policy), [clauses], "{rule}: {fields:?}");
        assert!(!fields.is_empty(), "{rule}");
    }
    let (policy, _) = policy(r#"{"action":"DENY","rules":7}"#);
    assert_eq!(rules(&policy.unwrap()), [0], "a rule without clauses matches everything");
}

/// More faults than are gone through one by one.
fn moons(count: usize) -> String {
    (0..count).map(|moon| format!(r#""moon{moon}":{moon}"#)).collect::<Vec<_>>().join(",")
}

#[test]
fn a_policy_with_any_number_of_faults_is_enforced_on_whom_it_selects() {
    let (many, selector) = (moons(500), r#""selector":{"matchLabels":{"app":"cart"}}"#);
    let rule = format!(r#"{{"from":[{{"source":{{{many},"namespaces":["a"]}}}}]}}"#);
    for (action, left, selected) in
        [("DENY", vec![0], true), ("ALLOW", vec![], true), ("DENY", vec![0], false)]
    {
        let selector = if selected { selector.to_owned() } else { format!(r#""selector":{{{many}}}"#) };
        let (found, fields) =
            policy(&format!(r#"{{"action":"{action}",{selector},"rules":[{rule}],{many}}}"#));
        let found = found.expect("it is enforced");
        assert_eq!(rules(&found), left, "{action}");
        assert_eq!(found.action == mesh::policy::Action::Deny, action == "DENY");
        assert_eq!(fields.first().map(String::as_str), Some("spec"), "it is said, and first");
        assert!(fields.len() < 30, "and not every fault: {}", fields.len());
    }
    let attached =
        format!(r#"{{"action":"DENY","targetRefs":[{{"kind":"Service",{many}}}],"rules":[{rule}]}}"#);
    assert_eq!(policy(&attached).0, None, "it is for a waypoint, not for the namespace");
    let text = format!(
        r#"{{"apiVersion":"security.istio.io/v1","kind":"AuthorizationPolicy","metadata":{{"name":"p","namespace":"shop"}},
        "spec":{{"action":"DENY","targetRefs":[{{"kind":"Service","name":"web"}}],"rules":[{rule}],{many}}}}}"#
    );
    let read = read(Kind::AuthorizationPolicy, &text).unwrap();
    let Object::AuthorizationPolicy(found) = read.object else { panic!("another kind") };
    assert!(read.is_beyond && found.spec.is_for_waypoints(), "it is enforced where it is attached");
    assert_eq!(found.spec.rules, [crate::objects::AuthorizationRule::default()]);
}

#[test]
fn a_peer_authentication_with_any_number_of_faults_requires_mutual_tls_of_whom_it_selects() {
    let text = format!(
        r#"{{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{{"name":"p","namespace":"shop"}},
        "spec":{{"selector":{{"matchLabels":{{"a":"b"}}}},"mtls":{{"mode":"DISABLE"}},{}}}}}"#,
        moons(500)
    );
    let read = read(Kind::PeerAuthentication, &text).unwrap();
    assert!(read.is_beyond);
    let Object::PeerAuthentication(peer) = read.object else { panic!("another kind") };
    assert_eq!(peer.spec.mode(), crate::objects::MtlsMode::Strict);
    assert_eq!(peer.spec.selector.map(|selector| selector.match_labels.len()), Some(1));
}

#[test]
fn an_attached_policy_never_becomes_one_for_a_namespace() {
    let (found, fields) =
        policy(r#"{"targetRefs":[{"kind":"Service","name":"a","sectionName":"b"}],"rules":[]}"#);
    assert_eq!((found, fields.len()), (None, 1));
    let (found, fields) = policy(r#"{"targetRefs":[7],"rules":[]}"#);
    assert_eq!((found, fields.join(" ").as_str()), (None, "spec spec.targetRefs[0]"));
}

#[test]
fn a_peer_authentication_that_is_not_understood_requires_mutual_tls() {
    let text = r#"{"apiVersion":"security.istio.io/v1","kind":"PeerAuthentication","metadata":{"name":"p","namespace":"shop"},
        "spec":{"selector":{"matchLabels":{"a":"b"}},"mtls":{"mode":"PERMISSIVE"},"portLevelMtls":{"80":{"mode":"PERHAPS"},"81":{"mode":"DISABLE"}}}}"#;
    let read = read(Kind::PeerAuthentication, text).unwrap();
    let Object::PeerAuthentication(peer) = read.object else { panic!("another kind") };
    let modes: Vec<_> =
        peer.spec.port_level_mtls.values().map(|mtls| mtls.mode).chain([peer.spec.mode()]).collect();
    assert!(modes.iter().all(|mode| *mode == crate::objects::MtlsMode::Strict), "{modes:?}");
    assert_eq!(read.notes[0].field, "spec.portLevelMtls.80.mode");
}

#[test]
fn of_other_istio_objects_unknown_fields_are_left_out_and_wrong_values_are_not_guessed() {
    let entry = |spec: &str| {
        format!(
            r#"{{"apiVersion":"networking.istio.io/v1","kind":"ServiceEntry","metadata":{{"name":"e","namespace":"shop"}},"spec":{spec}}}"#
        )
    };
    let mended = read(Kind::ServiceEntry, &entry(r#"{"hosts":["a.example"],"moon":{"phase":1}}"#)).unwrap();
    assert_eq!(mended.notes[0].field, "spec.moon");
    let Object::ServiceEntry(object) = mended.object else { panic!("another kind") };
    assert_eq!(object.spec.hosts, ["a.example"]);
    let broken =
        read(Kind::ServiceEntry, &entry(r#"{"hosts":["a.example"],"resolution":"MAYBE"}"#)).unwrap_err();
    assert_eq!(broken[0].field, "spec.resolution");
}

#[test]
fn core_objects_may_have_any_field_and_a_wrong_one_is_named() {
    let pod = |ip: &str| {
        format!(
            r#"{{"metadata":{{"name":"a","namespace":"shop","managedFields":[]}},"spec":{{"moon":1}},"status":{{"podIP":"{ip}"}}}}"#
        )
    };
    assert_eq!(read(Kind::Pod, &pod("10.0.0.1")).unwrap().notes, []);
    assert_eq!(read(Kind::Pod, &pod("10.0.0")).unwrap_err()[0].field, "status.podIP");
}

#[test]
fn a_policy_of_tls_that_is_not_understood_believes_nobody_but_stays_with_its_target() {
    let target = r#"[{"group":"","kind":"Service","name":"api"}]"#;
    let validation = r#"{"hostname":"a.example","wellKnownCACertificates":"System"}"#;
    let policy = |spec: &str| {
        let text = format!(
            r#"{{"apiVersion":"gateway.networking.k8s.io/v1","kind":"BackendTLSPolicy","metadata":{{"name":"p","namespace":"shop"}},"spec":{spec}}}"#
        );
        read(Kind::BackendTLSPolicy, &text)
    };
    for (spec, believes, field) in [
        (format!(r#"{{"targetRefs":{target},"validation":{validation}}}"#), true, None),
        (
            format!(r#"{{"targetRefs":{target},"validation":{validation},"moon":1}}"#),
            false,
            Some("spec.moon"),
        ),
        (
            format!(r#"{{"targetRefs":{target},"validation":{{"hostname":"a.example","moon":1}}}}"#),
            false,
            Some("spec.validation.moon"),
        ),
        (format!(r#"{{"targetRefs":{target},"validation":7}}"#), false, Some("spec.validation")),
        (
            format!(
                r#"{{"targetRefs":[{{"kind":"Service","name":"api","moon":1}}],"validation":{validation}}}"#
            ),
            false,
            Some("spec.targetRefs[0].moon"),
        ),
    ] {
        let Ok(Read { object: Object::BackendTLSPolicy(object), notes, .. }) = policy(&spec) else {
            panic!("{spec}")
        };
        assert_eq!(object.spec.target_refs[0].name, "api", "{spec}");
        assert_eq!(object.spec.validation.is_some(), believes, "{spec}");
        assert_eq!(notes.first().map(|note| note.field.as_str()), field, "{spec}");
    }
    let nowhere = policy(&format!(r#"{{"targetRefs":[7],"validation":{validation}}}"#));
    assert!(nowhere.is_err(), "whose connections are to fail, nobody can tell: {nowhere:?}");
}
