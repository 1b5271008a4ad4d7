// SPDX-License-Identifier: Apache-2.0
//! A rule of an `AuthorizationPolicy` as groups of alternatives: of each group one must match. What an alternative becomes
//! is for its reader: a condition of node proxies, or one of waypoints.

use crate::objects::{AuthorizationRule, Operation, Source, When};

/// Reads the parts of a rule; each is named by its field.
pub(super) trait Parts {
    /// What a part becomes.
    type Alternative;

    /// Of `from`.
    fn source(&mut self, field: &str, source: &Source) -> Self::Alternative;

    /// Of `to`.
    fn operation(&mut self, field: &str, operation: &Operation) -> Self::Alternative;

    /// Of `when`.
    fn condition(&mut self, field: &str, when: &When) -> Self::Alternative;
}

/// One group for `from`, one for `to`, one for each of `when`; none is empty.
pub(super) fn groups<P: Parts>(
    parts: &mut P,
    field: &str,
    rule: &AuthorizationRule,
) -> Vec<Vec<P::Alternative>> {
    let mut groups = Vec::with_capacity(2 + rule.when.len());
    let from = rule.from.iter().enumerate();
    groups.push(
        from.map(|(at, from)| parts.source(&format!("{field}.from[{at}].source"), &from.source)).collect(),
    );
    let to = rule.to.iter().enumerate();
    groups.push(
        to.map(|(at, to)| parts.operation(&format!("{field}.to[{at}].operation"), &to.operation)).collect(),
    );
    groups.retain(|group: &Vec<_>| !group.is_empty());
    let when = rule.when.iter().enumerate();
    groups.extend(when.map(|(at, when)| vec![parts.condition(&format!("{field}.when[{at}]"), when)]));
    groups
}
