// SPDX-License-Identifier: Apache-2.0
//! Filters, shares, retries by table.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, StatusCode, request};
use mesh::{
    Change, Hostname, Index, Route, RouteName, ServiceName,
    l7::{
        RouteKind,
        route::{
            Backend, Cors, Filter, HeaderEdits, HttpMatch, HttpRule, Mirror, Parent, PathEdit, Redirect,
            Retry, Rewrite, Rules, Target, TcpRule, TlsRule,
        },
        view::Request,
    },
};

use super::{
    Connection, Found, choose, connection,
    filter::{self, Arrived, without_port},
    find,
    retry::{Attempt, Outcome, again, is_idempotent, is_kept},
};

fn service(name: &str) -> ServiceName {
    ServiceName { namespace: "shop".into(), hostname: Hostname::parse(&format!("{name}.shop.svc")).unwrap() }
}

fn target(name: &str) -> Target {
    Target::Service { name: service(name), port: 80 }
}

fn backend(name: &str, weight: u32) -> Backend {
    Backend { target: target(name), weight, filters: Vec::new() }
}

fn route(kind: RouteKind, rules: Rules) -> Change {
    Change::Route(Route {
        name: RouteName { kind, namespace: "shop".into(), name: "r".into() },
        created: 0,
        parents: vec![Parent { service: service("web"), port: None, consumers: None }],
        rules,
    })
}

#[test]
fn without_routes_a_request_is_unrouted_and_with_none_that_fits_it_goes_nowhere() {
    let mut index = Index::new();
    let headers = HeaderMap::new();
    let ask = |index: &Index, method: Method| {
        let request = Request { method: &method, path: "/", query: None, headers: &headers };
        find(index, &service("web"), 80, "shop", &request)
    };
    assert_eq!(ask(&index, Method::GET), Found::Unrouted);
    index.apply(route(RouteKind::Tcp, Rules::Tcp(Vec::new())));
    assert_eq!(ask(&index, Method::GET), Found::Unrouted, "it is for connections");
    let matches = vec![HttpMatch { method: Some(Method::PUT), ..HttpMatch::default() }];
    index.apply(route(
        RouteKind::Http,
        Rules::Http(vec![Arc::new(HttpRule { matches, ..HttpRule::default() })]),
    ));
    assert_eq!(ask(&index, Method::GET), Found::Nowhere(RouteKind::Http));
    assert!(matches!(ask(&index, Method::PUT), Found::Rule(_)));
}

#[test]
fn a_connection_is_routed_by_its_server_name_before_anything_else() {
    let mut index = Index::new();
    let ask = |index: &Index, server: Option<&str>| connection(index, &service("web"), 80, "shop", server);
    assert_eq!(ask(&index, Some("a.example")), Connection::Unrouted);
    let tls = TlsRule { hostnames: vec!["a.example".into()], ..TlsRule::default() };
    index.apply(route(RouteKind::Tls, Rules::Tls(vec![Arc::new(tls)])));
    assert!(matches!(ask(&index, Some("a.example")), Connection::Tls(_)));
    assert_eq!(ask(&index, Some("b.example")), Connection::Nowhere);
    index.apply(route(RouteKind::Tcp, Rules::Tcp(vec![Arc::new(TcpRule::default())])));
    assert!(matches!(ask(&index, Some("b.example")), Connection::Tcp(_)));
    assert!(matches!(ask(&index, None), Connection::Tcp(_)));
}

#[test]
fn shares_are_drawn_by_weight_and_a_weight_of_zero_is_never_drawn() {
    let backends = [backend("a", 1), backend("never", 0), backend("b", 3)];
    let mut counts = [0_u32; 3];
    for seed in 0..4000 {
        let drawn = choose(&backends, seed).unwrap();
        let at = backends.iter().position(|backend| backend == drawn).unwrap();
        counts[at] += 1;
    }
    assert_eq!(counts[1], 0);
    assert!((850..1150).contains(&counts[0]), "{counts:?}");
    assert_eq!(choose(&[], 1), None);
    assert_eq!(choose(&[backend("a", 0)], 1), None);
}

fn request(target: &str, headers: &[(&'static str, &str)]) -> request::Parts {
    let mut request = HttpRequest::builder().uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn arrived(prefix: &str) -> Arrived<'_> {
    Arrived { port: 80, scheme: "http", prefix }
}

fn passes(filters: &[Filter], prefix: &str, head: &mut request::Parts) {
    assert!(filter::before(filters, arrived(prefix), head).unwrap().is_none());
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers[name].to_str().unwrap()
}

#[test]
fn the_place_of_a_prefix_is_taken_by_whole_elements() {
    for (path, prefix, replacement, expected) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/", "/bar"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo", "/foo", "/xyz/", "/xyz/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/bar", "/", "/xyz", "/xyz/bar"),
        ("/", "/", "/xyz", "/xyz/"),
    ] {
        let edit = PathEdit::Prefix(replacement.into());
        let filters = [Filter::Rewrite(Rewrite { hostname: None, path: Some(edit) })];
        let mut head = request(&format!("{path}?q=1"), &[]);
        passes(&filters, prefix, &mut head);
        assert_eq!(head.uri.to_string(), format!("{expected}?q=1"), "{path}: {prefix} becomes {replacement}");
    }
}

#[test]
fn a_new_host_is_where_each_version_of_http_has_it() {
    let filters =
        [Filter::Rewrite(Rewrite { hostname: Some(HeaderValue::from_static("new.example")), path: None })];
    let mut first = request("/x", &[("host", "old")]);
    passes(&filters, "/", &mut first);
    assert_eq!((first.uri.to_string().as_str(), text(&first.headers, "host")), ("/x", "new.example"));
    let mut second = request("http://old/x", &[]);
    passes(&filters, "/", &mut second);
    assert_eq!(second.uri, "http://new.example/x");
    assert!(!second.headers.contains_key("host"));
    let unfit = Filter::Rewrite(Rewrite { hostname: None, path: Some(PathEdit::Full("/a b".into())) });
    let error = filter::before(&[unfit], arrived("/"), &mut request("/", &[])).unwrap_err();
    assert_eq!(error.to_string(), r#"the path that a filter makes is not valid: "/a b""#);
}

#[test]
fn a_redirection_keeps_what_it_does_not_name() {
    let plain = Redirect { scheme: None, hostname: None, port: None, path: None, status: StatusCode::FOUND };
    let check = |redirect: Redirect, arrived: Arrived<'_>, expected: &str| {
        let mut head = request("/a/b?q=1", &[("host", "web:8080")]);
        let answer = filter::before(&[Filter::Redirect(redirect)], arrived, &mut head).unwrap().unwrap();
        assert_eq!(
            (answer.headers["location"].to_str().unwrap(), answer.status),
            (expected, StatusCode::FOUND)
        );
    };
    let at = |port| Arrived { port, scheme: "http", prefix: "/a" };
    check(
        Redirect { hostname: Some("x.example".into()), ..plain.clone() },
        at(80),
        "http://x.example/a/b?q=1",
    );
    check(
        Redirect { hostname: Some("x.example".into()), ..plain.clone() },
        at(81),
        "http://x.example:81/a/b?q=1",
    );
    check(Redirect { scheme: Some("https".into()), ..plain.clone() }, at(81), "https://web/a/b?q=1");
    check(Redirect { port: Some(8083), ..plain.clone() }, at(80), "http://web:8083/a/b?q=1");
    let both = Redirect { scheme: Some("https".into()), port: Some(443), ..plain.clone() };
    check(both, at(80), "https://web/a/b?q=1");
    let edit = |path| Redirect { path: Some(path), ..plain.clone() };
    check(edit(PathEdit::Full("/z".into())), at(80), "http://web/z?q=1");
    check(edit(PathEdit::Prefix("/z".into())), at(80), "http://web/z/b?q=1");
}

#[test]
fn headers_are_set_then_added_then_removed() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let edits = HeaderEdits {
        set: vec![(name("x"), value("new"))],
        add: vec![(name("x"), value("more")), (name("y"), value("1"))],
        remove: vec![name("z")],
    };
    let mut head = request("/", &[("x", "old"), ("x", "older"), ("z", "1")]);
    let filters = [Filter::RequestHeaders(edits.clone()), Filter::ResponseHeaders(edits)];
    passes(&filters, "/", &mut head);
    let seen = |headers: &HeaderMap| {
        let mut seen: Vec<_> =
            headers.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
        // The order of different names says nothing.
        seen.sort_by(|one, other| one.0.cmp(&other.0));
        let line = |(name, value): (String, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        seen.into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(seen(&head.headers), ["x: new", "x: more", "y: 1"]);
    let mut answer = HeaderMap::from_iter([(name("z"), value("1"))]);
    filter::after(&filters, None, &mut answer);
    assert_eq!(seen(&answer), ["x: new", "x: more", "y: 1"]);
}

#[test]
fn so_many_requests_are_copied_as_the_fraction_says() {
    let mirror = |numerator, denominator| {
        let filters = [Filter::Mirror(Mirror { target: target("copy"), denominator, numerator })];
        (0..1000).filter(|seed| filter::mirrors(&filters, *seed).next().is_some()).count()
    };
    assert_eq!((mirror(0, 100), mirror(100, 100), mirror(3, 2)), (0, 1000, 1000));
    assert!((200..300).contains(&mirror(1, 4)));
}

#[test]
fn a_host_loses_its_port_and_nothing_else() {
    for (host, expected) in [("a:1", "a"), ("a", "a"), ("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("", "")] {
        assert_eq!(without_port(host), expected);
    }
}

#[test]
fn caches_are_told_once_that_answers_differ_by_origin() {
    let cors = Filter::Cors(Cors { allow_origins: vec!["https://a".into()], ..Cors::default() });
    let origin = HeaderValue::from_static("https://a");
    for (said, expected) in [
        (None, vec!["Origin"]),
        (Some("Origin"), vec!["Origin"]),
        (Some("accept, origin"), vec!["accept, origin"]),
        (Some("*"), vec!["*"]),
        (Some("x-origin"), vec!["x-origin", "Origin"]),
    ] {
        let mut answer = HeaderMap::new();
        if let Some(said) = said {
            answer.insert("vary", HeaderValue::from_static(said));
        }
        // As the answer to a preflight request does, which the waypoint itself has made.
        for _ in 0..2 {
            filter::after(std::slice::from_ref(&cors), Some(&origin), &mut answer);
        }
        let told: Vec<_> = answer.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
        assert_eq!(told, expected, "{said:?}");
    }
}

#[test]
fn browsers_are_told_of_origins_that_are_allowed_and_of_no_others() {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    let cors = |origins: &[&str], credentials| {
        Filter::Cors(Cors {
            allow_origins: texts(origins),
            allow_credentials: credentials,
            allow_methods: texts(&["GET", "PUT"]),
            allow_headers: texts(&["*"]),
            expose_headers: texts(&["x"]),
            max_age: Duration::from_secs(5),
        })
    };
    let preflight = |filter: Filter, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-a, x-b"),
        ];
        let mut head = request("/", &headers);
        head.method = Method::OPTIONS;
        filter::before(&[filter], arrived("/"), &mut head).unwrap().unwrap().headers
    };
    let told = preflight(cors(&["https://*.example.com"], true), "https://a.b.example.com");
    assert_eq!(told["access-control-allow-origin"], "https://a.b.example.com");
    assert_eq!(told["access-control-allow-credentials"], "true");
    assert_eq!(told["access-control-allow-methods"], "GET, PUT");
    assert_eq!(told["access-control-allow-headers"], "x-a, x-b");
    assert_eq!((text(&told, "access-control-max-age"), text(&told, "vary")), ("5", "Origin"));
    for origin in
        ["https://example.com", "http://a.example.com", "https://a.example.com:81", "https://x/.example.com"]
    {
        let told = preflight(cors(&["https://*.example.com"], true), origin);
        assert!(told.is_empty(), "{origin}: {told:?}");
    }
    let told = preflight(cors(&["*"], false), "https://any");
    assert_eq!(
        (text(&told, "access-control-allow-origin"), text(&told, "access-control-allow-headers")),
        ("*", "*")
    );
    let mut answer = HeaderMap::from_iter([(
        HeaderName::from_static("access-control-allow-origin"),
        HeaderValue::from_static("https://the.server.says"),
    )]);
    filter::after(&[cors(&["https://a"], false)], Some(&HeaderValue::from_static("https://b")), &mut answer);
    assert!(answer.is_empty());
    filter::after(&[cors(&["https://a"], false)], Some(&HeaderValue::from_static("https://a")), &mut answer);
    assert_eq!(
        (text(&answer, "access-control-allow-origin"), text(&answer, "access-control-expose-headers")),
        ("https://a", "x")
    );
}

#[test]
fn only_what_cannot_have_been_acted_on_is_sent_again() {
    let codes = vec![StatusCode::SERVICE_UNAVAILABLE];
    let retry = Retry { attempts: 2, backoff: Some(Duration::from_millis(100)), codes };
    let plain = Attempt {
        made: 1,
        outcome: Outcome::Unseen,
        repeatable: true,
        idempotent: false,
        active: 1,
        repeating: 0,
        seed: 7,
    };
    let unavailable = Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE);
    let error = Outcome::Answered(StatusCode::INTERNAL_SERVER_ERROR);
    for (asked, attempt, expected) in [
        (false, plain, true),
        (false, Attempt { made: 2, ..plain }, true),
        (false, Attempt { made: 3, ..plain }, false),
        (false, Attempt { outcome: Outcome::Broken, idempotent: true, ..plain }, false),
        (false, Attempt { outcome: Outcome::Rested, idempotent: true, ..plain }, true),
        (false, Attempt { outcome: Outcome::Rested, ..plain }, false),
        (false, Attempt { outcome: unavailable, ..plain }, false),
        (true, plain, true),
        (true, Attempt { repeatable: false, ..plain }, false),
        (true, Attempt { outcome: Outcome::Broken, ..plain }, false),
        (true, Attempt { outcome: Outcome::Broken, idempotent: true, ..plain }, true),
        (true, Attempt { outcome: Outcome::TooLong, idempotent: true, ..plain }, true),
        (true, Attempt { outcome: unavailable, ..plain }, true),
        (true, Attempt { outcome: error, ..plain }, false),
        (true, Attempt { repeating: 3, active: 10, ..plain }, false),
        (true, Attempt { repeating: 3, active: 100, ..plain }, true),
        (true, Attempt { repeating: 20, active: 100, ..plain }, false),
    ] {
        let again = again(asked.then_some(&retry), &attempt);
        assert_eq!(again.is_some(), expected, "asked: {asked}, {attempt:?}");
    }
    let waits =
        (1..=2).filter_map(|made| again(Some(&retry), &Attempt { made, ..plain })).collect::<Vec<_>>();
    assert_eq!(waits.len(), 2);
    let least = Duration::from_millis(100);
    assert!(waits[0] == least && waits[1] >= least && waits[1] < 2 * least, "{waits:?}");
}

#[test]
fn what_a_server_may_have_seen_is_sent_again_only_if_it_was_kept() {
    let codes = vec![StatusCode::SERVICE_UNAVAILABLE];
    let retry = Retry { attempts: 1, backoff: None, codes };
    let outcomes = [
        Outcome::Broken,
        Outcome::Rested,
        Outcome::TooLong,
        Outcome::Answered(StatusCode::SERVICE_UNAVAILABLE),
    ];
    for (asked, made, method) in [None, Some(&retry)]
        .into_iter()
        .flat_map(|asked| (1..=4).map(move |made| (asked, made)))
        .flat_map(|(asked, made)| [Method::GET, Method::POST].map(|method| (asked, made, method)))
    {
        let (idempotent, repeatable) = (is_idempotent(&method), true);
        let attempt =
            |outcome| Attempt { made, outcome, repeatable, idempotent, active: 1, repeating: 0, seed: 7 };
        let is_sent = outcomes.iter().any(|outcome| again(asked, &attempt(*outcome)).is_some());
        assert_eq!(is_kept(asked, made, &method), is_sent, "{asked:?} {made} {method}");
    }
}
