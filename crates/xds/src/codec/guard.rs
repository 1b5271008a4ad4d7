// SPDX-License-Identifier: Apache-2.0
//! `ambit.mesh.v1.Guard`. A condition that is not understood refuses the whole guard.

use arcstr::ArcStr;
use http::HeaderName;
use mesh::{
    Guard, Hostname, Network, NetworkAddress, PolicyName, ServiceName,
    l7::guard::{Attachment, Attribute, Condition, GuardAction, GuardClause, GuardRule, Template, Test},
    policy::{ServiceAccountMatch, StringMatch},
    workload::GatewayDestination,
};
use proto::waypoint as wire;
use wire::{
    attachment::To, condition::Attribute as WireAttribute, guard::Action as WireAction,
    test::Value as WireTest,
};

use super::field::{self, FieldError, In, Problem};

/// From the wire.
pub(super) fn decode(message: wire::Guard) -> Result<Guard, FieldError> {
    Ok(Guard {
        name: name(&message.namespace, &message.name)?,
        attached: attached(&message.attached).field("attached")?,
        action: match field::known(message.action).field("action")? {
            WireAction::Unspecified => return Err(Problem::Missing).field("action"),
            WireAction::Allow => GuardAction::Allow,
            WireAction::Deny => GuardAction::Deny,
            WireAction::Audit => GuardAction::Audit,
        },
        rules: message.rules.iter().map(rule).collect::<Result<_, _>>()?,
        dry_run: message.dry_run,
    })
}

/// To the wire.
pub(super) fn encode(guard: &Guard) -> wire::Guard {
    let action = match guard.action {
        GuardAction::Allow => WireAction::Allow,
        GuardAction::Deny => WireAction::Deny,
        GuardAction::Audit => WireAction::Audit,
    };
    wire::Guard {
        namespace: guard.name.namespace.to_string(),
        name: guard.name.name.to_string(),
        attached: guard.attached.iter().map(attachment_message).collect(),
        action: action.into(),
        rules: guard.rules.iter().map(rule_message).collect(),
        dry_run: guard.dry_run,
    }
}

pub(super) fn name(namespace: &str, name: &str) -> Result<PolicyName, FieldError> {
    if name.is_empty() {
        return Err(Problem::Missing).field("name");
    }
    Ok(PolicyName { namespace: namespace.into(), name: name.into() })
}

pub(super) fn attached(messages: &[wire::Attachment]) -> Result<Vec<Attachment>, Problem> {
    messages.iter().map(attachment).collect()
}

fn attachment(message: &wire::Attachment) -> Result<Attachment, Problem> {
    let service = |service: &wire::ServiceRef| {
        let hostname = Hostname::parse(&service.hostname).map_err(Problem::Name)?;
        Ok::<_, Problem>(ServiceName { namespace: service.namespace.as_str().into(), hostname })
    };
    Ok(match message.to.as_ref().ok_or(Problem::Missing)? {
        To::Service(name) => Attachment::Service(service(name)?),
        To::Waypoint(name) => Attachment::Waypoint(GatewayDestination::Hostname(service(name)?)),
        To::WaypointAddress(at) => {
            let network = Network(at.network.as_str().into());
            let address = NetworkAddress::new(network, field::ip(&at.address)?);
            Attachment::Waypoint(GatewayDestination::Address(address))
        }
    })
}

pub(super) fn attachment_message(attachment: &Attachment) -> wire::Attachment {
    let service = |name: &ServiceName| wire::ServiceRef {
        namespace: name.namespace.to_string(),
        hostname: name.hostname.to_string(),
    };
    let to = match attachment {
        Attachment::Service(name) => To::Service(service(name)),
        Attachment::Waypoint(GatewayDestination::Hostname(name)) => To::Waypoint(service(name)),
        Attachment::Waypoint(GatewayDestination::Address(at)) => To::WaypointAddress(wire::GatewayAddress {
            network: at.network.to_string(),
            address: field::ip_bytes(at.ip),
        }),
    };
    wire::Attachment { to: Some(to) }
}

fn rule(message: &wire::GuardRule) -> Result<GuardRule, FieldError> {
    let alternative = |message: &wire::Alternative| message.conditions.iter().map(condition).collect();
    let clause = |message: &wire::GuardClause| {
        let alternatives = message.alternatives.iter().map(alternative).collect::<Result<_, _>>()?;
        Ok(GuardClause { alternatives })
    };
    Ok(GuardRule { clauses: message.clauses.iter().map(clause).collect::<Result<_, FieldError>>()? })
}

fn rule_message(rule: &GuardRule) -> wire::GuardRule {
    let alternative = |conditions: &Vec<Condition>| wire::Alternative {
        conditions: conditions.iter().map(condition_message).collect(),
    };
    let clause = |clause: &GuardClause| wire::GuardClause {
        alternatives: clause.alternatives.iter().map(alternative).collect(),
    };
    wire::GuardRule { clauses: rule.clauses.iter().map(clause).collect() }
}

fn condition(message: &wire::Condition) -> Result<Condition, FieldError> {
    let of = attribute(message)?;
    let tests = |messages: &[wire::Test]| -> Result<Vec<Test>, Problem> {
        let known = |message| {
            let test = test(message)?;
            let kind = || Problem::Text { what: "value of its attribute", value: format!("{test:?}") };
            if of.takes(&test) { Ok(test) } else { Err(kind()) }
        };
        messages.iter().map(known).collect()
    };
    let (any, none) = (tests(&message.any).field("rules.any")?, tests(&message.none).field("rules.none")?);
    Ok(Condition { of, any, none })
}

fn attribute(message: &wire::Condition) -> Result<Attribute, FieldError> {
    let path = &message.path;
    let attribute = match field::known(message.of).field("rules.of")? {
        WireAttribute::Unspecified => return Err(Problem::Missing).field("rules.of"),
        WireAttribute::Principal => Attribute::Principal,
        WireAttribute::Namespace => Attribute::Namespace,
        WireAttribute::ServiceAccount => Attribute::ServiceAccount,
        WireAttribute::TrustDomain => Attribute::TrustDomain,
        WireAttribute::SourceIp => Attribute::SourceIp,
        WireAttribute::RemoteIp => Attribute::RemoteIp,
        WireAttribute::DestinationIp => Attribute::DestinationIp,
        WireAttribute::DestinationPort => Attribute::DestinationPort,
        WireAttribute::ServerName => Attribute::ServerName,
        WireAttribute::RequestPrincipal => Attribute::RequestPrincipal,
        WireAttribute::Audience => Attribute::Audience,
        WireAttribute::Presenter => Attribute::Presenter,
        WireAttribute::Host => Attribute::Host,
        WireAttribute::Method => Attribute::Method,
        WireAttribute::Path => Attribute::Path,
        WireAttribute::Claim if path.is_empty() => return Err(Problem::Missing).field("rules.path"),
        WireAttribute::Claim => return Ok(Attribute::Claim(path.iter().map(ArcStr::from).collect())),
        WireAttribute::Header => {
            let [name] = path.as_slice() else { return Err(Problem::Missing).field("rules.path") };
            return Ok(Attribute::Header(header_name(name).field("rules.path")?));
        }
    };
    match path.first() {
        None => Ok(attribute),
        Some(name) => Err(Problem::Extension { name: name.clone() }).field("rules.path"),
    }
}

fn condition_message(condition: &Condition) -> wire::Condition {
    let (of, path) = match &condition.of {
        Attribute::Principal => (WireAttribute::Principal, Vec::new()),
        Attribute::Namespace => (WireAttribute::Namespace, Vec::new()),
        Attribute::ServiceAccount => (WireAttribute::ServiceAccount, Vec::new()),
        Attribute::TrustDomain => (WireAttribute::TrustDomain, Vec::new()),
        Attribute::SourceIp => (WireAttribute::SourceIp, Vec::new()),
        Attribute::RemoteIp => (WireAttribute::RemoteIp, Vec::new()),
        Attribute::DestinationIp => (WireAttribute::DestinationIp, Vec::new()),
        Attribute::DestinationPort => (WireAttribute::DestinationPort, Vec::new()),
        Attribute::ServerName => (WireAttribute::ServerName, Vec::new()),
        Attribute::RequestPrincipal => (WireAttribute::RequestPrincipal, Vec::new()),
        Attribute::Audience => (WireAttribute::Audience, Vec::new()),
        Attribute::Presenter => (WireAttribute::Presenter, Vec::new()),
        Attribute::Host => (WireAttribute::Host, Vec::new()),
        Attribute::Method => (WireAttribute::Method, Vec::new()),
        Attribute::Path => (WireAttribute::Path, Vec::new()),
        Attribute::Claim(path) => (WireAttribute::Claim, path.iter().map(ToString::to_string).collect()),
        Attribute::Header(name) => (WireAttribute::Header, vec![name.to_string()]),
    };
    let tests = |tests: &[Test]| tests.iter().map(test_message).collect();
    wire::Condition { of: of.into(), path, any: tests(&condition.any), none: tests(&condition.none) }
}

fn test(message: &wire::Test) -> Result<Test, Problem> {
    Ok(match message.value.as_ref().ok_or(Problem::Missing)? {
        WireTest::Exact(text) => Test::Text(StringMatch::Exact(text.into())),
        WireTest::Prefix(text) => Test::Text(StringMatch::Prefix(text.into())),
        WireTest::Suffix(text) => Test::Text(StringMatch::Suffix(text.into())),
        WireTest::Presence(true) => Test::Text(StringMatch::Presence),
        WireTest::Presence(false) => return Err(Problem::Missing),
        WireTest::Template(text) => Test::Template(
            Template::parse(text)
                .map_err(|error| Problem::Text { what: "template of paths", value: error.text })?,
        ),
        WireTest::Net(net) => Test::Net(field::net(&net.address, Some(net.length))?),
        WireTest::Port(port) => Test::Port(u16::try_from(*port).ok().ok_or(Problem::Port { port: *port })?),
        WireTest::Account(account) => Test::Account(ServiceAccountMatch {
            namespace: account.namespace.as_str().into(),
            service_account: account.service_account.as_str().into(),
        }),
    })
}

fn test_message(test: &Test) -> wire::Test {
    let value = match test {
        Test::Text(StringMatch::Exact(text)) => WireTest::Exact(text.to_string()),
        Test::Text(StringMatch::Prefix(text)) => WireTest::Prefix(text.to_string()),
        Test::Text(StringMatch::Suffix(text)) => WireTest::Suffix(text.to_string()),
        Test::Text(StringMatch::Presence) => WireTest::Presence(true),
        Test::Template(template) => WireTest::Template(template.to_string()),
        Test::Net(net) => WireTest::Net(wire::test::Net {
            address: field::ip_bytes(net.addr()),
            length: u32::from(net.prefix_len()),
        }),
        Test::Port(port) => WireTest::Port(u32::from(*port)),
        Test::Account(account) => WireTest::Account(wire::test::Account {
            namespace: account.namespace.to_string(),
            service_account: account.service_account.to_string(),
        }),
    };
    wire::Test { value: Some(value) }
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, Problem> {
    let wrong = || Problem::Text { what: "header name", value: text.to_owned() };
    HeaderName::from_bytes(text.as_bytes()).ok().ok_or_else(wrong)
}
