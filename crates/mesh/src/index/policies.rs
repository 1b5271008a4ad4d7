// SPDX-License-Identifier: Apache-2.0
//! Policies by name and by what they apply to.

use std::{collections::HashMap, sync::Arc};

use arcstr::ArcStr;

use crate::{
    authz::rules::Rulebook,
    name::PolicyName,
    policy::{Policy, PolicyScope},
};

/// All policies; those of a scope with their rules indexed, so that a check meets only rules that can match.
#[derive(Debug, Default)]
pub(crate) struct Policies {
    named: HashMap<PolicyName, Arc<Policy>>,
    global: Rulebook,
    namespaces: HashMap<ArcStr, Rulebook>,
}

impl Policies {
    /// A policy by name.
    pub(crate) fn named(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.named.get(name)
    }

    /// Those that apply to a whole namespace: its own and the mesh's.
    pub(crate) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Rulebook> + Clone {
        self.namespaces.get(namespace).into_iter().chain(std::iter::once(&self.global))
    }

    /// All.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.named.values()
    }

    /// Adds a policy in place of an earlier state of it.
    pub(crate) fn insert(&mut self, policy: Policy) {
        self.remove(&policy.name);
        let policy = Arc::new(policy);
        match policy.scope {
            PolicyScope::Global => self.global.insert(&policy),
            PolicyScope::Namespace => {
                self.namespaces.entry(policy.name.namespace.clone()).or_default().insert(&policy);
            }
            PolicyScope::WorkloadSelector => {}
        }
        self.named.insert(policy.name.clone(), policy);
    }

    /// Removes a policy and returns whether there was one.
    pub(crate) fn remove(&mut self, name: &PolicyName) -> bool {
        let Some(policy) = self.named.remove(name) else { return false };
        match policy.scope {
            PolicyScope::Global => self.global.remove(&policy),
            PolicyScope::Namespace => {
                if let Some(book) = self.namespaces.get_mut(&policy.name.namespace) {
                    book.remove(&policy);
                    if book.is_empty() {
                        self.namespaces.remove(&policy.name.namespace);
                    }
                }
            }
            PolicyScope::WorkloadSelector => {}
        }
        true
    }
}
