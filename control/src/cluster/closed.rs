// SPDX-License-Identifier: Apache-2.0
//! What to make of a policy that we do not wholly understand: never more is allowed than its author may have meant.
//!
//! A field that we do not know may narrow the rule that it is in. So an ALLOW policy loses the rule, and a DENY policy
//! loses the condition, which denies more. Where neither can be told, the policy lets nobody in.

use arcstr::literal;

use crate::{
    objects::Kind,
    tree::{Entry, FieldError, Node, Path, Segment, Value},
};

const NOBODY: &str = "until it is understood the policy allows nothing";
const DENIES_ALL: &str = "until it is understood the policy denies everything";
const STRICT: &str = "until it is understood mutual TLS is required on every port";
const NO_SERVER: &str = "until it is understood no server is believed, so connections fail";
const RULE_DROPPED: &str = "the rule is dropped, so less is allowed than asked for";
const DENIES_MORE: &str = "the rule is enforced without it, so more is denied than asked for";
const LEFT_OUT: &str = "it is left out";

/// Mends an `AuthorizationPolicy` at a fault; says what that means, or nothing where the object is beyond it.
pub(super) fn authorization(tree: &mut Node, fault: &Path) -> Option<&'static str> {
    let keys: Vec<&str> = fault.0.iter().map(name).collect();
    match keys.as_slice() {
        ["spec", "action", ..] => {
            tree.child_mut("spec")?.set("action", Value::Text(literal!("ALLOW")));
            nobody(tree)
        }
        ["spec", "rules"] => match action(tree) {
            Action::Allow => nobody(tree),
            Action::Deny => {
                tree.child_mut("spec")?.set("rules", everything());
                Some(DENIES_ALL)
            }
            Action::Other => remove(tree, &fault.0),
        },
        ["spec", "rules", ..] => rule(tree, fault),
        ["spec", "targetRef" | "targetRefs", ..] => attachment(tree, fault),
        ["spec", _, ..] => {
            remove(tree, &fault.0)?;
            match action(tree) {
                Action::Allow => nobody(tree),
                Action::Deny => Some("the policy is enforced without it, so more is denied than asked for"),
                Action::Other => Some(LEFT_OUT),
            }
        }
        _ => remove(tree, &fault.0),
    }
}

/// Mends a `PeerAuthentication`: with anything in it that is not understood it requires mutual TLS.
pub(super) fn peer(tree: &mut Node, fault: &Path) -> Option<&'static str> {
    remove(tree, &fault.0)?;
    if !matches!(fault.0.first(), Some(Segment::Key(key)) if key == "spec") {
        return Some(LEFT_OUT);
    }
    let spec = tree.child_mut("spec")?;
    spec.set("mtls", strict());
    if let Some(Value::Mapping(ports)) = spec.child_mut("portLevelMtls").map(|ports| &mut ports.value) {
        for port in ports {
            port.node.value = strict();
        }
    }
    Some(STRICT)
}

/// Mends a `BackendTLSPolicy`: with anything in it that is not understood nobody is believed, but by those whom it is not
/// for.
pub(super) fn backend_tls(tree: &mut Node, error: &FieldError) -> Option<&'static str> {
    let keys: Vec<&str> = error.path.0.iter().map(name).collect();
    match keys.as_slice() {
        ["spec", "validation", ..] => {}
        // Without its target nobody could tell whose connections are to fail.
        ["spec", "targetRefs", ..] if !error.unknown => return None,
        ["spec", ..] => drop(remove(tree, &error.path.0)?),
        _ => return remove(tree, &error.path.0),
    }
    tree.child_mut("spec")?.set("validation", Value::Null);
    Some(NO_SERVER)
}

/// What to make of a policy that mending has led to nothing: what it does when nothing else of it is known, to those whom
/// it selects; if they cannot be told, to all. One with a target stays with its target. Nothing for what nobody enforces.
pub(super) fn last_resorts(kind: Kind, tree: &Node) -> Option<(&'static str, Vec<Node>)> {
    let spec = tree.child("spec")?;
    let (effect, fields) = if kind == Kind::PeerAuthentication {
        (STRICT, vec![entry("mtls", strict())])
    } else if kind != Kind::AuthorizationPolicy {
        return None;
    } else {
        match action(tree) {
            Action::Allow => (NOBODY, vec![entry("rules", Value::Sequence(Vec::new()))]),
            Action::Deny => {
                let deny = entry("action", Value::Text(literal!("DENY")));
                (DENIES_ALL, vec![deny, entry("rules", everything())])
            }
            Action::Other => return None,
        }
    };
    let Value::Mapping(top) = &tree.value else { return None };
    let top = top.iter().filter(|entry| matches!(entry.key.as_str(), "apiVersion" | "kind" | "metadata"));
    let with = |names: &[&'static str]| {
        let kept = names.iter().filter_map(|name| Some(entry(name, spec.child(name)?.value.clone())));
        let spec = entry("spec", Value::Mapping(fields.iter().cloned().chain(kept).collect()));
        Node { line: tree.line, value: Value::Mapping(top.clone().cloned().chain([spec]).collect()) }
    };
    if kind == Kind::AuthorizationPolicy && is_attached(spec) {
        return Some((effect, vec![with(&["targetRef", "targetRefs"])]));
    }
    let selector = spec.child("selector").map(|_| with(&["selector"]));
    Some((effect, selector.into_iter().chain([with(&[])]).collect()))
}

/// Whether a policy is for waypoints, however that is written.
fn is_attached(spec: &Node) -> bool {
    ["targetRef", "targetRefs"].into_iter().filter_map(|key| spec.child(key)).any(|node| match &node.value {
        Value::Null => false,
        Value::Sequence(nodes) => !nodes.is_empty(),
        _ => true,
    })
}

fn entry(key: &'static str, value: Value) -> Entry {
    Entry { line: 0, key: key.into(), node: Node { line: 0, value } }
}

/// One rule without clauses.
fn everything() -> Value {
    Value::Sequence(vec![Node { line: 0, value: Value::Mapping(Vec::new()) }])
}

fn strict() -> Value {
    Value::Mapping(vec![entry("mode", Value::Text(literal!("STRICT")))])
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Allow,
    Deny,
    /// Not enforced by node proxies.
    Other,
}

fn action(tree: &Node) -> Action {
    let text = tree.child("spec").and_then(|spec| spec.child("action")).and_then(Node::text);
    match text.map_or("ALLOW", |text| text.as_str()) {
        "DENY" => Action::Deny,
        "AUDIT" | "CUSTOM" => Action::Other,
        _ => Action::Allow,
    }
}

fn name(segment: &Segment) -> &str {
    match segment {
        Segment::Key(key) => key,
        Segment::Index(_) => "[]",
    }
}

fn remove(tree: &mut Node, path: &[Segment]) -> Option<&'static str> {
    tree.remove(path).then_some(LEFT_OUT)
}

/// An ALLOW policy without rules.
fn nobody(tree: &mut Node) -> Option<&'static str> {
    tree.child_mut("spec")?.set("rules", Value::Sequence(Vec::new()));
    Some(NOBODY)
}

/// A fault in `spec.rules[i]`.
fn rule(tree: &mut Node, fault: &Path) -> Option<&'static str> {
    match action(tree) {
        Action::Allow => tree.remove(fault.0.get(..3)?).then_some(RULE_DROPPED),
        Action::Other => remove(tree, &fault.0),
        Action::Deny => {
            // spec rules [i] clause [j] source|operation field ...
            let whole = match fault.0.len() {
                0..=3 => return widest(tree, fault),
                // The clause itself, or one of its alternatives.
                4..=6 => fault.0.get(..4)?,
                _ => fault.0.get(..7)?,
            };
            // Of `when`, `values` stand where `source` does.
            let is_when = matches!(fault.0.get(3), Some(Segment::Key(key)) if key == "when");
            let is_value = matches!(fault.0.get(5), Some(Segment::Key(key)) if key != "key");
            let whole = if is_when && is_value { fault.0.get(..6)? } else { whole };
            tree.remove(whole).then_some(DENIES_MORE)
        }
    }
}

/// A rule that is no mapping may have meant anyone.
fn widest(tree: &mut Node, fault: &Path) -> Option<&'static str> {
    let Some(Segment::Index(index)) = fault.0.get(2) else { return None };
    let rules = tree.child_mut("spec")?.child_mut("rules")?;
    let Value::Sequence(rules) = &mut rules.value else { return None };
    rules.get_mut(*index)?.value = Value::Mapping(Vec::new());
    Some("until it is understood the rule denies everything")
}

/// An attached policy is for waypoints. It must not become one for a whole namespace.
fn attachment(tree: &mut Node, fault: &Path) -> Option<&'static str> {
    tree.remove(&fault.0);
    let spec = tree.child("spec")?;
    let listed = |node: &Node| match &node.value {
        Value::Sequence(items) => items.iter().any(|item| matches!(item.value, Value::Mapping(_))),
        _ => false,
    };
    let attached = spec.child("targetRef").is_some_and(|node| matches!(node.value, Value::Mapping(_)))
        || spec.child("targetRefs").is_some_and(listed);
    attached.then_some(LEFT_OUT)
}
