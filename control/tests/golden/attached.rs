// SPDX-License-Identifier: Apache-2.0
//! Guards and authentications as YAML for the eyes of a reviewer.

use mesh::{
    Authentication, Guard,
    l7::{
        authentication::{JwtRule, Keys, Location},
        guard::{Attachment, Condition, GuardClause, GuardRule, Test},
    },
    policy::StringMatch,
    workload::GatewayDestination,
};
use serde_json::{Value, json};

use crate::view::{list, map, text};

pub(crate) fn guard(output: &Guard) -> Value {
    map([
        ("name", text(&output.name)),
        ("attached", attached(&output.attached)),
        ("action", text(format!("{:?}", output.action))),
        ("dryRun", if output.dry_run { json!(true) } else { Value::Null }),
        ("rules", output.rules.iter().map(rule).collect()),
    ])
}

fn attached(to: &[Attachment]) -> Value {
    list(to.iter().map(|to| match to {
        Attachment::Service(name) => format!("service {name}"),
        Attachment::Waypoint(GatewayDestination::Hostname(name)) => format!("waypoint {name}"),
        Attachment::Waypoint(GatewayDestination::Address(at)) => format!("waypoint {at}"),
    }))
}

fn rule(rule: &GuardRule) -> Value {
    let all = |conditions: &Vec<Condition>| json!({"all": list(conditions.iter().map(condition))});
    let any = |clause: &GuardClause| json!({"any": clause.alternatives.iter().map(all).collect::<Value>()});
    json!({"all": rule.clauses.iter().map(any).collect::<Value>()})
}

fn condition(condition: &Condition) -> String {
    let tests = |tests: &[Test]| tests.iter().map(test).collect::<Vec<_>>().join(" ");
    let none = match condition.none.as_slice() {
        [] => String::new(),
        none => format!(" not {}", tests(none)),
    };
    format!("{:?} {}{none}", condition.of, tests(&condition.any))
}

fn test(test: &Test) -> String {
    match test {
        Test::Text(StringMatch::Exact(text)) => text.to_string(),
        Test::Text(StringMatch::Prefix(text)) => format!("{text}*"),
        Test::Text(StringMatch::Suffix(text)) => format!("*{text}"),
        Test::Text(StringMatch::Presence) => "*".to_owned(),
        Test::Template(template) => template.to_string(),
        Test::Net(net) => net.to_string(),
        Test::Port(port) => port.to_string(),
        Test::Account(account) => format!("{}/{}", account.namespace, account.service_account),
    }
}

pub(crate) fn authentication(output: &Authentication) -> Value {
    map([
        ("name", text(&output.name)),
        ("attached", attached(&output.attached)),
        ("rules", output.rules.iter().map(issuer).collect()),
    ])
}

fn issuer(rule: &JwtRule) -> Value {
    let keys = match &rule.keys {
        Keys::Inline(keys) => keys.to_string(),
        Keys::At { uri, timeout } => format!("{uri} within {timeout:?}"),
        Keys::Discovered { timeout } => format!("where the issuer says, within {timeout:?}"),
    };
    let from = rule.from.iter().map(|location| match location {
        Location::Header { name, prefix } => format!("header {name} {prefix:?}"),
        Location::Param(name) => format!("parameter {name}"),
        Location::Cookie(name) => format!("cookie {name}"),
    });
    let outputs = rule.claim_headers.iter().map(|(name, path)| format!("{name} {}", path.join(".")));
    map([
        ("issuer", text(&rule.issuer)),
        ("audiences", list(&rule.audiences)),
        ("keys", text(keys)),
        ("from", list(from)),
        ("forward", if rule.forward { json!(true) } else { Value::Null }),
        ("payloadHeader", rule.payload_header.as_ref().map_or(Value::Null, text)),
        ("claimHeaders", list(outputs)),
        ("words", list(&rule.words)),
    ])
}
