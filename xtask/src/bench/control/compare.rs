// SPDX-License-Identifier: Apache-2.0
//! What two control planes say of the same objects, field by field. What differs is grouped by the field; a difference that
//! was argued is listed in `known`, any other fails the run.

mod known;

use std::{collections::BTreeMap, fmt::Debug};

use anyhow::{Context as _, Result};
use prost::Message as _;
use proto::{
    security::Authorization,
    workload::{Address, Service, Workload, address::Type},
};

use self::known::reason;
use super::subscriber::{KINDS, Snapshot};
use crate::step::say;

/// Longest text of an example that is shown.
const LONGEST: usize = 240;

/// A resource as texts by field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Read {
    /// What it is: a `Workload`, a `Service`, an `Authorization`.
    sort: &'static str,
    fields: Vec<(&'static str, String)>,
}

/// One field of one resource, as the two have it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    sort: &'static str,
    /// Empty where one of them has no such resource.
    field: &'static str,
    name: String,
    ours: String,
    theirs: String,
}

/// Fields of a message by name; the pattern names all of them, so that none is forgotten.
macro_rules! fields {
    ($message:expr, $type:ident { $($field:ident),* $(,)? }) => {{
        let $type { $($field),* } = $message;
        vec![$((stringify!($field), text(&$field))),*]
    }};
}

/// Compares two snapshots and says what differs; whether all of that is known.
pub(super) fn compare(ours: &Snapshot, theirs: &Snapshot) -> Result<bool> {
    let mut unknown = 0;
    for ((kind, ours), theirs) in KINDS.iter().zip(ours).zip(theirs) {
        let (ours, theirs) = (read_all(kind, ours)?, read_all(kind, theirs)?);
        let same = ours.iter().filter(|(name, read)| theirs.get(*name) == Some(read)).count();
        let kind = kind.rsplit('.').next().unwrap_or(kind);
        say(format!("{kind}: {} of ours, {} of the other's, {same} are the same", ours.len(), theirs.len()));
        unknown += show(&differences(&ours, &theirs));
    }
    Ok(unknown == 0)
}

/// Says what differs, by field and reason, with one example of each; how many have no reason.
fn show(differences: &[Difference]) -> usize {
    let mut groups: BTreeMap<_, Vec<&Difference>> = BTreeMap::new();
    for difference in differences {
        let group = (reason(difference), difference.sort, difference.field);
        groups.entry(group).or_default().push(difference);
    }
    let mut unknown = 0;
    for ((reason, sort, field), all) in groups {
        let field = if field.is_empty() { "as a whole" } else { field };
        say(format!("  {sort} {field}, {} times: {}", all.len(), reason.unwrap_or("NOT KNOWN")));
        if reason.is_none() {
            unknown += all.len();
        }
        if let Some(Difference { name, ours, theirs, .. }) = all.first() {
            say(format!("    e.g. {name}\n      ours:  {}\n      other: {}", short(ours), short(theirs)));
        }
    }
    unknown
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(LONGEST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn differences(ours: &BTreeMap<String, Read>, theirs: &BTreeMap<String, Read>) -> Vec<Difference> {
    let mut all = Vec::new();
    for (name, read) in ours {
        let Some(other) = theirs.get(name).filter(|other| other.sort == read.sort) else {
            let ours = format!("{:?}", read.fields);
            all.push(Difference {
                sort: read.sort,
                field: "",
                name: name.clone(),
                ours,
                theirs: "nothing".to_owned(),
            });
            continue;
        };
        for ((field, ours), (_, theirs)) in
            read.fields.iter().zip(&other.fields).filter(|(ours, theirs)| ours != theirs)
        {
            let (ours, theirs) = (ours.clone(), theirs.clone());
            all.push(Difference { sort: read.sort, field, name: name.clone(), ours, theirs });
        }
    }
    for (name, read) in theirs {
        if ours.get(name).is_none_or(|own| own.sort != read.sort) {
            let theirs = format!("{:?}", read.fields);
            all.push(Difference {
                sort: read.sort,
                field: "",
                name: name.clone(),
                ours: "nothing".to_owned(),
                theirs,
            });
        }
    }
    all
}

fn read_all(
    kind: &str,
    resources: &std::collections::HashMap<String, Vec<u8>>,
) -> Result<BTreeMap<String, Read>> {
    let read = |(name, body): (&String, &Vec<u8>)| {
        let read = if kind == proto::AUTHORIZATION { read_policy(body) } else { read_address(body) };
        Ok((name.clone(), read.with_context(|| format!("reading {name}"))?))
    };
    resources.iter().map(read).collect()
}

fn read_policy(body: &[u8]) -> Result<Read> {
    let policy = normal_policy(Authorization::decode(body)?);
    let fields =
        fields!(policy, Authorization { name, namespace, scope, action, rules, dry_run, extensions });
    Ok(Read { sort: "Authorization", fields })
}

fn read_address(body: &[u8]) -> Result<Read> {
    match Address::decode(body)?.r#type.context("an address that is neither workload nor service")? {
        Type::Workload(workload) => {
            let fields = fields!(
                normal_workload(workload),
                Workload {
                    name,
                    namespace,
                    addresses,
                    network,
                    tunnel_protocol,
                    trust_domain,
                    service_account,
                    waypoint,
                    node,
                    canonical_name,
                    canonical_revision,
                    workload_type,
                    workload_name,
                    native_tunnel,
                    authorization_policies,
                    status,
                    cluster_id,
                    network_gateway,
                    uid,
                    hostname,
                    services,
                    application_tunnel,
                    locality,
                    network_mode,
                    extensions,
                    capacity,
                }
            );
            Ok(Read { sort: "Workload", fields })
        }
        Type::Service(service) => {
            let fields = fields!(
                normal_service(service),
                Service {
                    name,
                    namespace,
                    hostname,
                    addresses,
                    ports,
                    subject_alt_names,
                    waypoint,
                    load_balancing,
                    ip_families,
                    extensions,
                    canonical,
                    ingress_use_waypoint,
                    weighted_waypoints,
                    visibility,
                }
            );
            Ok(Read { sort: "Service", fields })
        }
    }
}

/// What a proxy takes as the same is written in the same way: left out values that it puts in itself, and the order of
/// lists that are sets.
fn normal_workload(mut workload: Workload) -> Workload {
    for (field, assumed) in [
        (&mut workload.trust_domain, "cluster.local"),
        (&mut workload.service_account, "default"),
        (&mut workload.cluster_id, "Kubernetes"),
    ] {
        if field.is_empty() {
            *field = assumed.to_owned();
        }
    }
    workload.capacity = workload.capacity.or(Some(1));
    workload.locality = workload.locality.filter(|locality| *locality != Default::default());
    workload.authorization_policies.sort();
    for list in workload.services.values_mut() {
        list.ports.sort_by_key(|port| port.service_port);
    }
    workload
}

fn normal_service(mut service: Service) -> Service {
    service.ports.sort_by_key(|port| port.service_port);
    service.load_balancing = service.load_balancing.filter(|balancing| *balancing != Default::default());
    service
}

/// Rules, matches and values are alternatives, clauses are conditions of which all must hold: none has an order.
fn normal_policy(mut policy: Authorization) -> Authorization {
    for clause in policy.rules.iter_mut().flat_map(|rule| &mut rule.clauses) {
        for found in &mut clause.matches {
            for strings in [
                &mut found.namespaces,
                &mut found.not_namespaces,
                &mut found.principals,
                &mut found.not_principals,
            ] {
                strings.sort_by_cached_key(text);
            }
        }
        clause.matches.sort_by_cached_key(text);
    }
    for rule in &mut policy.rules {
        rule.clauses.sort_by_cached_key(text);
    }
    policy.rules.sort_by_cached_key(text);
    policy
}

fn text(value: &impl Debug) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use proto::security::{Clause, Match, Rule};

    use super::*;

    fn check(ours: Workload, theirs: Workload) -> Vec<&'static str> {
        let body = |workload| Address { r#type: Some(Type::Workload(workload)) }.encode_to_vec();
        let [ours, theirs] = [ours, theirs]
            .map(|workload| BTreeMap::from([("w".to_owned(), read_address(&body(workload)).unwrap())]));
        differences(&ours, &theirs).into_iter().map(|difference| difference.field).collect()
    }

    #[test]
    fn what_a_proxy_takes_as_the_same_is_no_difference() {
        let elided = Workload { name: "a".to_owned(), ..Workload::default() };
        let written = Workload {
            name: "a".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            service_account: "default".to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            capacity: Some(1),
            locality: Some(Default::default()),
            ..Workload::default()
        };
        assert_eq!(check(elided, written), Vec::<&str>::new());
        let policies = |names: [&str; 2]| Workload {
            authorization_policies: names.map(str::to_owned).to_vec(),
            ..Workload::default()
        };
        assert_eq!(check(policies(["a", "b"]), policies(["b", "a"])), Vec::<&str>::new());
    }

    #[test]
    fn the_order_of_conditions_and_of_alternatives_is_no_difference() {
        let ports = |ports: &[u32]| Match { destination_ports: ports.to_vec(), ..Match::default() };
        let policy = |clauses: [&[u32]; 2]| Authorization {
            rules: vec![Rule { clauses: clauses.map(|one| Clause { matches: vec![ports(one)] }).to_vec() }],
            ..Authorization::default()
        };
        assert_eq!(normal_policy(policy([&[1], &[2]])), normal_policy(policy([&[2], &[1]])));
        assert_ne!(normal_policy(policy([&[1], &[2]])), normal_policy(policy([&[1], &[3]])));
    }

    #[test]
    fn a_difference_names_its_field() {
        let node = |node: &str| Workload { node: node.to_owned(), ..Workload::default() };
        assert_eq!(check(node("a"), node("b")), ["node"]);
        let one = BTreeMap::from([("w".to_owned(), Read { sort: "Workload", fields: Vec::new() })]);
        assert_eq!(differences(&one, &BTreeMap::new()).first().map(|difference| difference.field), Some(""));
        assert_eq!(differences(&BTreeMap::new(), &one).len(), 1);
    }
}
