// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a policy never lets more pass, and its owner is told.

use super::*;
use crate::{
    objects::Object,
    testing::{events, settings},
    world::{Event, World},
};

const GATE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop}
spec: {gatewayClassName: c, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: gate.shop.svc.cluster.local}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: free, namespace: shop}
spec: {clusterIP: 10.1.0.2, ports: [{port: 80}]}
---
";

/// A policy for service `target` with these fields besides.
fn policy(target: &str, fields: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{targetRefs: [{{kind: Service, name: {target}}}], {fields}}}\n"
    )
}

fn world(policy: &str) -> World {
    let mut world = World::new(settings());
    world.apply(events(GATE.trim_end().trim_end_matches("---")));
    // As a watch of the API server would hand it over: only its form has been checked.
    let policy: AuthorizationPolicy = serde_saphyr::from_str(policy).unwrap();
    world.apply([Event::Applied(Box::new(Object::AuthorizationPolicy(policy)))]);
    world
}

/// The rules of the guard, by how many clauses each has.
fn clauses(fields: &str) -> Vec<usize> {
    let world = world(&policy("web", fields));
    let guards = world.outputs().filter_map(|change| match change {
        mesh::Change::Guard(guard) => Some(guard),
        _ => None,
    });
    guards.flat_map(|guard| guard.rules).map(|rule| rule.clauses.len()).collect()
}

#[test]
fn what_cannot_be_read_never_lets_more_pass() {
    let rules = "rules: [{to: [{operation: {ports: [\"0\"]}}], from: [{source: {namespaces: [a]}}]}, {to: [{operation: {paths: [/a]}}]}]";
    assert_eq!(clauses(rules), [1], "of ALLOW the rule is dropped");
    assert_eq!(clauses(&format!("action: DENY, {rules}")), [1, 1], "of DENY the condition is dropped");
    assert_eq!(clauses(&format!("action: AUDIT, {rules}")), [1]);
    assert_eq!(clauses(&format!("action: CUSTOM, {rules}")), Vec::<usize>::new());
    let keys = "rules: [{when: [{key: experimental.envoy.filters.x, values: [a]}]}]";
    assert_eq!(clauses(keys), Vec::<usize>::new());
    assert_eq!(clauses(&format!("action: DENY, {keys}")), [0], "it denies everything");
}

#[test]
fn a_policy_says_where_it_is_in_force_or_why_it_is_not() {
    let good = "rules: [{to: [{operation: {paths: [/a]}}]}]";
    let bad = "rules: [{to: [{operation: {paths: [\"/{*}x\"]}}]}]";
    for (target, fields, reason, message) in [
        ("web", good, "Accepted", "in force at waypoint shop/gate"),
        ("absent", good, "TargetNotFound", "Service shop/absent does not exist"),
        ("free", good, "AncestorNotBound", "has no waypoint"),
        ("web", bad, "PartiallyInvalid", "is no template of paths"),
        ("web", "action: CUSTOM, rules: [{}]", "PartiallyInvalid", "no external authorizer"),
    ] {
        let world = world(&policy(target, fields));
        let key = ObjectKey { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: "p".into() };
        let reports: Vec<&Report> = world.reports_of(&key).collect();
        let standing = world.standing(&key, &reports).unwrap();
        assert_eq!(standing.reason, reason, "{standing:?}");
        assert!(standing.message.contains(message), "{standing:?}");
        assert_eq!(standing.is_accepted, reason == "Accepted");
    }
}

#[test]
fn what_a_policy_is_attached_to_decides_anew_when_it_changes() {
    let mut world = world(&policy("free", "rules: [{}]"));
    let key = ObjectKey { kind: Kind::AuthorizationPolicy, namespace: "shop".into(), name: "p".into() };
    let said = |world: &World| world.reports_of(&key).count();
    assert_eq!(said(&world), 1);
    let namespace =
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {istio.io/use-waypoint: gate}}\n";
    world.apply(events(namespace));
    assert_eq!(said(&world), 0, "{:?}", world.reports_of(&key).collect::<Vec<_>>());
}

#[test]
fn tokens_are_read_with_their_defaults_and_faults_are_named() {
    let object = |rule: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: t, namespace: shop}}\n\
             spec: {{targetRefs: [{{kind: Service, name: web}}], jwtRules: [{rule}]}}\n"
        );
        let object: RequestAuthentication = serde_saphyr::from_str(&text).unwrap();
        let mut reports = Reports::of(object.metadata.key(Kind::RequestAuthentication));
        let rules = convert_tokens(&object, &mut reports);
        (rules, reports.done().into_iter().map(|report| report.field).collect::<Vec<_>>())
    };
    let (rules, faults) = object("{issuer: \"https://a.example\"}");
    assert_eq!((rules.len(), faults.len()), (1, 0));
    assert_eq!(rules[0].from.len(), 2, "authorization and access_token");
    for (rule, field) in [
        ("{issuer: a}", "issuer"),
        ("{issuer: a, jwks: \"{}\"}", "jwks"),
        ("{issuer: a, jwksUri: \"file:///etc/passwd\"}", "jwksUri"),
        ("{issuer: a, jwksUri: \"https://u:p@a.example\"}", "jwksUri"),
        ("{issuer: a, jwksUri: \"https://b.example\", jwks: \"{}\"}", "jwks"),
        ("{issuer: \"https://a\", timeout: soon}", "timeout"),
        ("{issuer: \"https://a\", fromHeaders: [{name: \"a b\"}]}", "fromHeaders[0].name"),
        ("{issuer: \"https://a\", outputPayloadToHeader: Host}", "outputPayloadToHeader"),
        (
            "{issuer: \"https://a\", outputClaimToHeaders: [{header: x, claim: a..b}]}",
            "outputClaimToHeaders[0].claim",
        ),
    ] {
        let (rules, faults) = object(rule);
        assert_eq!((rules.len(), faults), (0, vec![format!("spec.jwtRules[0].{field}")]), "{rule}");
    }
}
