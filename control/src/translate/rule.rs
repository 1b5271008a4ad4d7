// SPDX-License-Identifier: Apache-2.0
//! A rule of an `AuthorizationPolicy` as groups of alternatives: of each group one must match. What an alternative becomes
//! is for its reader: a condition of node proxies, or one of waypoints. What is wrong with it for both is said here.

use arcstr::ArcStr;

use crate::{
    objects::{AuthorizationRule, Operation, Source, When},
    report::Reports,
};

/// Reads the parts of a rule; each is named by its field.
pub(super) trait Parts {
    /// What a part becomes.
    type Condition;

    /// What an operation may well name.
    const EXAMPLE: &'static str;

    /// Where to say what is wrong.
    fn reports(&mut self) -> &mut Reports;

    /// Of `from`.
    fn source(&mut self, field: &str, source: &Source) -> Alternative<Self::Condition>;

    /// Of `to`.
    fn operation(&mut self, field: &str, operation: &Operation) -> Alternative<Self::Condition>;

    /// Of `when`.
    fn condition(&mut self, field: &str, when: &When) -> Alternative<Self::Condition>;
}

/// One alternative of a group.
pub(super) struct Alternative<C> {
    pub(super) condition: C,
    /// Whether all of it could be read; a list with a value that could not is left out of the condition.
    pub(super) valid: bool,
}

/// One group for `from`, one for `to`, one for each of `when`; none is empty.
pub(super) fn groups<P: Parts>(
    parts: &mut P,
    field: &str,
    rule: &AuthorizationRule,
) -> Vec<Vec<Alternative<P::Condition>>> {
    let mut groups = Vec::with_capacity(2 + rule.when.len());
    let from = rule.from.iter().enumerate().map(|(at, from)| {
        let (field, source) = (format!("{field}.from[{at}].source"), &from.source);
        let is_sound = is_sound_source(&field, source, parts.reports());
        parts.source(&field, source).only_if(is_sound)
    });
    groups.push(from.collect());
    let to = rule.to.iter().enumerate().map(|(at, to)| {
        let (field, operation) = (format!("{field}.to[{at}].operation"), &to.operation);
        let is_sound = is_sound_operation::<P>(&field, operation, parts.reports());
        parts.operation(&field, operation).only_if(is_sound)
    });
    groups.push(to.collect());
    groups.retain(|group: &Vec<_>| !group.is_empty());
    groups.extend(rule.when.iter().enumerate().map(|(at, when)| {
        let field = format!("{field}.when[{at}]");
        let is_sound = is_sound_condition(&field, when, parts.reports());
        vec![parts.condition(&field, when).only_if(is_sound)]
    }));
    groups
}

impl<C> Alternative<C> {
    fn only_if(self, is_sound: bool) -> Self {
        Self { valid: self.valid && is_sound, ..self }
    }
}

fn is_sound_source(field: &str, source: &Source, reports: &mut Reports) -> bool {
    if *source == Source::default() {
        reports.error(field, "is empty and matches nobody: name someone, or remove it to mean anyone");
        return false;
    }
    let accounts = !source.service_accounts.is_empty() || !source.not_service_accounts.is_empty();
    if accounts && !(source.principals.is_empty() && source.namespaces.is_empty()) {
        reports.error(
            format!("{field}.serviceAccounts"),
            "cannot stand beside principals or namespaces: it names both already",
        );
        return false;
    }
    true
}

fn is_sound_operation<P: Parts>(field: &str, operation: &Operation, reports: &mut Reports) -> bool {
    let is_empty = *operation == Operation::default();
    if is_empty {
        let example = P::EXAMPLE;
        reports.error(
            field,
            format!("is empty and matches nothing: name {example}, or remove it to mean anything"),
        );
    }
    !is_empty
}

fn is_sound_condition(field: &str, when: &When, reports: &mut Reports) -> bool {
    let is_empty = when.values.is_empty() && when.not_values.is_empty();
    if is_empty {
        reports.error(field, "has neither values nor notValues: add one of them");
    }
    !is_empty
}

/// Reads the lists of one alternative.
pub(super) struct Lists<'a> {
    field: &'a str,
    reports: &'a mut Reports,
    /// Whether every value so far could be read.
    pub(super) valid: bool,
}

impl<'a> Lists<'a> {
    pub(super) fn new(field: &'a str, reports: &'a mut Reports) -> Self {
        Self { field, reports, valid: true }
    }

    /// All values of a list; none when one of them cannot be read.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        values: &[ArcStr],
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Vec<T> {
        let mut good = Vec::with_capacity(values.len());
        for (index, text) in values.iter().enumerate() {
            match read(text) {
                Ok(value) => good.push(value),
                Err(why) => self.reports.error(format!("{}.{name}[{index}]", self.field), why),
            }
        }
        if good.len() < values.len() {
            self.valid = false;
            good.clear();
        }
        good
    }
}
