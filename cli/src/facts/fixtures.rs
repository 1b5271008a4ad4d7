// SPDX-License-Identifier: Apache-2.0
//! A small cluster for tests: one node, a mesh that is well, a namespace `shop` with a pod in it.

use finding::Finding;
use membership::{
    bypass::Bypass,
    objects::{Labels, NamespaceObject, Phase, PodObject},
    pod::Uid,
};

use super::{Facts, Kind, Namespace, Node, Pod, Role, Server, Workload};
use crate::{
    control::{Cluster, ControlStatus},
    dump::{Certificate, Dump, Identity, Served},
    kinds,
};

pub(crate) const HOME: &str = "ambit-system";

pub(crate) fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

pub(crate) fn now() -> jiff::Timestamp {
    "2026-01-31T18:00:00Z".parse().unwrap()
}

/// A cluster without a mesh.
pub(crate) fn empty() -> Facts {
    Facts {
        home: HOME.to_owned(),
        server: Server { version: "v1.36.3".to_owned(), major: 1, minor: 36 },
        nodes: vec![Node {
            name: "node-a".to_owned(),
            kernel: "6.12.1".to_owned(),
            architecture: "amd64".to_owned(),
            system: "linux".to_owned(),
            ready: true,
            taints: Vec::new(),
        }],
        namespaces: [
            ("shop".to_owned(), namespace(&[("istio.io/dataplane-mode", "ambient")])),
            (HOME.to_owned(), namespace(&[])),
        ]
        .into(),
        pods: vec![pod("shop", "web", "node-a")],
        ..Facts::default()
    }
}

/// The same with the mesh.
pub(crate) fn installed() -> Facts {
    let mut facts = empty();
    for role in Role::ALL {
        facts.workloads.push(part(role));
        facts.pods.push(part_pod(role, role.text(), "node-a", "0.1.0"));
    }
    let definitions = kinds::ISTIO.iter().map(kinds::definition);
    facts.crds = definitions.map(|name| (name, super::Crd::default())).collect();
    let status = ControlStatus {
        ready: true,
        root_expires: "2035-01-01T00:00:00Z".to_owned(),
        cluster: Cluster { leads: true, ..Cluster::default() },
        ..ControlStatus::default()
    };
    facts.controls.insert("control".to_owned(), Ok(status));
    facts.reports.insert("node".to_owned(), Ok(vec![Finding::ok("kernel", "Linux 6.12 has tcx")]));
    let mut dump = Dump::default();
    dump.workload_state.insert("uid-web".to_owned(), Served::default());
    dump.certificates.push(identity("2026-01-31T12:00:00Z", "2026-02-01T12:00:00Z"));
    facts.ztunnels.insert("ztunnel".to_owned(), Ok(dump));
    facts
}

pub(crate) fn identity(begins: &str, expires: &str) -> Identity {
    let certificate = Certificate {
        serial_number: "1".to_owned(),
        valid_from: begins.to_owned(),
        expiration_time: expires.to_owned(),
    };
    Identity {
        identity: "spiffe://cluster.local/ns/shop/sa/web".to_owned(),
        state: "Available".to_owned(),
        cert_chain: vec![certificate],
        root_certs: Vec::new(),
    }
}

pub(crate) fn namespace(pairs: &[(&str, &str)]) -> Namespace {
    let object = NamespaceObject { labels: labels(pairs), ..NamespaceObject::default() };
    Namespace { object, annotations: Labels::new() }
}

pub(crate) fn bypassed(until: &str) -> Namespace {
    let mut namespace = namespace(&[("istio.io/dataplane-mode", "ambient")]);
    let bypass = Bypass {
        since: now(),
        until: until.parse().unwrap(),
        by: "eva".to_owned(),
        reason: "the worst night".to_owned(),
    };
    namespace.object.bypass = Bypass::of(&bypass.annotations());
    namespace
}

pub(crate) fn pod(namespace: &str, name: &str, node: &str) -> Pod {
    let object = PodObject {
        uid: Uid::parse(&format!("uid-{name}")).unwrap(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: Labels::new(),
        annotations: Labels::new(),
        service_account: "web".to_owned(),
        host_network: false,
        phase: Phase::Running,
        ips: vec!["10.7.0.9".parse().unwrap()],
        containers: Vec::new(),
        mark_is_ours: false,
    };
    Pod { object, node: node.to_owned(), ready: true, images: vec!["web:1".to_owned()] }
}

pub(crate) fn part_pod(role: Role, name: &str, node: &str, version: &str) -> Pod {
    let mut pod = pod(HOME, name, node);
    pod.object.labels = labels(&[("app", role.text())]);
    pod.images = vec![format!("ambit/{}:{version}", role.text())];
    pod
}

pub(crate) fn part(role: Role) -> Workload {
    workload(role.kind(), HOME, role.text())
}

pub(crate) fn workload(kind: Kind, namespace: &str, name: &str) -> Workload {
    Workload {
        kind,
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        labels: labels(&[("app", name)]),
        selector: labels(&[("app", name)]),
        wanted: 1,
        ready: 1,
        updated: 1,
        images: vec![format!("ambit/{name}:0.1.0")],
        environment: Labels::new(),
    }
}
