// SPDX-License-Identifier: Apache-2.0
//! What a role must let us do, held against what it does: one question for the rules that hold everywhere, one for those
//! of our own namespace, and one more for each right that they seem to lack, because not every authorizer lists its rules.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    api::Api,
    error::ApiError,
    resource::{Resource, Within},
};

const AUTHORIZATION: &str = "authorization.k8s.io";
const RULES: Resource = Resource::new(AUTHORIZATION, "v1", "selfsubjectrulesreviews");
const ACCESS: Resource = Resource::new(AUTHORIZATION, "v1", "selfsubjectaccessreviews");
const ANY: &str = "*";
/// A namespace without roles of ours: what is allowed there is allowed everywhere. It need not exist.
const NOWHERE: &str = "ambit-nowhere";

/// Something that a role must allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Right {
    /// The role, as kubectl takes it: `clusterrole/ambit-node`.
    pub role: &'static str,
    /// API group; empty for the core.
    pub group: &'static str,
    /// Name in paths, with a part of it behind a slash: `pods/status`.
    pub resource: &'static str,
    /// What is done with it.
    pub verbs: &'static [&'static str],
    /// Where, if not everywhere.
    pub namespace: Option<String>,
    /// The only objects that it is done with.
    pub names: Vec<String>,
    /// What does not work without it.
    pub breaks: &'static str,
}

/// What is lacking of a right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lack {
    /// The role that should have it.
    pub role: &'static str,
    /// The resource, with its group if it has one.
    pub resource: String,
    /// What may not be done.
    pub verbs: Vec<&'static str>,
    /// What does not work now.
    pub breaks: &'static str,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { role, resource, verbs, breaks } = self;
        write!(f, "{role} does not let it {} {resource}: {breaks}", verbs.join(", "))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Rule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

impl Api {
    /// What our roles do not allow of what they must.
    ///
    /// # Errors
    /// When the API server does not say.
    pub async fn lacking(&self, rights: &[Right]) -> Result<Vec<Lack>, ApiError> {
        let (own, everywhere) = (self.rules(self.namespace()).await?, self.rules(NOWHERE).await?);
        let mut lacks = Vec::new();
        for right in rights {
            let rules = if right.namespace.is_some() { &own } else { &everywhere };
            let mut verbs = Vec::new();
            for verb in right.verbs.iter().copied().filter(|verb| !right.is_among(rules, verb)) {
                if !self.may(right, verb).await? {
                    verbs.push(verb);
                }
            }
            if !verbs.is_empty() {
                lacks.push(right.without(verbs));
            }
        }
        Ok(lacks)
    }

    /// The rules that hold for us in a namespace.
    async fn rules(&self, namespace: &str) -> Result<Vec<Rule>, ApiError> {
        let question = json!({
            "apiVersion": RULES.api_version(), "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace},
        });
        let answer: Value = self.create(&RULES.path(&Within::Cluster), &question).await?;
        let rules = answer.pointer("/status/resourceRules").cloned().unwrap_or_default();
        Ok(serde_json::from_value(rules).unwrap_or_default())
    }

    /// The authorizers' own word on it.
    async fn may(&self, right: &Right, verb: &str) -> Result<bool, ApiError> {
        let (resource, part) = right.resource.split_once('/').unwrap_or((right.resource, ""));
        let mut names: Vec<&str> = right.names.iter().map(String::as_str).collect();
        if names.is_empty() {
            names.push("");
        }
        for name in names {
            let question = json!({
                "apiVersion": ACCESS.api_version(), "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": {
                    "verb": verb, "group": right.group, "resource": resource, "subresource": part,
                    "namespace": right.namespace.as_deref().unwrap_or_default(), "name": name,
                }},
            });
            let answer: Value = self.create(&ACCESS.path(&Within::Cluster), &question).await?;
            if answer.pointer("/status/allowed") != Some(&Value::Bool(true)) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl Right {
    fn is_among(&self, rules: &[Rule], verb: &str) -> bool {
        let has = |list: &[String], word: &str| list.iter().any(|found| found == word || found == ANY);
        let fits = |rule: &&Rule| {
            has(&rule.verbs, verb) && has(&rule.api_groups, self.group) && has(&rule.resources, self.resource)
        };
        let fitting: Vec<&Rule> = rules.iter().filter(fits).collect();
        let everything = fitting.iter().any(|rule| rule.resource_names.is_empty());
        let named = |name: &String| fitting.iter().any(|rule| rule.resource_names.contains(name));
        everything || !self.names.is_empty() && self.names.iter().all(named)
    }

    fn without(&self, verbs: Vec<&'static str>) -> Lack {
        let resource = match self.group {
            "" => self.resource.to_owned(),
            group => format!("{}.{group}", self.resource),
        };
        Lack { role: self.role, resource, verbs, breaks: self.breaks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right(names: &[&str]) -> Right {
        Right {
            role: "role/control",
            group: "",
            resource: "secrets",
            verbs: &["get", "list"],
            namespace: None,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            breaks: "nothing works",
        }
    }

    #[test]
    fn a_right_is_there_when_a_rule_has_its_verb_its_resource_and_its_names() {
        let rule = |verb: &str, group: &str, resource: &str, names: &[&str]| -> Rule {
            let rule = json!({"verbs": [verb], "apiGroups": [group], "resources": [resource], "resourceNames": names});
            serde_json::from_value(rule).unwrap()
        };
        for (rules, names, expected) in [
            (vec![rule("get", "", "secrets", &[])], vec![], true),
            (vec![rule("get", "", "secrets", &[])], vec!["a"], true),
            (vec![rule("*", "*", "*", &[])], vec![], true),
            (vec![rule("list", "", "secrets", &[])], vec![], false),
            (vec![rule("get", "apps", "secrets", &[])], vec![], false),
            (vec![rule("get", "", "secrets", &["a"])], vec![], false),
            (vec![rule("get", "", "secrets", &["a"])], vec!["a"], true),
            (vec![rule("get", "", "secrets", &["a"])], vec!["a", "b"], false),
            (
                vec![rule("get", "", "secrets", &["a"]), rule("get", "", "secrets", &["b"])],
                vec!["a", "b"],
                true,
            ),
            (vec![], vec![], false),
        ] {
            assert_eq!(right(&names).is_among(&rules, "get"), expected, "{rules:?} {names:?}");
        }
    }

    #[test]
    fn a_lack_says_who_what_and_what_breaks() {
        let text = right(&[]).without(vec!["get", "list"]).to_string();
        assert_eq!(text, "role/control does not let it get, list secrets: nothing works");
    }
}
