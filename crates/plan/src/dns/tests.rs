// SPDX-License-Identifier: Apache-2.0
//! Answers as clients of namespace `shop` get them.

use std::collections::BTreeSet;

use mesh::{
    Change, Network,
    service::{IpFamilies, Visibility},
    workload::Health,
};

use super::*;
use crate::fixtures::{host, index, ip, local, memberships, service, vip, workload};

struct Mesh {
    changes: Vec<Change>,
    local: Local,
    settings: Settings,
}

impl Mesh {
    fn new() -> Self {
        let client = workload("client", &["10.0.0.1"]);
        let settings = Settings {
            cluster_domain: host("cluster.local"),
            search: vec![host("corp.example")],
            preferred_namespace: None,
            ipv6: true,
        };
        Self { local: local(&client), changes: vec![Change::Workload(client)], settings }
    }

    fn service(mut self, service: &Service) -> Self {
        self.changes.push(Change::Service(service.clone()));
        self
    }

    fn workload(mut self, workload: Workload) -> Self {
        self.changes.push(Change::Workload(workload));
        self
    }

    fn ask(&self, name: &str, kind: Kind) -> Answer<Reply> {
        let question = Question { name: host(name), kind, seed: 1 };
        answer(&index(self.changes.clone()), &self.local, &self.settings, &question)
    }

    #[track_caller]
    fn reply(&self, name: &str, kind: Kind) -> Reply {
        match self.ask(name, kind) {
            Answer::Ready(reply) => reply,
            Answer::Needs(missing) => panic!("{missing:?}"),
        }
    }
}

fn records(alias: Option<&str>, addresses: &[&str]) -> Reply {
    Reply::Records { alias: alias.map(host), addresses: addresses.iter().map(|text| ip(text)).collect() }
}

fn external(name: &str, namespace: &str, vips: &[&str]) -> Service {
    Service { hostname: host(name), namespace: namespace.into(), ..service("external", vips) }
}

#[test]
fn a_service_is_found_by_all_its_names() {
    let mesh = Mesh::new().service(&service("web", &["10.1.0.1"]));
    for name in
        ["web", "web.shop", "web.shop.svc", "web.shop.svc.cluster.local", "WEB.shop.svc.cluster.local."]
    {
        assert_eq!(mesh.reply(name, Kind::A), records(None, &["10.1.0.1"]), "{name}");
    }
}

#[test]
fn a_short_name_means_the_clients_namespace() {
    let theirs = Service {
        namespace: "bank".into(),
        hostname: host("web.bank.svc.cluster.local"),
        ..service("web", &["10.1.0.2"])
    };
    let mesh = Mesh::new().service(&theirs);
    assert_eq!(mesh.reply("web", Kind::A), Reply::Forward);
    assert_eq!(mesh.reply("web.bank", Kind::A), records(None, &["10.1.0.2"]));
}

#[test]
fn a_name_with_a_search_domain_put_on_is_an_alias() {
    let theirs = Service { hostname: host("web.bank.svc.cluster.local"), ..service("web", &["10.1.0.2"]) };
    let mesh = Mesh::new().service(&theirs).service(&external("api.example.com", "shop", &["10.1.0.3"]));
    let cases = [
        ("api.example.com.shop.svc.cluster.local", "api.example.com", "10.1.0.3"),
        ("api.example.com.svc.cluster.local", "api.example.com", "10.1.0.3"),
        ("api.example.com.cluster.local", "api.example.com", "10.1.0.3"),
        ("api.example.com.corp.example", "api.example.com", "10.1.0.3"),
        ("web.bank.shop.svc.cluster.local", "web.bank", "10.1.0.2"),
    ];
    for (name, alias, address) in cases {
        assert_eq!(mesh.reply(name, Kind::A), records(Some(alias), &[address]), "{name}");
    }
    assert_eq!(mesh.reply("api.example.com", Kind::A), records(None, &["10.1.0.3"]));
}

#[test]
fn the_narrowest_wildcard_answers_what_no_exact_name_does() {
    let mesh = Mesh::new()
        .service(&external("*.example.com", "shop", &["10.1.0.1"]))
        .service(&external("*.api.example.com", "shop", &["10.1.0.2"]))
        .service(&external("v1.api.example.com", "shop", &["10.1.0.3"]));
    let cases = [
        ("www.example.com", "10.1.0.1"),
        ("a.b.example.com", "10.1.0.1"),
        ("v2.api.example.com", "10.1.0.2"),
        ("v1.api.example.com", "10.1.0.3"),
    ];
    for (name, address) in cases {
        assert_eq!(mesh.reply(name, Kind::A), records(None, &[address]), "{name}");
    }
    assert_eq!(mesh.reply("example.com", Kind::A), Reply::Forward);
}

#[test]
fn unknown_names_and_other_records_are_asked_of_the_resolvers() {
    let mesh = Mesh::new().service(&service("web", &["10.1.0.1"]));
    assert_eq!(mesh.reply("www.example.com", Kind::A), Reply::Forward);
    assert_eq!(mesh.reply("web.shop", Kind::Other), Reply::Forward);
}

#[test]
fn a_known_name_without_addresses_of_the_kind_exists_all_the_same() {
    let mesh = Mesh::new().service(&service("web", &["10.1.0.1"]));
    assert_eq!(mesh.reply("web", Kind::Aaaa), records(None, &[]));
}

#[test]
fn addresses_are_of_the_families_that_are_offered() {
    let of = |ip_families| Service { ip_families, ..service("web", &["10.1.0.1", "fd01::1"]) };
    let cases = [
        (IpFamilies::Automatic, true, &["10.1.0.1"][..], &["fd01::1"][..]),
        (IpFamilies::Dual, true, &["10.1.0.1"], &["fd01::1"]),
        (IpFamilies::V4Only, true, &["10.1.0.1"], &[]),
        (IpFamilies::V6Only, true, &[], &["fd01::1"]),
        (IpFamilies::Dual, false, &["10.1.0.1"], &[]),
    ];
    for (families, ipv6, v4, v6) in cases {
        let mut mesh = Mesh::new().service(&of(families));
        mesh.settings.ipv6 = ipv6;
        assert_eq!(mesh.reply("web", Kind::A), records(None, v4), "{families:?}");
        assert_eq!(mesh.reply("web", Kind::Aaaa), records(None, v6), "{families:?} {ipv6}");
    }
}

#[test]
fn addresses_are_those_of_the_clients_network() {
    let web = Service { vips: vec![vip("", "10.1.0.1"), vip("west", "10.9.0.1")], ..service("web", &[]) };
    assert_eq!(Mesh::new().service(&web).reply("web", Kind::A), records(None, &["10.1.0.1"]));
    let west = Service { vips: vec![vip("west", "10.9.0.1")], ..service("web", &[]) };
    assert_eq!(Mesh::new().service(&west).reply("web", Kind::A), records(None, &[]));
}

#[test]
fn a_headless_service_is_its_healthy_endpoints() {
    let web = service("web", &[]);
    let pod = |name: &str, address: &str| Workload {
        services: memberships(&[(&web, &[])]),
        ..workload(name, &[address])
    };
    let mesh = Mesh::new()
        .service(&web)
        .workload(pod("web-1", "10.0.1.1"))
        .workload(pod("web-2", "10.0.1.2"))
        .workload(Workload { health: Health::Unhealthy, ..pod("web-3", "10.0.1.3") })
        .workload(Workload { network: Network("west".into()), ..pod("web-4", "10.0.1.4") })
        .workload(pod("web-5", "fd00::5"));
    let Reply::Records { alias: None, addresses } = mesh.reply("web", Kind::A) else { panic!() };
    assert_eq!(BTreeSet::from_iter(addresses), BTreeSet::from([ip("10.0.1.1"), ip("10.0.1.2")]));
    assert_eq!(mesh.reply("web", Kind::Aaaa), records(None, &["fd00::5"]));
    assert_eq!(Mesh::new().service(&web).reply("web", Kind::A), records(None, &[]));
}

#[test]
fn external_hosts_without_single_addresses_are_asked_of_the_resolvers() {
    let mesh = Mesh::new().service(&external("db.example.com", "shop", &[])).service(&external(
        "range.example.com",
        "shop",
        &["198.51.100.0/24"],
    ));
    assert_eq!(mesh.reply("db.example.com", Kind::A), Reply::Forward);
    assert_eq!(mesh.reply("range.example.com", Kind::A), Reply::Forward);
}

#[test]
fn of_several_services_of_a_name_the_nearest_answers() {
    let of = |namespace: &str, address: &str, canonical| Service {
        canonical,
        ..external("api.example.com", namespace, &[address])
    };
    let first = of("a", "10.1.0.1", false);
    let canonical = of("b", "10.1.0.2", true);
    let preferred = of("c", "10.1.0.3", false);
    let own = of("shop", "10.1.0.4", false);
    let private = Service { visibility: Visibility::Namespace, ..of("d", "10.1.0.5", true) };
    let mut mesh = Mesh::new().service(&private).service(&first);
    assert_eq!(mesh.reply("api.example.com", Kind::A), records(None, &["10.1.0.1"]));
    mesh = mesh.service(&canonical);
    assert_eq!(mesh.reply("api.example.com", Kind::A), records(None, &["10.1.0.2"]));
    mesh.settings.preferred_namespace = Some("c".into());
    mesh = mesh.service(&preferred);
    assert_eq!(mesh.reply("api.example.com", Kind::A), records(None, &["10.1.0.3"]));
    mesh = mesh.service(&own);
    assert_eq!(mesh.reply("api.example.com", Kind::A), records(None, &["10.1.0.4"]));
}

#[test]
fn the_order_of_addresses_is_of_the_seed() {
    let mesh = Mesh::new().service(&service("web", &["10.1.0.1", "10.1.0.2", "10.1.0.3"]));
    let index = index(mesh.changes.clone());
    let first = |seed| {
        let question = Question { name: host("web"), kind: Kind::A, seed };
        match answer(&index, &mesh.local, &mesh.settings, &question) {
            Answer::Ready(Reply::Records { addresses, .. }) => addresses[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(first(5), first(5));
    assert_eq!((0..50).map(first).collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn a_client_that_is_not_known_gets_no_answer() {
    let mut mesh = Mesh::new();
    mesh.local.workload.name = "other".into();
    let needs = Answer::Needs(Missing::Workload(mesh.local.workload.clone()));
    assert_eq!(mesh.ask("www.example.com", Kind::A), needs);
    mesh.local.synced = false;
    assert_eq!(mesh.ask("www.example.com", Kind::A), Answer::Needs(Missing::Sync));
}
