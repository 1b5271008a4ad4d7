// SPDX-License-Identifier: Apache-2.0
//! Whether a DaemonSet wants a node, by its template's `nodeSelector` and required `nodeAffinity` as the scheduler reads
//! them. Pure. What it cannot read counts as met: an agent that is wanted and leaves is worse than one that stays. Taints
//! are not looked at, for they come and go with a node's health.

use std::collections::BTreeMap;

use serde_json::Value;

/// A node as selectors see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selectable {
    labels: BTreeMap<String, String>,
    /// `metadata.name` is the only one that there is.
    fields: BTreeMap<String, String>,
}

impl Selectable {
    /// Of `v1.Node`.
    pub(crate) fn of(node: &Value) -> Self {
        let labels = node.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        let name = node.pointer("/metadata/name").and_then(Value::as_str);
        Self {
            labels: labels.filter_map(text).collect(),
            fields: name.map(|name| ("metadata.name".to_owned(), name.to_owned())).into_iter().collect(),
        }
    }

    /// Whether a DaemonSet wants this node.
    pub(crate) fn is_wanted_by(&self, daemon_set: &Value) -> bool {
        let Some(pod) = daemon_set.pointer("/spec/template/spec") else { return true };
        let selector = pod.get("nodeSelector").and_then(Value::as_object).into_iter().flatten();
        let selected = selector
            .filter_map(|(name, value)| Some((name, value.as_str()?)))
            .all(|(name, value)| self.labels.get(name).is_some_and(|found| found == value));
        let terms = pod.pointer(
            "/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms",
        );
        // One of them is enough, and a term without a requirement is met by no node.
        selected && list(terms).is_none_or(|terms| terms.iter().any(|term| self.meets(term)))
    }

    fn meets(&self, term: &Value) -> bool {
        let of = |name| list(term.get(name)).unwrap_or_default();
        let (expressions, fields) = (of("matchExpressions"), of("matchFields"));
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|requirement| fulfils(&self.labels, requirement))
            && fields.iter().all(|requirement| fulfils(&self.fields, requirement))
    }
}

fn list(value: Option<&Value>) -> Option<&[Value]> {
    value?.as_array().map(Vec::as_slice)
}

fn fulfils(of_node: &BTreeMap<String, String>, requirement: &Value) -> bool {
    let text = |name: &str| requirement.get(name).and_then(Value::as_str);
    let (Some(key), Some(operator)) = (text("key"), text("operator")) else { return true };
    let found = of_node.get(key);
    let mut values = list(requirement.get("values")).unwrap_or_default().iter().filter_map(Value::as_str);
    let number = |text: &str| text.parse::<i64>().ok();
    // Only whole numbers have an order.
    let ordered = |least: Option<&str>| Some((number(found?)?, number(least?)?));
    match operator {
        "In" => found.is_some_and(|found| values.any(|value| value == found)),
        "NotIn" => found.is_none_or(|found| values.all(|value| value != found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => ordered(values.next()).is_some_and(|(found, value)| found > value),
        "Lt" => ordered(values.next()).is_some_and(|(found, value)| found < value),
        _later => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(pod: &Value) -> bool {
        let node =
            json!({"metadata": {"name": "node-b", "labels": {"disk": "ssd", "cores": "8", "edge": ""}}});
        Selectable::of(&node).is_wanted_by(&json!({"spec": {"template": {"spec": pod}}}))
    }

    fn terms(terms: &Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    #[test]
    fn a_node_selector_wants_every_label() {
        for (selector, expected) in [
            (json!(null), true),
            (json!({}), true),
            (json!({"disk": "ssd"}), true),
            (json!({"disk": "ssd", "edge": ""}), true),
            (json!({"disk": "hdd"}), false),
            (json!({"disk": "ssd", "gpu": "yes"}), false),
        ] {
            assert_eq!(wanted(&json!({"nodeSelector": selector})), expected, "{selector}");
        }
    }

    #[test]
    fn each_operator_is_read_as_the_scheduler_reads_it() {
        for (key, operator, values, expected) in [
            ("disk", "In", vec!["hdd", "ssd"], true),
            ("disk", "In", vec!["hdd"], false),
            ("gpu", "In", vec!["yes"], false),
            ("disk", "NotIn", vec!["hdd", "ssd"], false),
            ("disk", "NotIn", vec!["hdd"], true),
            ("gpu", "NotIn", vec!["yes"], true),
            ("edge", "Exists", vec![], true),
            ("gpu", "Exists", vec![], false),
            ("edge", "DoesNotExist", vec![], false),
            ("gpu", "DoesNotExist", vec![], true),
            ("cores", "Gt", vec!["7"], true),
            ("cores", "Gt", vec!["8"], false),
            ("cores", "Gt", vec!["16"], false),
            ("cores", "Lt", vec!["16"], true),
            ("cores", "Lt", vec!["8"], false),
            ("disk", "Gt", vec!["1"], false),
            ("gpu", "Lt", vec!["1"], false),
            ("disk", "OfAnotherTime", vec!["hdd"], true),
        ] {
            let requirement = json!({"key": key, "operator": operator, "values": values});
            let pod = terms(&json!([{"matchExpressions": [requirement]}]));
            assert_eq!(wanted(&pod), expected, "{requirement}");
        }
    }

    #[test]
    fn one_term_is_enough_and_of_it_everything() {
        let on = |name: &str| json!({"key": "metadata.name", "operator": "In", "values": [name]});
        let ssd = json!({"key": "disk", "operator": "In", "values": ["ssd"]});
        let gpu = json!({"key": "gpu", "operator": "Exists"});
        for (of, expected) in [
            (json!([]), false),
            (json!([{}]), false),
            (json!([{"matchExpressions": [], "matchFields": []}]), false),
            (json!([{"matchExpressions": [ssd, gpu]}]), false),
            (json!([{"matchExpressions": [gpu]}, {"matchExpressions": [ssd]}]), true),
            (json!([{"matchFields": [on("node-b")]}]), true),
            (json!([{"matchFields": [on("node-a")]}]), false),
            (json!([{"matchFields": [on("node-b")], "matchExpressions": [gpu]}]), false),
        ] {
            assert_eq!(wanted(&terms(&of)), expected, "{of}");
        }
        let mut both = terms(&json!([{"matchExpressions": [ssd]}]));
        both["nodeSelector"] = json!({"gpu": "yes"});
        assert!(!wanted(&both), "the selector is not met");
    }

    #[test]
    fn what_is_preferred_or_absent_excludes_no_node() {
        let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}}]);
        let preferred = json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}});
        for pod in [json!({}), json!({"affinity": null}), preferred] {
            assert!(wanted(&pod), "{pod}");
        }
        assert!(Selectable::default().is_wanted_by(&json!({"metadata": {"name": "node"}})));
    }
}
