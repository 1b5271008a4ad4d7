// SPDX-License-Identifier: Apache-2.0
//! Whether a connection satisfies a rule.

use ipnet::IpNet;

use super::Subject;
use crate::{
    name::SpiffeId,
    policy::{Match, Policy, Rule, ServiceAccountMatch, StringMatch},
};

/// A subject with what rules compare against, worked out once per check.
pub(crate) struct Facts<'a> {
    pub(super) subject: &'a Subject,
    pub(super) principal: Option<String>,
}

impl<'a> Facts<'a> {
    /// Of a subject.
    pub(super) fn new(subject: &'a Subject) -> Self {
        Self { subject, principal: subject.identity.as_ref().map(SpiffeId::principal) }
    }

    /// Whether any rule of a policy is satisfied: never without rules.
    pub(super) fn satisfy_any(&self, policy: &Policy) -> bool {
        policy.rules.iter().any(|rule| self.satisfy(rule))
    }

    /// Whether every clause of a rule has a match that holds: always without clauses.
    pub(super) fn satisfy(&self, rule: &Rule) -> bool {
        rule.clauses.iter().all(|clause| clause.matches.iter().any(|candidate| self.hold(candidate)))
    }

    /// Whether all fields of a match hold: never without fields. Without mutual TLS nothing is known of the peer, so that
    /// fields about it do not hold and their negations do.
    fn hold(&self, candidate: &Match) -> bool {
        let identity = self.subject.identity.as_ref();
        let namespace = identity.map(|identity| identity.namespace().as_str());
        let principal = self.principal.as_deref();
        let source = self.subject.source.ip();
        let destination = self.subject.destination.ip();
        let port = self.subject.destination.port();
        let is_namespace = |value: &StringMatch| namespace.is_some_and(|text| value.fits(text));
        let is_principal = |value: &StringMatch| principal.is_some_and(|text| fits_principal(value, text));
        let is_account = |value: &ServiceAccountMatch| {
            identity.is_some_and(|identity| {
                *identity.namespace() == value.namespace
                    && *identity.service_account() == value.service_account
            })
        };
        let is_source = |net: &IpNet| net.contains(&source);
        let is_destination = |net: &IpNet| net.contains(&destination);
        let is_port = |known: &u16| *known == port;
        !candidate.is_empty()
            && holds(&candidate.namespaces, &candidate.not_namespaces, is_namespace)
            && holds(&candidate.principals, &candidate.not_principals, is_principal)
            && holds(&candidate.service_accounts, &candidate.not_service_accounts, is_account)
            && holds(&candidate.source_ips, &candidate.not_source_ips, is_source)
            && holds(&candidate.destination_ips, &candidate.not_destination_ips, is_destination)
            && holds(&candidate.destination_ports, &candidate.not_destination_ports, is_port)
    }
}

/// Any of `values` (if there are any), and none of `excluded`.
fn holds<T>(values: &[T], excluded: &[T], test: impl Fn(&T) -> bool) -> bool {
    (values.is_empty() || values.iter().any(&test)) && !excluded.iter().any(&test)
}

pub(crate) fn fits_principal(value: &StringMatch, text: &str) -> bool {
    match value {
        StringMatch::Exact(pattern) => principal_text(pattern) == text,
        StringMatch::Prefix(pattern) => text.starts_with(principal_text(pattern)),
        StringMatch::Suffix(_) | StringMatch::Presence => value.fits(text),
    }
}

/// Policies name identities without `spiffe://`; one that has it means the same.
pub(crate) fn principal_text(text: &str) -> &str {
    text.strip_prefix("spiffe://").unwrap_or(text)
}
