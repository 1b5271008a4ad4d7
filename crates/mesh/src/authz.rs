// SPDX-License-Identifier: Apache-2.0
//! L4 authorization: may this connection reach this workload, and which policy says so.
//!
//! Exact semantics of Istio's ambient mode: any DENY that matches refuses; where ALLOW policies apply, one must match.
//! It does not know who asks or what becomes of the connection.

pub(crate) mod matching;
pub(crate) mod rules;

use std::{net::SocketAddr, sync::Arc};

use self::{matching::Facts, rules::Rulebook};
use crate::{
    index::Index,
    name::{PolicyName, SpiffeId},
    policy::{Action, Policy},
    workload::Workload,
};

/// What policies can ask about a connection. Addresses are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The peer's address.
    pub source: SocketAddr,
    /// The peer's identity as its certificate proves it; `None` without mutual TLS.
    pub identity: Option<SpiffeId>,
    /// The workload's address and the port that is really reached.
    pub destination: SocketAddr,
}

/// The answer, with the policy that decided: of several the first by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No DENY matches, and there is no ALLOW policy that applies.
    Open,
    /// No DENY matches, and this ALLOW policy does.
    Allowed(PolicyName),
    /// This DENY policy matches.
    Denied(PolicyName),
    /// ALLOW policies apply, for instance this one, and none matches.
    NotAllowed(PolicyName),
}

impl Verdict {
    /// The policy that decided.
    pub fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Open => None,
            Self::Allowed(policy) | Self::Denied(policy) | Self::NotAllowed(policy) => Some(policy),
        }
    }

    /// As metrics have it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Allowed(_) => "allowed",
            Self::Denied(_) => "denied",
            Self::NotAllowed(_) => "not_allowed",
        }
    }
}

/// What [`authorize`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// What policies under trial would have done, had they been enforced and no others; `None` without such policies.
    pub dry_run: Option<Verdict>,
}

/// The workload names a policy that is not in the Index (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub PolicyName);

/// Judges a connection to a workload by the policies of its namespace, of the mesh and those that it names.
///
/// # Errors
/// When a policy is missing that could still change the answer.
pub fn authorize(index: &Index, workload: &Workload, subject: &Subject) -> Result<Judgement, Missing> {
    let facts = Facts::new(subject);
    let mut named = Vec::with_capacity(workload.policies.len());
    let mut missing = None;
    for name in &workload.policies {
        match index.policy(name) {
            Some(policy) => named.push(policy),
            None => missing = missing.or_else(|| Some(Missing(name.clone()))),
        }
    }
    let applicable = Applicable { books: index.policies_of(&workload.namespace), named: &named };
    let dry_run = applicable.verdict(&facts, true);
    match (applicable.verdict(&facts, false), missing) {
        (Some(Verdict::Denied(policy)), _) => Ok(Judgement { verdict: Verdict::Denied(policy), dry_run }),
        (_, Some(missing)) => Err(missing),
        (verdict, None) => Ok(Judgement { verdict: verdict.unwrap_or(Verdict::Open), dry_run }),
    }
}

/// Policies that apply to a workload.
struct Applicable<'a, B> {
    books: B,
    named: &'a [&'a Arc<Policy>],
}

impl<'a, B: Iterator<Item = &'a Rulebook> + Clone> Applicable<'a, B> {
    /// The verdict of those that are enforced, or of those under trial; `None` when there are none.
    fn verdict(&self, facts: &Facts<'_>, dry_run: bool) -> Option<Verdict> {
        if let Some(policy) = self.first_match(facts, Action::Deny, dry_run) {
            return Some(Verdict::Denied(policy.clone()));
        }
        let Some(allow) = self.first(Action::Allow, dry_run) else {
            return self.first(Action::Deny, dry_run).map(|_| Verdict::Open);
        };
        let allowed = self.first_match(facts, Action::Allow, dry_run);
        Some(
            allowed.map_or_else(
                || Verdict::NotAllowed(allow.clone()),
                |policy| Verdict::Allowed(policy.clone()),
            ),
        )
    }

    fn first_match(&self, facts: &Facts<'_>, action: Action, dry_run: bool) -> Option<&'a PolicyName> {
        let filed = self.books.clone().filter_map(|book| book.chapter(action, dry_run).first_match(facts));
        let named = self.of(action, dry_run).filter(|policy| facts.satisfy_any(policy));
        filed.chain(named.map(|policy| &policy.name)).min()
    }

    fn first(&self, action: Action, dry_run: bool) -> Option<&'a PolicyName> {
        let filed = self.books.clone().filter_map(|book| book.chapter(action, dry_run).first());
        filed.chain(self.of(action, dry_run).map(|policy| &policy.name)).min()
    }

    fn of(&self, action: Action, dry_run: bool) -> impl Iterator<Item = &'a Arc<Policy>> {
        let fits = move |policy: &&Arc<Policy>| policy.action == action && policy.dry_run == dry_run;
        self.named.iter().copied().filter(fits)
    }
}

#[cfg(test)]
mod tests;
