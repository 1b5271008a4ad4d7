// SPDX-License-Identifier: Apache-2.0
//! Tests: what policies come to, beside the services that they are attached to.

use mesh::l7::tls::{Roots, SubjectName};

use super::*;
use crate::{
    objects::Object,
    report::Severity,
    testing::{ROOT, events, settings},
    world::{Event, World},
};

const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 10.0.0.1
  ports:
  - {name: http, port: 80}
  - {name: admin, port: 81, appProtocol: http2}
  - {name: https, port: 443}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec:
  hosts: [api.example.com, b.example.com]
  resolution: DNS
  ports: [{number: 8443, name: http, protocol: HTTP}]
";

/// A ConfigMap with this under `ca.crt`.
fn map(name: &str, content: &str) -> String {
    let lines: String = content.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n  ca.crt: |\n{lines}"
    )
}

/// A policy of an age for a target.
fn policy(name: &str, age: u8, target: &str, validation: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: {name}, namespace: shop, creationTimestamp: \"2026-01-0{age}T00:00:00Z\"}}\n\
         spec: {{targetRefs: [{target}], validation: {{{validation}}}}}\n"
    )
}

const API: &str = "{group: '', kind: Service, name: api}";
const SYSTEM: &str = "hostname: api.example.com, wellKnownCACertificates: System";

fn world(manifests: &[String]) -> World {
    let mut world = World::new(settings());
    world.apply(events(SERVICES));
    // Also what no manifest may be, as an API server could have it.
    for text in manifests {
        world.apply(lenient(text));
    }
    world
}

fn lenient(text: &str) -> Vec<Event> {
    let documents = crate::tree::documents(text).unwrap();
    let read = |node: crate::tree::Node| {
        let kind = node.child("kind").unwrap().text().unwrap().clone();
        let kind = Kind::ALL.into_iter().find(|known| known.as_str() == kind).unwrap();
        Event::Applied(Box::new(Object::read(kind, node).unwrap()))
    };
    documents.into_iter().map(read).collect()
}

fn key(kind: Kind, name: &str) -> ObjectKey {
    ObjectKey { kind, namespace: "shop".into(), name: name.into() }
}

/// The ports of `api` that have TLS, with the name that is asked for there.
fn names(world: &World) -> Vec<(u16, String)> {
    let ports = ports(world.objects(), &key(Kind::Service, "api"));
    ports.into_iter().map(|(port, tls)| (port, tls.hostname.to_string())).collect()
}

/// Reasons of `Accepted` and `ResolvedRefs`, where they do not hold with a `!`.
fn said(world: &World, name: &str) -> Vec<String> {
    let attachments = world.attachments_of(&key(Kind::BackendTLSPolicy, name));
    let reason = |outcome: &Outcome| format!("{}{}", if outcome.holds { "" } else { "!" }, outcome.reason);
    attachments.iter().map(|at| format!("{} {}", reason(&at.accepted), reason(&at.resolved))).collect()
}

#[test]
fn a_policy_is_for_the_ports_on_which_clients_speak_no_tls() {
    let at = |section: &str| format!("{{group: '', kind: Service, name: api, sectionName: {section}}}");
    let named = |ports: &[u16]| -> Vec<(u16, String)> {
        ports.iter().map(|port| (*port, "api.example.com".to_owned())).collect()
    };
    for (target, ports, expected) in [
        (API.to_owned(), &[80_u16, 81] as &[u16], "Accepted ResolvedRefs"),
        (at("admin"), &[81], "Accepted ResolvedRefs"),
        (at("https"), &[], "!Invalid ResolvedRefs"),
        (at("moon"), &[], "!TargetNotFound ResolvedRefs"),
        ("{group: '', kind: Service, name: web}".to_owned(), &[], "!TargetNotFound ResolvedRefs"),
    ] {
        let world = world(&[policy("p", 1, &target, SYSTEM)]);
        assert_eq!(names(&world), named(ports), "{target}");
        assert_eq!(said(&world, "p"), [expected], "{target}");
    }
    let pool = "{group: inference.networking.k8s.io, kind: InferencePool, name: api}";
    let world = world(&[policy("p", 1, pool, SYSTEM)]);
    assert_eq!((names(&world), said(&world, "p")), (vec![], vec![]), "none of our business");
}

#[test]
fn every_host_of_a_service_entry_has_the_traffic_of_its_policy() {
    let target = "{group: networking.istio.io, kind: ServiceEntry, name: outside}";
    let world = world(&[policy("p", 1, target, SYSTEM)]);
    let traffic = world.outputs().filter_map(|change| match change {
        mesh::Change::Traffic(traffic) => Some((traffic.service.to_string(), traffic.tls)),
        _ => None,
    });
    let traffic: Vec<_> = traffic.collect();
    let hosts: Vec<&str> = traffic.iter().map(|(service, _)| service.as_str()).collect();
    assert_eq!(hosts, ["shop/api.example.com", "shop/b.example.com"]);
    assert!(traffic.iter().all(|(_, tls)| tls[&8443].roots == Roots::System), "{traffic:?}");
}

#[test]
fn of_several_policies_the_one_of_the_port_counts_and_then_the_oldest() {
    let admin = "{group: '', kind: Service, name: api, sectionName: admin}";
    let of = |name: &str| format!("hostname: {name}, wellKnownCACertificates: System");
    let world = world(&[
        policy("young", 3, API, &of("young.example.com")),
        policy("old", 2, API, &of("old.example.com")),
        policy("port", 4, admin, &of("port.example.com")),
        // Of the same age: by name.
        policy("q-port", 4, admin, &of("q.example.com")),
    ]);
    let expected = [(80, "old.example.com".to_owned()), (81, "port.example.com".to_owned())];
    assert_eq!(names(&world), expected);
    for (name, expected) in
        [("young", "!Conflicted"), ("old", "Accepted"), ("port", "Accepted"), ("q-port", "!Conflicted")]
    {
        assert_eq!(said(&world, name), [format!("{expected} ResolvedRefs")], "{name}");
    }
}

/// What the servers of `api` must prove under a policy beside some ConfigMaps, and what is said of it.
fn proof(validation: &str) -> (Arc<ServerTls>, String, String) {
    let world = world(&[
        map("good", ROOT),
        map("twice", &format!("# one\n{ROOT}# and again\n{ROOT}")),
        map("text", "no certificate"),
        map("cut", &ROOT.replace("MII", "")),
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: empty, namespace: shop}\n".to_owned(),
        policy("p", 1, API, validation),
    ]);
    let policy = key(Kind::BackendTLSPolicy, "p");
    let reports = world.reports_of(&policy);
    let reports = reports.filter(|report| report.severity != Severity::Info);
    let reports: Vec<String> = reports.map(|report| report.field.clone()).collect();
    let tls = ports(world.objects(), &key(Kind::Service, "api"));
    (Arc::clone(&tls[&80]), said(&world, "p").concat(), reports.join(" "))
}

/// How many authorities are believed.
fn believed(tls: &ServerTls) -> Option<usize> {
    match &tls.roots {
        Roots::System => None,
        Roots::Only(roots) => Some(roots.len()),
    }
}

#[test]
fn certificates_come_from_config_maps_and_where_none_can_be_used_nobody_is_believed() {
    let map = |name: &str| format!("{{group: '', kind: ConfigMap, name: {name}}}");
    const FIELD: &str = "spec.validation.caCertificateRefs";
    for (references, roots, expected, field) in [
        (vec![map("good")], 1, "Accepted ResolvedRefs", None),
        (vec![map("twice")], 2, "Accepted ResolvedRefs", None),
        (vec![map("good"), map("gone")], 1, "Accepted !InvalidCACertificateRef", Some(1)),
        (vec![map("gone")], 0, "!NoValidCACertificate !InvalidCACertificateRef", Some(0)),
        (vec![map("text")], 0, "!NoValidCACertificate !InvalidCACertificateRef", Some(0)),
        (vec![map("cut")], 0, "!NoValidCACertificate !InvalidCACertificateRef", Some(0)),
        (vec![map("empty")], 0, "!NoValidCACertificate !InvalidCACertificateRef", Some(0)),
        (
            vec!["{group: '', kind: Secret, name: good}".to_owned()],
            0,
            "!NoValidCACertificate !InvalidKind",
            Some(0),
        ),
    ] {
        let list = references.join(", ");
        let (tls, said, reports) = proof(&format!("hostname: api.example.com, caCertificateRefs: [{list}]"));
        assert_eq!((believed(&tls), said.as_str()), (Some(roots), expected), "{list}");
        let field = field.map(|at| format!("{FIELD}[{at}]")).unwrap_or_default();
        assert_eq!(reports, field, "{list}");
    }
}

#[test]
fn names_may_be_listed() {
    let (tls, said, _) = proof(&format!(
        "{SYSTEM}, subjectAltNames: [{{type: Hostname, hostname: b.example.com}}, {{type: URI, uri: 'https://a/b'}}]"
    ));
    let dns = SubjectName::Dns(mesh::Hostname::parse("b.example.com").unwrap());
    assert_eq!(tls.names, [dns, SubjectName::Uri("https://a/b".into())]);
    assert_eq!((believed(&tls), said.as_str()), (None, "Accepted ResolvedRefs"));
}

#[test]
fn what_cannot_be_understood_lets_nobody_be_believed() {
    let map = "caCertificateRefs: [{group: '', kind: ConfigMap, name: good}]";
    for (validation, field) in [
        ("hostname: '*.example.com', wellKnownCACertificates: System".to_owned(), "hostname"),
        ("hostname: 10.0.0.1, wellKnownCACertificates: System".to_owned(), "hostname"),
        ("wellKnownCACertificates: System".to_owned(), "hostname"),
        ("hostname: a.example.com, wellKnownCACertificates: Moon".to_owned(), "wellKnownCACertificates"),
        ("hostname: a.example.com".to_owned(), "caCertificateRefs"),
        (format!("{SYSTEM}, {map}"), "caCertificateRefs"),
        (format!("{SYSTEM}, subjectAltNames: [{{type: Email}}]"), "subjectAltNames[0]"),
        (format!("{SYSTEM}, subjectAltNames: [{{type: URI, uri: x}}]"), "subjectAltNames[0]"),
        (
            format!("{SYSTEM}, subjectAltNames: [{{type: Hostname, hostname: '*.b.example.com'}}]"),
            "subjectAltNames[0]",
        ),
    ] {
        let (tls, said, reports) = proof(&validation);
        assert_eq!((believed(&tls), said.as_str()), (Some(0), "!Invalid ResolvedRefs"), "{validation}");
        assert!(reports.contains(&format!("spec.validation.{field}")), "{validation}: {reports}");
    }
}

#[test]
fn a_manifest_that_nobody_could_honour_is_refused() {
    let read = |text: &str| {
        let content = crate::manifests::read(text);
        content.problems.into_iter().map(|problem| problem.field).collect::<Vec<_>>()
    };
    assert_eq!(read(&policy("p", 1, API, SYSTEM)), [""; 0]);
    assert_eq!(read(&policy("p", 1, "", SYSTEM)), ["spec.targetRefs"]);
    assert_eq!(read(&policy("p", 1, API, "hostname: a.b")), ["spec.validation.caCertificateRefs"]);
    assert_eq!(read(&policy("p", 1, API, &format!("{SYSTEM}, moon: 1"))), ["spec.validation.moon"]);
}
