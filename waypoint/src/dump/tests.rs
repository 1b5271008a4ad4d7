// SPDX-License-Identifier: Apache-2.0
//! One object of each kind, with secrets in it.

use std::{collections::BTreeMap, time::Duration};

use mesh::{
    Change, ServiceName,
    expression::{Filter as Condition, Formula},
    l7::{
        RouteKind, RouteName,
        authentication::Authentication,
        guard::{Condition as Asked, GuardAction, GuardClause, GuardRule},
        route::{Parent, Retry, Timeouts},
        tls::{Root, SubjectName},
        traffic::{Balancer, HashOn},
    },
    telemetry::{Logging, Metric, Provider, Share, SpanWire, Tracing},
};

use super::*;

const SECRET: &str = "open sesame";

fn web() -> ServiceName {
    "shop/web.shop.svc.cluster.local".parse().unwrap()
}

fn routed() -> Change {
    let secret = TextMatch::Exact(SECRET.into());
    let matching = HttpMatch {
        path: PathMatch::Prefix("/a".into()),
        method: Some(http::Method::GET),
        headers: vec![(http::header::AUTHORIZATION, secret.clone())],
        query: vec![("token".into(), secret)],
    };
    let field = |name, value| (name, HeaderValue::from_static(value));
    let edits = HeaderEdits {
        set: vec![field(http::header::HOST, "inside"), field(http::header::AUTHORIZATION, SECRET)],
        ..HeaderEdits::default()
    };
    let rule = HttpRule {
        name: Some("first".into()),
        matches: vec![matching],
        filters: vec![Filter::RequestHeaders(edits)],
        backends: vec![Backend {
            target: Target::Service { name: web(), port: 80 },
            weight: 3,
            filters: Vec::new(),
        }],
        timeouts: Timeouts { request: Some(Duration::from_secs(5)), attempt: None },
        retry: Some(Retry { attempts: 2, ..Retry::default() }),
        persistence: None,
    };
    Change::Route(Route {
        name: RouteName { kind: RouteKind::Http, namespace: "shop".into(), name: "web".into() },
        created: 1,
        parents: vec![Parent { service: web(), port: Some(80), consumers: None }],
        rules: Rules::Http(vec![Arc::new(rule), Arc::new(HttpRule::default())]),
    })
}

fn guarded() -> Change {
    let texts = |text: &str| vec![Test::Text(StringMatch::Exact(text.into()))];
    let asked = |of, value| Asked { of, any: texts(value), none: Vec::new() };
    let key = HeaderName::from_static("x-api-key");
    let alternatives = vec![vec![asked(Attribute::Method, "GET"), asked(Attribute::Header(key), SECRET)]];
    Change::Guard(Guard {
        name: "shop/door".parse().unwrap(),
        attached: vec![Attachment::Service(web())],
        action: GuardAction::Deny,
        rules: vec![GuardRule { clauses: vec![GuardClause { alternatives }] }],
        dry_run: false,
    })
}

fn authenticated() -> Change {
    let rule = JwtRule {
        issuer: "https://issuer".into(),
        audiences: vec!["shop".into()],
        keys: Keys::Inline(SECRET.into()),
        from: vec![Location::Cookie("session".into())],
        forward: false,
        payload_header: None,
        claim_headers: Vec::new(),
        words: Vec::new(),
    };
    Change::Authentication(Authentication {
        name: "shop/tokens".parse().unwrap(),
        attached: vec![Attachment::Service(web())],
        rules: vec![rule],
    })
}

fn balanced() -> Change {
    let tls = ServerTls {
        hostname: mesh::Hostname::parse("api.example.com").unwrap(),
        names: vec![SubjectName::Uri("spiffe://there/api".into())],
        roots: Roots::Only(vec![Root(SECRET.as_bytes().into())]),
    };
    Change::Traffic(Traffic {
        balancer: Balancer::Maglev(HashOn::Cookie("user".into())),
        tls: BTreeMap::from([(80, Arc::new(tls))]),
        ..Traffic::plain(web())
    })
}

fn observed() -> Change {
    let provider = Provider {
        name: "jaeger".into(),
        wire: SpanWire::Otlp,
        host: "jaeger.obs".into(),
        port: 4317,
        path: "".into(),
    };
    let label = LabelRule::Says(Formula::parse("request.method").unwrap());
    let rule = Override { disabled: None, labels: BTreeMap::from([("method".into(), label)]) };
    Change::Telemetry(Telemetry {
        name: "shop/all".parse().unwrap(),
        created: 1,
        scope: Scope::Services(vec![web()]),
        tracing: Tracing {
            provider: Some(Arc::new(provider)),
            share: Share::percent(12.5),
            ..Tracing::default()
        },
        logging: Logging { enabled: None, filter: Some(Condition::parse("response.code >= 500").unwrap()) },
        metrics: BTreeMap::from([(Metric::Requests, rule)]),
    })
}

fn dumped() -> Value {
    let mut known = Index::new();
    for change in [routed(), guarded(), authenticated(), balanced(), observed()] {
        known.apply(change);
    }
    Value::Object(index(&known))
}

#[test]
fn no_secret_is_in_a_dump() {
    let dump = dumped();
    for kind in ["routes", "guards", "authentications", "traffics", "telemetries"] {
        assert_eq!(dump[kind].as_array().map(Vec::len), Some(1), "{kind}");
    }
    assert!(!dump.to_string().contains(SECRET));
}

#[test]
fn a_route_is_shown_with_all_that_its_rules_say() {
    let (dump, name) = (dumped(), web().to_string());
    let route = &dump["routes"][0];
    assert_eq!((&route["kind"], &route["name"]), (&"HTTPRoute".into(), &"web".into()));
    assert_eq!(route["parents"], json!([{ "service": name, "port": 80 }]));
    let expected = json!([{
        "name": "first",
        "matches": [{
            "path": { "PathPrefix": "/a" },
            "method": "GET",
            "headers": [{ "name": "authorization", "value": { "Exact": "[redacted]" } }],
            "query": [{ "name": "token", "value": { "Exact": "[redacted]" } }],
        }],
        "filters": [{ "RequestHeaders": { "set": [
            { "name": "host", "value": "inside" },
            { "name": "authorization", "value": "[redacted]" },
        ] } }],
        "backends": [{ "target": { "service": name, "port": 80 }, "weight": 3 }],
        "timeouts": { "request": "5s" },
        "retry": { "attempts": 2 },
    }, { "matches": [] }]);
    assert_eq!(route["rules"], expected);
}

#[test]
fn a_guard_is_shown_with_its_conditions_and_an_authentication_with_its_issuers() {
    let (dump, name) = (dumped(), web().to_string());
    let guard = &dump["guards"][0];
    assert_eq!((&guard["name"], &guard["action"]), (&"door".into(), &"Deny".into()));
    assert_eq!(guard["attached"], json!([{ "service": name }]));
    let expected = json!([[[[
        { "of": "request.method", "any": [{ "Exact": "GET" }] },
        { "of": "request.headers[x-api-key]", "any": ["[redacted]"] },
    ]]]]);
    assert_eq!(guard["rules"], expected);
    let issuer = &dump["authentications"][0]["rules"][0];
    assert_eq!(issuer["issuer"], "https://issuer");
    assert_eq!(issuer["keys"], json!({ "inline": "11 bytes" }));
    assert_eq!(issuer["from"], json!([{ "cookie": "session" }]));
}

#[test]
fn what_is_said_of_a_service_and_what_is_observed_is_shown() {
    let (dump, name) = (dumped(), web().to_string());
    let traffic = &dump["traffics"][0];
    assert_eq!((&traffic["service"], &traffic["tls"]["80"]["roots"]), (&json!(name), &json!(1)));
    assert_eq!(traffic["balancer"], "Maglev(Cookie(\"user\"))");
    let telemetry = &dump["telemetries"][0];
    assert_eq!(telemetry["scope"], json!({ "services": [name] }));
    assert_eq!(telemetry["tracing"]["provider"]["at"], "jaeger.obs:4317");
    assert_eq!(telemetry["tracing"]["percent"], 12.5);
    assert_eq!(telemetry["accessLogging"], json!({ "filter": "response.code >= 500" }));
    let labels = json!({ "istio_requests_total": { "labels": { "method": { "says": "request.method" } } } });
    assert_eq!(telemetry["metrics"], labels);
}

#[test]
fn a_waypoint_that_knows_nothing_says_so_of_each_kind() {
    let dump = index(&Index::new());
    for kind in ["workloads", "routes", "guards", "authentications", "traffics", "telemetries"] {
        assert_eq!(dump[kind], json!([]), "{kind}");
    }
}
