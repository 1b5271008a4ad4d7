// SPDX-License-Identifier: Apache-2.0
//! Dumps of several ztunnels as one list: what all of them know is there once, what each has is there with its pod.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Subject;
use crate::{
    dump::{Certificate, Connection, Dump, Policy, Service, Workload},
    output::Table,
};

/// What is shown.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Shown {
    Workloads(Vec<Workload>),
    Services(Vec<Service>),
    Policies(Vec<Policy>),
    Certificates(Vec<InUse>),
    Connections(Vec<Open>),
}

/// A certificate of an identity, in a ztunnel.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct InUse {
    ztunnel: String,
    identity: String,
    state: String,
    serial_number: String,
    valid_from: String,
    expiration_time: String,
    root_expiration_time: String,
}

/// A connection of a pod.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Open {
    ztunnel: String,
    namespace: String,
    pod: String,
    direction: &'static str,
    source: String,
    destination: String,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Shown {
    pub(super) fn new(subject: Subject, dumps: Vec<(String, Dump)>, of: Option<&str>) -> Self {
        match subject {
            Subject::Workloads => {
                let all = dumps.into_iter().flat_map(|(_, dump)| dump.workloads);
                let all = all.filter(|found| is_of(&found.namespace, of));
                Self::Workloads(once(
                    all.map(|found| {
                        ((found.namespace.clone(), found.name.clone(), found.uid.clone()), found)
                    }),
                ))
            }
            Subject::Services => {
                let all = dumps.into_iter().flat_map(|(_, dump)| dump.services);
                let all = all.filter(|found| is_of(&found.namespace, of));
                Self::Services(once(
                    all.map(|found| ((found.namespace.clone(), found.hostname.clone()), found)),
                ))
            }
            Subject::Policies => {
                let all = dumps.into_iter().flat_map(|(_, dump)| dump.policies);
                let all = all.filter(|found| is_of(&found.namespace, of));
                Self::Policies(once(all.map(|found| ((found.namespace.clone(), found.name.clone()), found))))
            }
            Subject::Certificates => Self::Certificates(certificates(dumps, of)),
            Subject::Connections => Self::Connections(connections(dumps, of)),
        }
    }

    pub(super) fn table(&self) -> String {
        match self {
            Self::Workloads(workloads) => workload_table(workloads),
            Self::Services(services) => service_table(services),
            Self::Policies(policies) => policy_table(policies),
            Self::Certificates(certificates) => certificate_table(certificates),
            Self::Connections(connections) => connection_table(connections),
        }
    }
}

fn is_of(namespace: &str, wanted: Option<&str>) -> bool {
    wanted.is_none_or(|wanted| wanted == namespace)
}

/// Sorted, each key once.
fn once<K: Ord, T>(found: impl Iterator<Item = (K, T)>) -> Vec<T> {
    found.collect::<BTreeMap<_, _>>().into_values().collect()
}

fn certificates(dumps: Vec<(String, Dump)>, of: Option<&str>) -> Vec<InUse> {
    let mut found = Vec::new();
    for (ztunnel, dump) in dumps {
        for identity in dump.certificates {
            // spiffe://<trust domain>/ns/<namespace>/sa/<service account>
            if !is_of(identity.identity.split('/').nth(4).unwrap_or_default(), of) {
                continue;
            }
            let leaf = identity.cert_chain.first().cloned().unwrap_or_default();
            let root = identity.root_certs.iter().filter_map(Certificate::expires).min();
            found.push(InUse {
                ztunnel: ztunnel.clone(),
                identity: identity.identity,
                state: identity.state,
                serial_number: leaf.serial_number,
                valid_from: leaf.valid_from,
                expiration_time: leaf.expiration_time,
                root_expiration_time: root.map(|end| end.to_string()).unwrap_or_default(),
            });
        }
    }
    found
}

fn connections(dumps: Vec<(String, Dump)>, of: Option<&str>) -> Vec<Open> {
    let mut found = Vec::new();
    for (ztunnel, dump) in dumps {
        for served in dump.workload_state.into_values().filter(|served| is_of(&served.info.namespace, of)) {
            let open = |direction, connection: Connection| Open {
                ztunnel: ztunnel.clone(),
                namespace: served.info.namespace.clone(),
                pod: served.info.name.clone(),
                direction,
                source: connection.src,
                destination: connection.original_dst,
                bytes_sent: connection.bytes_sent,
                bytes_received: connection.bytes_recv,
            };
            found.extend(served.connections.inbound.into_iter().map(|connection| open("in", connection)));
            found.extend(served.connections.outbound.into_iter().map(|connection| open("out", connection)));
        }
    }
    found
}

fn workload_table(workloads: &[Workload]) -> String {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ADDRESS", "NODE", "PROTOCOL", "STATUS", "WAYPOINT"]);
    for found in workloads {
        table.row([
            found.namespace.clone(),
            found.name.clone(),
            first(&found.workload_ips),
            found.node.clone(),
            found.protocol.clone(),
            found.status.clone(),
            found.waypoint.destination.clone(),
        ]);
    }
    table.text("no workload")
}

fn service_table(services: &[Service]) -> String {
    let mut table = Table::new(&["NAMESPACE", "HOSTNAME", "ADDRESS", "PORTS", "ENDPOINTS", "WAYPOINT"]);
    for found in services {
        // Endpoints may differ in the port of a name; then there is none here.
        let ports = found.ports.iter().map(|(port, target)| match target {
            0 => port.clone(),
            target => format!("{port}→{target}"),
        });
        let vips: Vec<_> = found.vips.iter().map(|vip| vip.trim_start_matches('/').to_owned()).collect();
        table.row([
            found.namespace.clone(),
            found.hostname.clone(),
            first(&vips),
            ports.collect::<Vec<_>>().join(","),
            found.endpoints.len().to_string(),
            found.waypoint.destination.clone(),
        ]);
    }
    table.text("no service")
}

fn policy_table(policies: &[Policy]) -> String {
    let mut table = Table::new(&["NAMESPACE", "NAME", "ACTION", "SCOPE", "RULES", "DRY RUN"]);
    for found in policies {
        let dry = if found.dry_run { "yes" } else { "no" };
        table.row([
            found.namespace.clone(),
            found.name.clone(),
            found.action.clone(),
            found.scope.clone(),
            found.rules.len().to_string(),
            dry.to_owned(),
        ]);
    }
    table.text("no policy")
}

fn certificate_table(certificates: &[InUse]) -> String {
    let mut table = Table::new(&["ZTUNNEL", "IDENTITY", "STATE", "VALID UNTIL", "ROOT UNTIL"]);
    for found in certificates {
        table.row([
            found.ztunnel.clone(),
            found.identity.clone(),
            found.state.clone(),
            found.expiration_time.clone(),
            found.root_expiration_time.clone(),
        ]);
    }
    table.text("no certificate")
}

fn connection_table(connections: &[Open]) -> String {
    let mut table = Table::new(&["NAMESPACE", "POD", "WAY", "SOURCE", "DESTINATION", "SENT", "RECEIVED"]);
    for found in connections {
        table.row([
            found.namespace.clone(),
            found.pod.clone(),
            found.direction.to_owned(),
            found.source.clone(),
            found.destination.clone(),
            found.bytes_sent.to_string(),
            found.bytes_received.to_string(),
        ]);
    }
    table.text("no open connection")
}

/// The first of several, and that there are more.
fn first(texts: &[String]) -> String {
    match texts {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dumps() -> Vec<(String, Dump)> {
        let dump = |uid: &str| {
            serde_json::from_value::<Dump>(json!({
                "workloads": [{"uid": "w", "name": "web", "namespace": "shop", "workloadIps": ["10.0.0.1", "fd00::1"],
                               "node": "node-a", "protocol": "HBONE", "status": "Healthy"}],
                "services": [{"namespace": "shop", "hostname": "web.shop.svc.cluster.local", "vips": ["/10.1.0.1"],
                              "ports": {"80": 8080}, "endpoints": {"w": {}}}],
                "policies": [{"namespace": "shop", "name": "deny", "action": "Deny", "scope": "Namespace", "rules": [[]]}],
                "certificates": [{"identity": "spiffe://cluster.local/ns/shop/sa/web", "state": "Available", "certChain":
                    [{"expirationTime": "2026-02-01T12:00:00Z"}], "rootCerts": [{"expirationTime": "2036-02-01T12:00:00Z"}]}],
                "workloadState": {uid: {"info": {"name": uid, "namespace": "shop"}, "connections": {
                    "inbound": [{"src": "10.0.0.2:5", "originalDst": "10.0.0.1:80", "bytesSent": 1, "bytesRecv": 2}],
                    "outbound": []}}},
            }))
            .unwrap()
        };
        vec![("a".to_owned(), dump("u-1")), ("b".to_owned(), dump("u-2"))]
    }

    #[test]
    fn what_every_ztunnel_knows_is_shown_once_and_what_each_has_is_shown_for_each() {
        for (subject, lines, has) in [
            (Subject::Workloads, 2, "10.0.0.1 +1"),
            (Subject::Services, 2, "80→8080"),
            (Subject::Policies, 2, "Deny"),
            (Subject::Certificates, 3, "2036-02-01T12:00:00Z"),
            (Subject::Connections, 3, "10.0.0.2:5"),
        ] {
            let table = Shown::new(subject, dumps(), Some("shop")).table();
            assert_eq!(table.lines().count(), lines, "{table}");
            assert!(table.contains(has), "{table}");
            assert!(table.lines().all(|line| line.chars().count() <= 120));
            let other = Shown::new(subject, dumps(), Some("other")).table();
            assert!(other.starts_with("no "), "{other}");
        }
    }
}
