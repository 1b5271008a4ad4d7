// SPDX-License-Identifier: Apache-2.0
//! Which objects there are, by name: what a new list does not have any more is gone.

use std::{collections::HashMap, fmt};

use serde::Deserialize;

/// Which object of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// Namespace; empty for a kind that has none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// The names, each with the list that it was last seen in.
#[derive(Debug, Default)]
pub(super) struct Known {
    names: HashMap<Name, u64>,
    list: u64,
}

impl Known {
    /// A new list begins.
    pub(super) fn begin(&mut self) {
        self.list += 1;
    }

    pub(super) fn insert(&mut self, name: Name) {
        self.names.insert(name, self.list);
    }

    pub(super) fn remove(&mut self, name: &Name) {
        self.names.remove(name);
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Forgets the names that the list did not have.
    pub(super) fn sweep(&mut self) -> Vec<Name> {
        let list = self.list;
        self.names.extract_if(|_, seen| *seen != list).map(|(name, _)| name).collect()
    }
}

#[derive(Deserialize)]
struct Identified {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    resource_version: Option<String>,
}

/// Name and version of an object in JSON.
pub(super) fn identify(object: &str) -> Option<(Name, Option<String>)> {
    let Identified { metadata } = serde_json::from_str(object).ok()?;
    let name = Name { namespace: metadata.namespace, name: metadata.name };
    (!name.name.is_empty()).then_some((name, metadata.resource_version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_list_does_not_have_any_more_is_gone() {
        let name = |name: &str| Name { namespace: "shop".to_owned(), name: name.to_owned() };
        let mut known = Known::default();
        known.begin();
        known.insert(name("a"));
        known.insert(name("b"));
        assert_eq!(known.sweep(), []);
        known.begin();
        known.insert(name("b"));
        known.insert(name("c"));
        assert_eq!(known.sweep(), [name("a")]);
        assert_eq!(known.len(), 2);
    }

    #[test]
    fn an_object_is_identified_whatever_else_is_in_it() {
        let object = r#"{"spec":[1],"metadata":{"name":"a","resourceVersion":"7","labels":{"x":"y"}}}"#;
        assert_eq!(identify(object).unwrap().0.to_string(), "a");
        assert_eq!(identify(object).unwrap().1.as_deref(), Some("7"));
        assert_eq!(identify(r#"{"metadata":{}}"#), None);
        assert_eq!(identify("[]"), None);
    }
}
