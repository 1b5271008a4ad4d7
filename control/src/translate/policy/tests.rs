// SPDX-License-Identifier: Apache-2.0
//! Values that cannot be read never widen what is allowed. (What can be read is in the golden files.)

use mesh::policy::StringMatch;

use super::*;
use crate::{report::Severity, testing::settings};

fn policy(rules: &str, action: &str) -> AuthorizationPolicy {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\n\
         spec: {{action: {action}, rules: {rules}}}\n"
    );
    // As a watch of the API server would hand it over: only its form has been checked.
    serde_saphyr::from_str(&text).unwrap()
}

/// Errors as `field: message`, and the rules.
fn translated(rules: &str, action: &str) -> (Vec<String>, Vec<Rule>) {
    let translation = translate(&settings(), &policy(rules, action));
    let errors = translation.reports.into_iter().filter(|report| report.severity == Severity::Error);
    (
        errors.map(|report| format!("{}: {}", report.field, report.message)).collect(),
        translation.output.unwrap().rules,
    )
}

#[test]
fn an_invalid_value_drops_the_rule_of_an_allow() {
    for condition in [
        "from: [{source: {ipBlocks: [10.0.0.0/8, x]}}]",
        "from: [{source: {principals: [\"spiffe://cluster.local/ns/a/sa/b\"]}}]",
        "from: [{source: {principals: [\"a*b\"]}}]",
        "from: [{source: {namespaces: [\"*a*\"]}}]",
        "from: [{source: {serviceAccounts: [\"a/*\"]}}]",
        "from: [{source: {serviceAccounts: [a], namespaces: [b]}}]",
        "from: [{source: {}}]",
        "to: [{operation: {ports: [\"http\"]}}]",
        "to: [{operation: {ports: [\"0\"]}}]",
        "to: [{operation: {}}]",
        "when: [{key: source.port, values: [\"1\"]}]",
        "when: [{key: source.ip}]",
        "when: [{key: destination.ip, notValues: [\"::ffff:10.0.0.0/104\"]}]",
    ] {
        let (errors, rules) =
            translated(&format!("[{{{condition}}}, {{to: [{{operation: {{ports: [\"80\"]}}}}]}}]"), "ALLOW");
        assert_eq!(errors.len(), 1, "{condition}: {errors:?}");
        assert!(errors[0].starts_with("spec.rules[0]."), "{errors:?}");
        assert_eq!(rules.len(), 1, "{condition}: only the good rule stays");
    }
}

#[test]
fn an_invalid_value_makes_a_deny_broader() {
    let namespace = || vec![StringMatch::Exact("a".into())];
    let matching = |matches: Vec<Match>| vec![Rule { clauses: vec![Clause { matches }] }];
    let of_namespace = || Match { namespaces: namespace(), ..Match::default() };
    for (condition, expected) in [
        // The rest of the same source stays.
        ("from: [{source: {namespaces: [a], ipBlocks: [10.0.0.0/8, x]}}]", matching(vec![of_namespace()])),
        // Nothing of the source is left: it may have meant anyone.
        ("from: [{source: {ipBlocks: [x]}}]", vec![Rule::default()]),
        ("from: [{source: {namespaces: [a]}}, {source: {ipBlocks: [x]}}]", vec![Rule::default()]),
        (
            "from: [{source: {namespaces: [a]}}], when: [{key: nonsense, values: [b]}]",
            matching(vec![of_namespace()]),
        ),
        (
            "from: [{source: {namespaces: [a]}}], to: [{operation: {ports: [x]}}]",
            matching(vec![of_namespace()]),
        ),
    ] {
        let (errors, rules) = translated(&format!("[{{{condition}}}]"), "DENY");
        assert_eq!(errors.len(), 1, "{condition}: {errors:?}");
        assert_eq!(rules, expected, "{condition}");
    }
}

#[test]
fn a_dry_run_that_is_neither_true_nor_false_is_enforced() {
    let mut object = policy("[{}]", "DENY");
    for (value, dry_run, errors) in [("true", true, 0), ("false", false, 0), ("yes", false, 1)] {
        object.metadata.annotations.insert(DRY_RUN.into(), value.into());
        let translation = translate(&settings(), &object);
        assert_eq!(translation.output.unwrap().dry_run, dry_run, "{value}");
        let found = translation.reports.iter().filter(|report| report.severity == Severity::Error).count();
        assert_eq!(found, errors, "{value}");
    }
}

mod strings {
    use mesh::policy::StringMatch;

    use super::value::{block, string};

    #[test]
    fn a_star_opens_one_end_only() {
        for (text, expected) in [
            ("*", Some(StringMatch::Presence)),
            ("a", Some(StringMatch::Exact("a".into()))),
            ("a*", Some(StringMatch::Prefix("a".into()))),
            ("*a", Some(StringMatch::Suffix("a".into()))),
            ("**", None),
            ("*a*", None),
            ("a*a", None),
            ("**a", None),
            ("", None),
        ] {
            assert_eq!(string(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn blocks_are_canonical() {
        for (text, expected) in [
            ("10.1.2.3/8", Some("10.0.0.0/8")),
            ("10.1.2.3", Some("10.1.2.3/32")),
            ("::ffff:10.1.2.3", Some("10.1.2.3/32")),
            ("fd00::1/64", Some("fd00::/64")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("::ffff:10.0.0.0/104", None),
            ("10.0.0.0/33", None),
            ("example.com", None),
        ] {
            assert_eq!(block(text).ok().map(|block| block.to_string()).as_deref(), expected, "{text}");
        }
    }
}
