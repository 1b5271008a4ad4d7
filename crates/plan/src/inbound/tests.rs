// SPDX-License-Identifier: Apache-2.0
//! Every branch of the way in.

use mesh::{
    Change, Policy,
    policy::{Action, Clause, Match, PolicyScope, Rule, StringMatch},
    service::Visibility,
};

use super::*;
use crate::fixtures::{
    failed, gateway_at, gateway_named, identity, index, ip, local, memberships, port_map, ready, service,
    workload,
};

/// A mesh around `server` at 10.0.1.1, a member of service `web`, and `client` at 10.0.0.1.
struct Mesh {
    changes: Vec<Change>,
    local: Local,
}

impl Mesh {
    fn new() -> Self {
        let web = service("web", &["10.1.0.1"]);
        Self::of(Workload { services: memberships(&[(&web, &[])]), ..workload("server", &["10.0.1.1"]) })
            .service(web)
    }

    fn of(server: Workload) -> Self {
        let client = workload("client", &["10.0.0.1"]);
        Self { local: local(&server), changes: vec![Change::Workload(server), Change::Workload(client)] }
    }

    fn service(mut self, service: Service) -> Self {
        self.changes.push(Change::Service(service));
        self
    }

    fn policy(mut self, policy: Policy) -> Self {
        self.changes.push(Change::Policy(policy));
        self
    }

    fn connect(&self, authority: &str) -> Answer<Result<Upstream, Failure>> {
        self.ask(&connect(authority))
    }

    fn ask(&self, connect: &Connect<'_>) -> Answer<Result<Upstream, Failure>> {
        decide(&index(self.changes.clone()), &self.local, connect)
    }

    fn plain(&self, destination: &str) -> Answer<Result<Upstream, Failure>> {
        let plain = Plain {
            protocol: Protocol::TCP,
            source: "10.0.0.1:40000".parse().unwrap(),
            destination: destination.parse().unwrap(),
        };
        decide_plain(&index(self.changes.clone()), &self.local, &plain)
    }
}

fn connect(authority: &str) -> Connect<'_> {
    Connect {
        protocol: Protocol::TCP,
        source: "10.0.0.1:40000".parse().unwrap(),
        identity: identity("client"),
        local: "10.0.1.1:15008".parse().unwrap(),
        authority,
        forwarded: None,
        forwarded_network: None,
    }
}

fn policy(name: &str, action: Action, candidate: Match) -> Policy {
    Policy {
        name: name.parse().unwrap(),
        scope: PolicyScope::Namespace,
        action,
        rules: vec![Rule { clauses: vec![Clause { matches: vec![candidate] }] }],
        dry_run: false,
    }
}

fn port(port: u16) -> Match {
    Match { destination_ports: vec![port], ..Match::default() }
}

fn strict() -> Policy {
    let anybody = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    policy("shop/strict", Action::Deny, anybody)
}

fn service_of(upstream: &Upstream) -> Option<&str> {
    upstream.service.as_ref().map(|service| service.name.as_str())
}

#[test]
fn a_tunnel_to_the_own_address_is_delivered_from_the_clients_address() {
    let upstream = ready(Mesh::new().connect("10.0.1.1:8080"));
    assert_eq!(upstream.address, "10.0.1.1:8080".parse().unwrap());
    assert_eq!(upstream.from, From::Client(ip("10.0.0.1")));
    assert_eq!(upstream.proxy, None);
    assert_eq!(upstream.destination.name, "server");
    assert_eq!(upstream.source.as_ref().map(|known| known.name.as_str()), Some("client"));
    assert_eq!(service_of(&upstream), Some("web"));
    let subject = Subject {
        source: "10.0.0.1:40000".parse().unwrap(),
        identity: Some(identity("client")),
        destination: "10.0.1.1:8080".parse().unwrap(),
    };
    assert_eq!(upstream.subject, subject);
    assert_eq!(upstream.judgement, Judgement { verdict: Verdict::Open, dry_run: None });
}

#[test]
fn the_clients_address_is_not_used_where_it_cannot_or_must_not_be() {
    let mut mesh = Mesh::new();
    mesh.local.preserve_source = false;
    assert_eq!(ready(mesh.connect("10.0.1.1:8080")).from, From::Any, "not set up for it");
    let itself = Connect { source: "10.0.1.1:4000".parse().unwrap(), ..connect("10.0.1.1:8080") };
    assert_eq!(ready(Mesh::new().ask(&itself)).from, From::Any, "a workload that calls itself");
}

#[test]
fn an_authority_that_is_not_one_is_a_bad_request() {
    for authority in
        ["10.0.1.1", "", ":80", "10.0.1.1:", "10.0.1.1:99999", "10.0.1.1:0", "fd00::1:80", "a b:80"]
    {
        assert_eq!(failed(Mesh::new().connect(authority)), What::InvalidAuthority(authority.to_owned()));
    }
}

#[test]
fn an_address_of_somebody_else_is_refused() {
    let mismatch = |asked: &str| What::IpMismatch { asked: ip(asked), local: ip("10.0.1.1") };
    for asked in ["10.0.0.1", "10.1.0.1", "192.0.2.1"] {
        assert_eq!(failed(Mesh::new().connect(&format!("{asked}:8080"))), mismatch(asked));
    }
}

#[test]
fn a_waypoint_accepts_what_it_stands_in_front_of() {
    let gateway = service("waypoint", &["10.1.0.9"]);
    let server = Workload { services: memberships(&[(&gateway, &[])]), ..workload("server", &["10.0.1.1"]) };
    for by in [gateway_named(gateway.key()), gateway_at("", "10.1.0.9"), gateway_at("", "10.0.1.1")] {
        let web = Service { waypoint: Some(by.clone()), ..service("web", &["10.1.0.1"]) };
        let other = service("other", &["10.1.0.2"]);
        let pod = Workload { waypoint: Some(by), ..workload("pod", &["10.0.2.1"]) };
        let mut mesh = Mesh::of(server.clone()).service(gateway.clone()).service(web).service(other);
        mesh.changes.push(Change::Workload(pod));
        let upstream = ready(mesh.connect("10.1.0.1:80"));
        assert_eq!((upstream.address, service_of(&upstream)), ("10.0.1.1:80".parse().unwrap(), Some("web")));
        let upstream = ready(mesh.connect("10.0.2.1:8080"));
        assert_eq!((upstream.address, service_of(&upstream)), ("10.0.1.1:8080".parse().unwrap(), None));
        assert!(matches!(failed(mesh.connect("10.1.0.2:80")), What::IpMismatch { .. }));
    }
}

fn tunnelled(protocol: ApplicationTunnelProtocol, port: Option<u16>) -> Mesh {
    let application_tunnel = Some(ApplicationTunnel { protocol, port });
    let server = Workload { application_tunnel, ..workload("server", &["10.0.1.1"]) };
    Mesh::of(server).service(service("web", &["fd01::1", "10.1.0.1"]))
}

#[test]
fn an_application_tunnel_is_told_the_client_and_what_it_asked_for() {
    let mesh = tunnelled(ApplicationTunnelProtocol::Proxy, Some(15088));
    let header = |destination: &str| ProxyHeader {
        source: "10.0.0.1:40000".parse().unwrap(),
        destination: destination.parse().unwrap(),
        identity: identity("client").to_string().into(),
    };
    for (authority, asked) in [
        ("10.1.0.1:80", "10.1.0.1:80"),
        ("192.0.2.1:443", "192.0.2.1:443"),
        ("web.shop.svc.cluster.local:80", "10.1.0.1:80"),
    ] {
        let upstream = ready(mesh.connect(authority));
        assert_eq!(upstream.address, "127.0.0.1:15088".parse().unwrap(), "{authority}");
        assert_eq!(upstream.from, From::Any);
        assert_eq!(upstream.proxy, Some(header(asked)), "{authority}");
        assert_eq!(upstream.subject.destination, "10.0.1.1:15088".parse().unwrap(), "what is really reached");
    }
}

#[test]
fn an_application_tunnel_off_loopback_keeps_addresses() {
    let mut mesh = tunnelled(ApplicationTunnelProtocol::Proxy, None);
    mesh.local.tunnel_on_loopback = false;
    let upstream = ready(mesh.connect("10.1.0.1:80"));
    assert_eq!(upstream.address, "10.0.1.1:80".parse().unwrap());
    assert_eq!(upstream.from, From::Client(ip("10.0.0.1")));
    assert!(upstream.proxy.is_some());
}

#[test]
fn an_application_tunnel_without_protocol_only_changes_the_port() {
    let mesh = tunnelled(ApplicationTunnelProtocol::None, Some(9000));
    for authority in ["10.1.0.1:80", "web.shop.svc.cluster.local:80"] {
        let upstream = ready(mesh.connect(authority));
        assert_eq!((upstream.address, upstream.proxy), ("10.0.1.1:9000".parse().unwrap(), None));
        assert_eq!(upstream.from, From::Client(ip("10.0.0.1")));
    }
}

#[test]
fn a_service_by_name_is_mapped_to_the_own_port() {
    let upstream = ready(Mesh::new().connect("web.shop.svc.cluster.local:80"));
    assert_eq!(upstream.address, "10.0.1.1:8080".parse().unwrap());
    assert_eq!(service_of(&upstream), Some("web"));
    let web = service("web", &[]);
    let server =
        Workload { services: memberships(&[(&web, &[(80, 9090)])]), ..workload("server", &["10.0.1.1"]) };
    let upstream = ready(Mesh::of(server).service(web).connect("web.shop.svc.cluster.local:80"));
    assert_eq!(upstream.address, "10.0.1.1:9090".parse().unwrap());
}

#[test]
fn a_name_or_port_that_no_service_has_is_refused() {
    assert_eq!(failed(Mesh::new().connect("db.shop.svc.cluster.local:80")), What::NoService);
    assert_eq!(failed(Mesh::new().connect("web.shop.svc.cluster.local:81")), What::NoService);
    let headless = tunnelled(ApplicationTunnelProtocol::Proxy, None).service(service("headless", &[]));
    assert_eq!(failed(headless.connect("headless.shop.svc.cluster.local:80")), What::NoService);
    let private = Service {
        namespace: "bank".into(),
        visibility: Visibility::Namespace,
        hostname: Hostname::parse("private.example").unwrap(),
        ..service("private", &[])
    };
    assert_eq!(failed(Mesh::new().service(private).connect("private.example:80")), What::NoService);
}

#[test]
fn of_services_of_the_same_name_the_one_that_it_belongs_to_is_meant() {
    let hostname = || Hostname::parse("api.example").unwrap();
    let of = |namespace: &str, target| Service {
        namespace: namespace.into(),
        hostname: hostname(),
        ports: port_map(&[(80, target)]),
        ..service("api", &[])
    };
    let (ours, theirs) = (of("shop", 1000), of("bank", 2000));
    let server = |services| Workload { services, ..workload("server", &["10.0.1.1"]) };
    let reached = |server: Workload| {
        let mesh = Mesh::of(server).service(ours.clone()).service(theirs.clone());
        ready(mesh.connect("api.example:80")).address.port()
    };
    assert_eq!(reached(server(memberships(&[(&theirs, &[])]))), 2000);
    assert_eq!(reached(server(Arc::default())), 1000);
}

#[test]
fn the_proxys_own_ports_are_refused() {
    for port in [15001, 15006, 15008] {
        let own = What::Recursive(SocketAddr::new(ip("10.0.1.1"), port));
        assert_eq!(failed(Mesh::new().connect(&format!("10.0.1.1:{port}"))), own);
        assert_eq!(failed(Mesh::new().plain(&format!("10.0.1.1:{port}"))), own);
    }
}

#[test]
fn policies_decide_on_the_port_that_is_really_reached() {
    let allow = |number| Mesh::new().policy(policy("shop/allow", Action::Allow, port(number)));
    let upstream = ready(allow(8080).connect("web.shop.svc.cluster.local:80"));
    assert_eq!(upstream.judgement.verdict, Verdict::Allowed("shop/allow".parse().unwrap()));
    let refused = failed(allow(80).connect("web.shop.svc.cluster.local:80"));
    assert_eq!(refused, What::NotAllowed("shop/allow".parse().unwrap()));
    let deny = Mesh::new().policy(policy("shop/deny", Action::Deny, port(8080)));
    assert_eq!(failed(deny.connect("10.0.1.1:8080")), What::Denied("shop/deny".parse().unwrap()));
}

#[test]
fn plaintext_is_let_in_from_anybody_unless_a_policy_says_otherwise() {
    let upstream = ready(Mesh::new().plain("10.0.1.1:8080"));
    assert_eq!(upstream.address, "10.0.1.1:8080".parse().unwrap());
    assert_eq!(upstream.from, From::Client(ip("10.0.0.1")));
    assert_eq!(upstream.subject.identity, None);
    assert_eq!(service_of(&upstream), Some("web"));
    let refused = failed(Mesh::new().policy(strict()).plain("10.0.1.1:8080"));
    assert_eq!(refused, What::Denied("shop/strict".parse().unwrap()));
    assert!(matches!(Mesh::new().policy(strict()).connect("10.0.1.1:8080"), Answer::Ready(Ok(_))));
}

#[test]
fn nothing_is_let_in_before_discovery_has_told_everything() {
    let mut mesh = Mesh::new();
    mesh.local.synced = false;
    assert_eq!(mesh.connect("10.0.1.1:8080"), Answer::Needs(Missing::Sync));
    assert_eq!(mesh.plain("10.0.1.1:8080"), Answer::Needs(Missing::Sync));
}

#[test]
fn nothing_is_let_in_without_the_own_workload() {
    let mut mesh = Mesh::new();
    mesh.local.workload.name = "other".into();
    let needs = || Answer::Needs(Missing::Workload(mesh.local.workload.clone()));
    assert_eq!(mesh.connect("10.0.1.1:8080"), needs());
    assert_eq!(mesh.plain("10.0.1.1:8080"), needs());
}

#[test]
fn a_policy_that_is_named_and_not_there_is_waited_for() {
    let late = "shop/late".parse().unwrap();
    let server =
        Workload { policies: vec!["shop/late".parse().unwrap()], ..workload("server", &["10.0.1.1"]) };
    let mesh = Mesh::of(server);
    assert_eq!(mesh.connect("10.0.1.1:8080"), Answer::Needs(Missing::Policy(late)));
    assert!(matches!(mesh.plain("10.0.1.1:8080"), Answer::Needs(Missing::Policy(_))));
}

#[test]
fn the_source_workload_is_known_only_when_address_and_identity_agree() {
    let source =
        |connect: &Connect<'_>| ready(Mesh::new().ask(connect)).source.map(|known| known.name.to_string());
    let direct = connect("10.0.1.1:8080");
    assert_eq!(source(&direct).as_deref(), Some("client"));
    assert_eq!(source(&Connect { identity: identity("other"), ..direct.clone() }), None);
    assert_eq!(source(&Connect { source: "10.0.0.9:1".parse().unwrap(), ..direct.clone() }), None);
    assert_eq!(source(&Connect { forwarded_network: Some("west"), ..direct.clone() }), None);
    assert_eq!(source(&Connect { forwarded_network: Some(""), ..direct }).as_deref(), Some("client"));
}

#[test]
fn the_service_is_what_the_client_says_if_the_workload_belongs_to_it() {
    let web = service("web", &[]);
    let alias = service("alias", &[]);
    let foreign = service("foreign", &[]);
    let services = memberships(&[(&web, &[]), (&alias, &[])]);
    let server = Workload { services, ..workload("server", &["10.0.1.1"]) };
    let mesh = Mesh::of(server).service(web).service(alias).service(foreign);
    let said = |forwarded| {
        let connect = Connect { forwarded, ..connect("10.0.1.1:8080") };
        service_of(&ready(mesh.ask(&connect))).map(ToOwned::to_owned)
    };
    assert_eq!(said(Some("for=x;host=web.shop.svc.cluster.local")).as_deref(), Some("web"));
    assert_eq!(said(Some("host=\"alias.shop.svc.cluster.local\"")).as_deref(), Some("alias"));
    assert_eq!(said(Some("host=foreign.shop.svc.cluster.local")).as_deref(), Some("alias"), "by port then");
    assert_eq!(said(None).as_deref(), Some("alias"), "the first that has the port");
    let other_port = ready(mesh.connect("10.0.1.1:9999"));
    assert_eq!(service_of(&other_port), None);
}

#[test]
fn an_open_connection_ends_when_a_policy_refuses_it_now() {
    let mesh = Mesh::new();
    let subject = ready(mesh.connect("10.0.1.1:8080")).subject;
    let still = |mesh: &Mesh| still_allowed(&index(mesh.changes.clone()), &mesh.local, &subject);
    assert_eq!(still(&mesh), Answer::Ready(Ok(())));
    let denied = Mesh::new().policy(policy("shop/deny", Action::Deny, port(8080)));
    assert_eq!(failed(still(&denied)), What::PolicyChanged("shop/deny".parse().unwrap()));
    let not_allowed = Mesh::new().policy(policy("shop/allow", Action::Allow, port(1)));
    assert_eq!(failed(still(&not_allowed)), What::PolicyChanged("shop/allow".parse().unwrap()));
    let late = Workload { policies: vec!["shop/late".parse().unwrap()], ..workload("server", &["10.0.1.1"]) };
    assert!(matches!(still(&Mesh::of(late)), Answer::Needs(Missing::Policy(_))));
}

#[test]
fn an_open_connection_outlives_the_description_of_its_workload() {
    let mesh = Mesh::new();
    let subject = ready(mesh.connect("10.0.1.1:8080")).subject;
    assert_eq!(still_allowed(&Index::new(), &mesh.local, &subject), Answer::Ready(Ok(())));
}
