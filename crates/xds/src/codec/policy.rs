// SPDX-License-Identifier: Apache-2.0
//! `istio.security.Authorization`. A condition that is not understood refuses the whole policy: leaving it out would let
//! in more than its author allowed.

use arcstr::ArcStr;
use ipnet::IpNet;
use mesh::{
    Policy, PolicyName,
    policy::{Action, Clause, Match, PolicyScope, Rule, ServiceAccountMatch, StringMatch},
};
use proto::security as wire;
use wire::string_match::MatchType;

use super::field::{self, FieldError, In, Problem};

/// From the wire.
pub(super) fn decode(message: wire::Authorization) -> Result<Policy, FieldError> {
    supported(&message.extensions).field("extensions")?;
    if message.name.is_empty() {
        return Err(Problem::Missing).field("name");
    }
    Ok(Policy {
        name: PolicyName { namespace: message.namespace.into(), name: message.name.into() },
        scope: match field::known(message.scope).field("scope")? {
            wire::Scope::Global => PolicyScope::Global,
            wire::Scope::Namespace => PolicyScope::Namespace,
            wire::Scope::WorkloadSelector => PolicyScope::WorkloadSelector,
        },
        action: match field::known(message.action).field("action")? {
            wire::Action::Allow => Action::Allow,
            wire::Action::Deny => Action::Deny,
        },
        rules: message.rules.iter().map(rule).collect::<Result<_, _>>()?,
        dry_run: message.dry_run,
    })
}

/// To the wire.
pub(super) fn encode(policy: &Policy) -> wire::Authorization {
    let scope = match policy.scope {
        PolicyScope::Global => wire::Scope::Global,
        PolicyScope::Namespace => wire::Scope::Namespace,
        PolicyScope::WorkloadSelector => wire::Scope::WorkloadSelector,
    };
    let action = match policy.action {
        Action::Allow => wire::Action::Allow,
        Action::Deny => wire::Action::Deny,
    };
    let clause =
        |clause: &Clause| wire::Clause { matches: clause.matches.iter().map(match_message).collect() };
    let rule = |rule: &Rule| wire::Rule { clauses: rule.clauses.iter().map(clause).collect() };
    wire::Authorization {
        name: policy.name.name.to_string(),
        namespace: policy.name.namespace.to_string(),
        scope: scope.into(),
        action: action.into(),
        rules: policy.rules.iter().map(rule).collect(),
        dry_run: policy.dry_run,
        extensions: Vec::new(),
    }
}

fn supported(extensions: &[wire::Extension]) -> Result<(), Problem> {
    match extensions.first() {
        Some(extension) => Err(Problem::Extension { name: extension.name.clone() }),
        None => Ok(()),
    }
}

fn rule(message: &wire::Rule) -> Result<Rule, FieldError> {
    let mut clause = |message: &wire::Clause| {
        let matches = message.matches.iter().map(matching).collect::<Result<_, _>>()?;
        Ok(Clause { matches })
    };
    Ok(Rule { clauses: message.clauses.iter().map(&mut clause).collect::<Result<_, _>>()? })
}

fn matching(message: &wire::Match) -> Result<Match, FieldError> {
    supported(&message.extensions).field("rules.extensions")?;
    Ok(Match {
        namespaces: strings(&message.namespaces).field("rules.namespaces")?,
        not_namespaces: strings(&message.not_namespaces).field("rules.not_namespaces")?,
        principals: principals(&message.principals).field("rules.principals")?,
        not_principals: principals(&message.not_principals).field("rules.not_principals")?,
        service_accounts: accounts(&message.service_accounts),
        not_service_accounts: accounts(&message.not_service_accounts),
        source_ips: nets(&message.source_ips).field("rules.source_ips")?,
        not_source_ips: nets(&message.not_source_ips).field("rules.not_source_ips")?,
        destination_ips: nets(&message.destination_ips).field("rules.destination_ips")?,
        not_destination_ips: nets(&message.not_destination_ips).field("rules.not_destination_ips")?,
        destination_ports: ports(&message.destination_ports).field("rules.destination_ports")?,
        not_destination_ports: ports(&message.not_destination_ports).field("rules.not_destination_ports")?,
    })
}

fn match_message(matching: &Match) -> wire::Match {
    wire::Match {
        namespaces: strings_message(&matching.namespaces),
        not_namespaces: strings_message(&matching.not_namespaces),
        principals: strings_message(&matching.principals),
        not_principals: strings_message(&matching.not_principals),
        source_ips: nets_message(&matching.source_ips),
        not_source_ips: nets_message(&matching.not_source_ips),
        destination_ips: nets_message(&matching.destination_ips),
        not_destination_ips: nets_message(&matching.not_destination_ips),
        destination_ports: ports_message(&matching.destination_ports),
        not_destination_ports: ports_message(&matching.not_destination_ports),
        service_accounts: accounts_message(&matching.service_accounts),
        not_service_accounts: accounts_message(&matching.not_service_accounts),
        extensions: Vec::new(),
    }
}

fn strings(messages: &[wire::StringMatch]) -> Result<Vec<StringMatch>, Problem> {
    messages.iter().map(string).collect()
}

fn string(message: &wire::StringMatch) -> Result<StringMatch, Problem> {
    Ok(match message.match_type.as_ref().ok_or(Problem::Missing)? {
        MatchType::Exact(text) => StringMatch::Exact(text.into()),
        MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
        MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

/// Identities are compared without their scheme, so a pattern that has it must lose it.
fn principals(messages: &[wire::StringMatch]) -> Result<Vec<StringMatch>, Problem> {
    const SCHEME: &str = "spiffe://";
    let bare = |text: ArcStr| text.strip_prefix(SCHEME).map(ArcStr::from).unwrap_or(text);
    let principal = |message: &wire::StringMatch| {
        Ok(match string(message)? {
            StringMatch::Exact(text) => StringMatch::Exact(bare(text)),
            StringMatch::Prefix(text) => StringMatch::Prefix(bare(text)),
            other @ (StringMatch::Suffix(_) | StringMatch::Presence) => other,
        })
    };
    messages.iter().map(principal).collect()
}

fn strings_message(strings: &[StringMatch]) -> Vec<wire::StringMatch> {
    let message = |string: &StringMatch| {
        let match_type = match string {
            StringMatch::Exact(text) => MatchType::Exact(text.to_string()),
            StringMatch::Prefix(text) => MatchType::Prefix(text.to_string()),
            StringMatch::Suffix(text) => MatchType::Suffix(text.to_string()),
            StringMatch::Presence => MatchType::Presence(()),
        };
        wire::StringMatch { match_type: Some(match_type) }
    };
    strings.iter().map(message).collect()
}

fn accounts(messages: &[wire::ServiceAccountMatch]) -> Vec<ServiceAccountMatch> {
    let account = |message: &wire::ServiceAccountMatch| ServiceAccountMatch {
        namespace: message.namespace.as_str().into(),
        service_account: message.service_account.as_str().into(),
    };
    messages.iter().map(account).collect()
}

fn accounts_message(accounts: &[ServiceAccountMatch]) -> Vec<wire::ServiceAccountMatch> {
    let message = |account: &ServiceAccountMatch| wire::ServiceAccountMatch {
        namespace: account.namespace.to_string(),
        service_account: account.service_account.to_string(),
    };
    accounts.iter().map(message).collect()
}

fn nets(messages: &[wire::Address]) -> Result<Vec<IpNet>, Problem> {
    messages.iter().map(|message| field::net(&message.address, Some(message.length))).collect()
}

fn nets_message(nets: &[IpNet]) -> Vec<wire::Address> {
    let message = |net: &IpNet| wire::Address {
        address: field::ip_bytes(net.addr()),
        length: u32::from(net.prefix_len()),
    };
    nets.iter().map(message).collect()
}

/// Port 0 is no port, but a condition on it only never matches: it is kept, not dropped.
fn ports(ports: &[u32]) -> Result<Vec<u16>, Problem> {
    let port = |port: &u32| u16::try_from(*port).ok().ok_or(Problem::Port { port: *port });
    ports.iter().map(port).collect()
}

fn ports_message(ports: &[u16]) -> Vec<u32> {
    ports.iter().map(|port| u32::from(*port)).collect()
}
