// SPDX-License-Identifier: Apache-2.0
//! What guards make of a request: any DENY that matches refuses; where ALLOW applies, one must match.

use super::{
    Book, GuardAction,
    matching::{Asked, Facts},
};
use crate::{authz::Verdict, name::PolicyName};

/// What [`judge`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What to do.
    pub verdict: Verdict,
    /// What policies under trial would have done, had they been enforced and no others; `None` without such policies.
    pub dry_run: Option<Verdict>,
    /// AUDIT policies that match.
    pub audited: Vec<PolicyName>,
}

impl Judgement {
    /// Of nothing that applies.
    pub fn open() -> Self {
        Self { verdict: Verdict::Open, dry_run: None, audited: Vec::new() }
    }
}

/// Asks the guards of all books.
pub fn judge(books: &[&Book], asked: &Asked<'_>) -> Judgement {
    if books.is_empty() {
        return Judgement::open();
    }
    let facts = Facts::new(asked);
    let mut audited: Vec<PolicyName> = books
        .iter()
        .flat_map(|book| book.chapter(GuardAction::Audit, false).matching(&facts, GuardAction::Audit))
        .cloned()
        .collect();
    audited.sort();
    audited.dedup();
    Judgement {
        verdict: verdict(books, &facts, false).unwrap_or(Verdict::Open),
        dry_run: verdict(books, &facts, true),
        audited,
    }
}

/// Of those that are enforced, or of those under trial; `None` when there are none.
fn verdict(books: &[&Book], facts: &Facts<'_>, dry_run: bool) -> Option<Verdict> {
    let matching = |action| {
        let chapters = books.iter().map(move |book| book.chapter(action, dry_run));
        chapters.filter_map(move |chapter| chapter.matching(facts, action).min()).min()
    };
    let first = |action| books.iter().filter_map(move |book| book.chapter(action, dry_run).first()).min();
    if let Some(policy) = matching(GuardAction::Deny) {
        return Some(Verdict::Denied(policy.clone()));
    }
    let Some(allow) = first(GuardAction::Allow) else {
        return first(GuardAction::Deny).map(|_| Verdict::Open);
    };
    Some(match matching(GuardAction::Allow) {
        Some(policy) => Verdict::Allowed(policy.clone()),
        None => Verdict::NotAllowed(allow.clone()),
    })
}
