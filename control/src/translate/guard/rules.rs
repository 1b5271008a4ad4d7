// SPDX-License-Identifier: Apache-2.0
//! The rules of an `AuthorizationPolicy` as conditions of a waypoint.

use arcstr::ArcStr;
use mesh::l7::guard::{Attribute, Condition, GuardAction, GuardClause, GuardRule, Template, Test};

use super::attribute::attribute;
use crate::{
    objects::{AuthorizationPolicySpec, AuthorizationRule, Operation, Source, When},
    report::Reports,
    translate::{
        policy::value,
        rule::{self, Alternative, Lists, Parts},
    },
};

/// All rules that can be enforced.
pub(super) fn read(
    spec: &AuthorizationPolicySpec,
    namespace: &ArcStr,
    action: GuardAction,
    reports: &mut Reports,
) -> Vec<GuardRule> {
    let mut rules = Vec::with_capacity(spec.rules.len());
    for (index, rule) in spec.rules.iter().enumerate() {
        let mut reader = Reader { action, namespace, reports };
        rules.extend(reader.rule(&format!("spec.rules[{index}]"), rule));
    }
    rules
}

/// Reads one rule.
struct Reader<'a> {
    action: GuardAction,
    namespace: &'a ArcStr,
    reports: &'a mut Reports,
}

impl Reader<'_> {
    /// The rule, unless it is dropped.
    fn rule(&mut self, field: &str, rule: &AuthorizationRule) -> Option<GuardRule> {
        let groups = rule::groups(self, field, rule);
        let valid = groups.iter().flatten().all(|alternative| alternative.valid);
        if self.action != GuardAction::Deny && !valid {
            return None;
        }
        let mut clauses = Vec::with_capacity(groups.len());
        for group in groups {
            // Under DENY what only had invalid values may have meant anyone.
            if group.iter().any(|alternative| !alternative.valid && alternative.condition.is_empty()) {
                continue;
            }
            let alternatives = group.into_iter().map(|alternative| alternative.condition).collect();
            clauses.push(GuardClause { alternatives });
        }
        Some(GuardRule { clauses })
    }

    fn values<'r>(&'r mut self, field: &'r str) -> Values<'r> {
        let lists = Lists::new(field, self.reports);
        Values { namespace: self.namespace, lists, found: Vec::new() }
    }
}

impl Parts for Reader<'_> {
    type Condition = Vec<Condition>;

    const EXAMPLE: &'static str = "a path";

    fn reports(&mut self) -> &mut Reports {
        self.reports
    }

    fn source(&mut self, field: &str, source: &Source) -> Alternative<Vec<Condition>> {
        let mut read = self.values(field);
        let Source {
            principals,
            not_principals,
            request_principals,
            not_request_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            trust_domains,
            not_trust_domains,
            ip_blocks,
            not_ip_blocks,
            remote_ip_blocks,
            not_remote_ip_blocks,
        } = source;
        for (attribute, (name, any), (not_name, none)) in [
            (Attribute::Principal, ("principals", principals), ("notPrincipals", not_principals)),
            (
                Attribute::RequestPrincipal,
                ("requestPrincipals", request_principals),
                ("notRequestPrincipals", not_request_principals),
            ),
            (Attribute::Namespace, ("namespaces", namespaces), ("notNamespaces", not_namespaces)),
            (
                Attribute::ServiceAccount,
                ("serviceAccounts", service_accounts),
                ("notServiceAccounts", not_service_accounts),
            ),
            (Attribute::TrustDomain, ("trustDomains", trust_domains), ("notTrustDomains", not_trust_domains)),
            (Attribute::SourceIp, ("ipBlocks", ip_blocks), ("notIpBlocks", not_ip_blocks)),
            (
                Attribute::RemoteIp,
                ("remoteIpBlocks", remote_ip_blocks),
                ("notRemoteIpBlocks", not_remote_ip_blocks),
            ),
        ] {
            read.add(attribute, (name, any), (not_name, none));
        }
        read.done()
    }

    fn operation(&mut self, field: &str, operation: &Operation) -> Alternative<Vec<Condition>> {
        let mut read = self.values(field);
        let Operation { hosts, not_hosts, ports, not_ports, methods, not_methods, paths, not_paths } =
            operation;
        read.add(Attribute::Host, ("hosts", hosts), ("notHosts", not_hosts));
        read.add(Attribute::DestinationPort, ("ports", ports), ("notPorts", not_ports));
        read.add(Attribute::Method, ("methods", methods), ("notMethods", not_methods));
        read.add(Attribute::Path, ("paths", paths), ("notPaths", not_paths));
        read.done()
    }

    fn condition(&mut self, field: &str, when: &When) -> Alternative<Vec<Condition>> {
        let attribute = match attribute(&when.key) {
            Ok(attribute) => attribute,
            Err(why) => {
                self.reports.error(format!("{field}.key"), why);
                return Alternative { condition: Vec::new(), valid: false };
            }
        };
        let mut read = self.values(field);
        read.add(attribute, ("values", &when.values), ("notValues", &when.not_values));
        read.done()
    }
}

/// Reads the lists of one alternative.
struct Values<'a> {
    namespace: &'a ArcStr,
    lists: Lists<'a>,
    found: Vec<Condition>,
}

impl Values<'_> {
    fn add(&mut self, of: Attribute, any: (&str, &[ArcStr]), none: (&str, &[ArcStr])) {
        let read = |text: &str| test(&of, text, self.namespace);
        let (any, none) = (self.lists.read(any.0, any.1, read), self.lists.read(none.0, none.1, read));
        if !any.is_empty() || !none.is_empty() {
            self.found.push(Condition { of, any, none });
        }
    }

    fn done(self) -> Alternative<Vec<Condition>> {
        Alternative { condition: self.found, valid: self.lists.valid }
    }
}

fn test(of: &Attribute, text: &str, namespace: &ArcStr) -> Result<Test, String> {
    Ok(match of {
        Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
            Test::Net(value::block(text)?)
        }
        Attribute::DestinationPort => Test::Port(value::port(text)?),
        Attribute::ServiceAccount => Test::Account(value::service_account(text, namespace)?),
        Attribute::Principal => Test::Text(value::principal(text)?),
        Attribute::Path if Template::is_one(text) => {
            Test::Template(Template::parse(text).map_err(|error| error.to_string())?)
        }
        Attribute::Path
        | Attribute::Namespace
        | Attribute::TrustDomain
        | Attribute::ServerName
        | Attribute::RequestPrincipal
        | Attribute::Audience
        | Attribute::Presenter
        | Attribute::Claim(_)
        | Attribute::Host
        | Attribute::Method
        | Attribute::Header(_) => Test::Text(value::string(text)?),
    })
}
