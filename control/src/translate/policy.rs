// SPDX-License-Identifier: Apache-2.0
//! `AuthorizationPolicy` as what a node proxy can enforce: identity, namespace, address, port.
//!
//! What needs HTTP is dropped as in Istio: an ALLOW rule wholly, of a DENY rule only the HTTP attributes. An invalid value
//! never widens what is allowed: its ALLOW rule is dropped, its DENY rule keeps the rest and so denies more.

pub(super) mod attribute;
pub(super) mod value;

use arcstr::ArcStr;
use mesh::{
    Policy, PolicyName,
    policy::{Action, Clause, Match, PolicyScope, Rule},
};

use self::attribute::Attribute;
use super::{
    Translation,
    rule::{self, Alternative, Lists, Parts},
};
use crate::{
    objects::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, Kind, Labels,
        Operation, Source, When,
    },
    report::Reports,
    world::Settings,
};

const DRY_RUN: &str = "istio.io/dry-run";

/// The policy that node proxies get; none when only a waypoint could enforce the object.
pub(crate) fn translate(settings: &Settings, object: &AuthorizationPolicy) -> Translation<Policy> {
    let mut reports = Reports::of(object.metadata.key(Kind::AuthorizationPolicy));
    let output = convert(object, &mut reports).map(|converted| Policy {
        name: name(object),
        scope: scope(settings, object),
        action: converted.action,
        rules: converted.rules,
        dry_run: converted.dry_run,
    });
    Translation { output, reports: reports.done() }
}

/// Its name on the wire.
pub(crate) fn name(object: &AuthorizationPolicy) -> PolicyName {
    PolicyName { namespace: object.metadata.namespace.clone(), name: object.metadata.name.clone() }
}

/// Whether a workload with these labels names the policy, if it is of the policy's namespace or that is the root namespace.
pub(crate) fn is_named_by(object: &AuthorizationPolicy, labels: &Labels) -> bool {
    let selector = object.spec.selector.as_ref();
    action(&object.spec).is_some() && selector.is_some_and(|selector| selector.selects(labels))
}

/// The action, where node proxies have to do with the policy at all.
fn action(spec: &AuthorizationPolicySpec) -> Option<Action> {
    match spec.action {
        AuthorizationAction::Allow if !spec.is_for_waypoints() => Some(Action::Allow),
        AuthorizationAction::Deny if !spec.is_for_waypoints() => Some(Action::Deny),
        AuthorizationAction::Allow
        | AuthorizationAction::Deny
        | AuthorizationAction::Audit
        | AuthorizationAction::Custom => None,
    }
}

fn scope(settings: &Settings, object: &AuthorizationPolicy) -> PolicyScope {
    match &object.spec.selector {
        Some(_) => PolicyScope::WorkloadSelector,
        None if object.metadata.namespace == settings.root_namespace => PolicyScope::Global,
        None => PolicyScope::Namespace,
    }
}

/// The part of a policy that comes from the object alone.
pub(crate) struct Converted {
    action: Action,
    rules: Vec<Rule>,
    dry_run: bool,
}

/// Reads an object and says everything that is wrong with it.
pub(crate) fn convert(object: &AuthorizationPolicy, reports: &mut Reports) -> Option<Converted> {
    let spec = &object.spec;
    let dry_run = dry_run(object, reports);
    check_attachment(spec, reports);
    let action = action(spec);
    let mut rules = Vec::new();
    for (index, rule) in spec.rules.iter().enumerate() {
        let field = format!("spec.rules[{index}]");
        // Also what only a waypoint could enforce is read: an error in it is one there too.
        let reading = action.unwrap_or(Action::Deny);
        let mut reader =
            Reader { action: reading, namespace: &object.metadata.namespace, reports, http: Vec::new() };
        let converted = reader.rule(&field, rule);
        let http = std::mem::take(&mut reader.http);
        if let Some(action) = action {
            warn_of_http(&field, &http, action, converted.is_some(), reports);
        }
        rules.extend(converted);
    }
    let action = action?;
    if spec.rules.is_empty() && action == Action::Deny {
        reports.warning("spec.rules", "a DENY policy without rules denies nothing: add a rule");
    }
    Some(Converted { action, rules, dry_run })
}

fn check_attachment(spec: &AuthorizationPolicySpec, reports: &mut Reports) {
    match spec.action {
        AuthorizationAction::Allow | AuthorizationAction::Deny => {}
        AuthorizationAction::Audit | AuthorizationAction::Custom => reports.warning(
            "spec.action",
            format!("node proxies do not enforce {}: use ALLOW or DENY", spec.action.as_str()),
        ),
    }
}

pub(super) fn dry_run(object: &AuthorizationPolicy, reports: &mut Reports) -> bool {
    match object.metadata.annotation(DRY_RUN).map(ArcStr::as_str) {
        Some("true") => true,
        Some("false") | None => false,
        Some(other) => {
            let field = format!("metadata.annotations[{DRY_RUN:?}]");
            reports
                .error(field, format!("{other:?} is neither \"true\" nor \"false\"; the policy is enforced"));
            false
        }
    }
}

fn warn_of_http(field: &str, http: &[String], action: Action, kept: bool, reports: &mut Reports) {
    if http.is_empty() {
        return;
    }
    let found = http.join(", ");
    let effect = match (action, kept) {
        (Action::Allow, _) => "the rule is dropped, so less is allowed than asked for",
        (Action::Deny, true) => {
            "the rule is enforced without them, so more is denied than asked for; what has nothing else denies nothing"
        }
        (Action::Deny, false) => "nothing of the rule is left, so it denies nothing",
    };
    reports.warning(field, format!("only a waypoint could judge {found}: {effect}"));
}

/// Reads one rule.
struct Reader<'a> {
    action: Action,
    namespace: &'a ArcStr,
    reports: &'a mut Reports,
    /// Attributes that need HTTP, in the order they were found.
    http: Vec<String>,
}

impl Reader<'_> {
    /// The rule, unless it is dropped.
    fn rule(&mut self, field: &str, rule: &AuthorizationRule) -> Option<Rule> {
        let groups = rule::groups(self, field, rule);
        let valid = groups.iter().flatten().all(|alternative| alternative.valid);
        if self.action == Action::Allow && (!valid || !self.http.is_empty()) {
            return None;
        }
        let mut clauses = Vec::new();
        for group in groups {
            // Under DENY what only had invalid values may have meant anyone.
            if group.iter().any(|alternative| !alternative.valid && alternative.condition.is_empty()) {
                continue;
            }
            let conditions = group.into_iter().map(|alternative| alternative.condition);
            let matches: Vec<Match> = conditions.filter(|condition| !condition.is_empty()).collect();
            if matches.is_empty() {
                return None;
            }
            clauses.push(Clause { matches });
        }
        Some(Rule { clauses })
    }
}

impl Parts for Reader<'_> {
    type Condition = Match;

    const EXAMPLE: &'static str = "a port";

    fn reports(&mut self) -> &mut Reports {
        self.reports
    }

    fn source(&mut self, field: &str, source: &Source) -> Alternative<Match> {
        self.need_http(&[
            ("requestPrincipals", &source.request_principals),
            ("notRequestPrincipals", &source.not_request_principals),
            ("remoteIpBlocks", &source.remote_ip_blocks),
            ("notRemoteIpBlocks", &source.not_remote_ip_blocks),
            ("trustDomains", &source.trust_domains),
            ("notTrustDomains", &source.not_trust_domains),
        ]);
        let namespace = self.namespace;
        let account = |text: &str| value::service_account(text, namespace);
        let mut lists = Lists::new(field, self.reports);
        let condition = Match {
            principals: lists.read("principals", &source.principals, value::principal),
            not_principals: lists.read("notPrincipals", &source.not_principals, value::principal),
            namespaces: lists.read("namespaces", &source.namespaces, value::string),
            not_namespaces: lists.read("notNamespaces", &source.not_namespaces, value::string),
            service_accounts: lists.read("serviceAccounts", &source.service_accounts, account),
            not_service_accounts: lists.read("notServiceAccounts", &source.not_service_accounts, account),
            source_ips: lists.read("ipBlocks", &source.ip_blocks, value::block),
            not_source_ips: lists.read("notIpBlocks", &source.not_ip_blocks, value::block),
            ..Match::default()
        };
        Alternative { condition, valid: lists.valid }
    }

    fn operation(&mut self, field: &str, operation: &Operation) -> Alternative<Match> {
        self.need_http(&[
            ("hosts", &operation.hosts),
            ("notHosts", &operation.not_hosts),
            ("methods", &operation.methods),
            ("notMethods", &operation.not_methods),
            ("paths", &operation.paths),
            ("notPaths", &operation.not_paths),
        ]);
        let mut lists = Lists::new(field, self.reports);
        let condition = Match {
            destination_ports: lists.read("ports", &operation.ports, value::port),
            not_destination_ports: lists.read("notPorts", &operation.not_ports, value::port),
            ..Match::default()
        };
        Alternative { condition, valid: lists.valid }
    }

    fn condition(&mut self, field: &str, when: &When) -> Alternative<Match> {
        let attribute = Attribute::of(&when.key);
        if attribute.is_none() {
            let known = attribute::KNOWN.join(", ");
            self.reports.error(
                format!("{field}.key"),
                format!("{:?} is not an attribute; known are {known}", when.key),
            );
        }
        let mut lists = Lists::new(field, self.reports);
        let mut condition = Match::default();
        match attribute {
            Some(Attribute::SourceIp) => {
                condition.source_ips = lists.read("values", &when.values, value::block);
                condition.not_source_ips = lists.read("notValues", &when.not_values, value::block);
            }
            Some(Attribute::SourceNamespace) => {
                condition.namespaces = lists.read("values", &when.values, value::string);
                condition.not_namespaces = lists.read("notValues", &when.not_values, value::string);
            }
            Some(Attribute::SourcePrincipal) => {
                condition.principals = lists.read("values", &when.values, value::principal);
                condition.not_principals = lists.read("notValues", &when.not_values, value::principal);
            }
            Some(Attribute::DestinationIp) => {
                condition.destination_ips = lists.read("values", &when.values, value::block);
                condition.not_destination_ips = lists.read("notValues", &when.not_values, value::block);
            }
            Some(Attribute::DestinationPort) => {
                condition.destination_ports = lists.read("values", &when.values, value::port);
                condition.not_destination_ports = lists.read("notValues", &when.not_values, value::port);
            }
            Some(Attribute::Http) => self.http.push(when.key.to_string()),
            None => {}
        }
        Alternative { condition, valid: lists.valid && attribute.is_some() }
    }
}

impl Reader<'_> {
    fn need_http(&mut self, fields: &[(&str, &Vec<ArcStr>)]) {
        for (name, _) in fields.iter().filter(|(_, values)| !values.is_empty()) {
            if !self.http.iter().any(|found| found == name) {
                self.http.push((*name).to_owned());
            }
        }
    }
}

#[cfg(test)]
mod tests;
