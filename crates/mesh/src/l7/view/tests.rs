// SPDX-License-Identifier: Apache-2.0
//! Precedence by table, and the tables against asking every match one by one.

use http::{HeaderName, HeaderValue};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    Change, Index, ServiceName,
    l7::{Pattern, route::Parent},
    name::Hostname,
};

fn service(name: &str) -> ServiceName {
    ServiceName { namespace: "shop".into(), hostname: Hostname::parse(&format!("{name}.shop.svc")).unwrap() }
}

fn rule(name: &str, matches: Vec<HttpMatch>) -> HttpRule {
    HttpRule { name: Some(name.into()), matches, ..HttpRule::default() }
}

fn http(name: &str, created: u64, rules: Vec<HttpRule>) -> Route {
    Route {
        name: RouteName { kind: RouteKind::Http, namespace: "shop".into(), name: name.into() },
        created,
        parents: vec![Parent { service: service("web"), port: None, consumers: None }],
        rules: Rules::Http(rules.into_iter().map(Arc::new).collect()),
    }
}

fn path(path: PathMatch) -> HttpMatch {
    HttpMatch { path, ..HttpMatch::default() }
}

fn exact(text: &str) -> HttpMatch {
    path(PathMatch::Exact(text.into()))
}

fn prefix(text: &str) -> HttpMatch {
    path(PathMatch::Prefix(text.trim_end_matches('/').into()))
}

fn pattern(text: &str) -> HttpMatch {
    path(PathMatch::Pattern(Pattern::parse(text).unwrap()))
}

fn header(name: &'static str, value: &str) -> (HeaderName, TextMatch) {
    (HeaderName::from_static(name), TextMatch::Exact(value.into()))
}

fn view(routes: Vec<Route>) -> View {
    let routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
    View::new(&routes.iter().collect::<Vec<_>>())
}

/// Name of the rule for `GET target`, with headers.
fn asked(view: &View, target: &str, headers: &[(&'static str, &str)]) -> Option<String> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect();
    let found = view.request(&Request { method: &Method::GET, path, query, headers: &headers })?;
    found.rule.name.as_ref().map(ToString::to_string)
}

#[test]
fn the_more_exact_path_goes_first_whatever_the_order_in_the_object() {
    let view = view(vec![http(
        "web",
        0,
        vec![
            rule("any", vec![HttpMatch::default()]),
            rule("api", vec![prefix("/api")]),
            rule("v1", vec![prefix("/api/v1/")]),
            rule("pattern", vec![pattern("/api/v[0-9]+/x")]),
            rule("exact", vec![exact("/api/v1/x")]),
        ],
    )]);
    for (path, expected) in [
        ("/", "any"),
        ("/apiary", "any"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api/v2", "api"),
        ("/api/v1", "v1"),
        ("/api/v1/", "v1"),
        ("/api/v1/y/z", "v1"),
        ("/api/v2/x", "pattern"),
        ("/api/v1/x", "exact"),
        ("/api/v1/x/", "v1"),
    ] {
        assert_eq!(asked(&view, path, &[]).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn among_equal_paths_the_method_then_headers_then_parameters_decide_and_then_age() {
    let with = |headers: Vec<_>, query: &[(&str, &str)], method: Option<Method>| HttpMatch {
        path: PathMatch::Prefix("".into()),
        method,
        headers,
        query: query
            .iter()
            .map(|(name, value)| ((*name).into(), TextMatch::Exact((*value).into())))
            .collect(),
    };
    let view = view(vec![
        http("younger", 2, vec![rule("younger", vec![prefix("/")])]),
        http(
            "b-older",
            1,
            vec![
                rule("second", vec![prefix("/")]),
                rule("query", vec![with(vec![], &[("q", "a b"), ("r", "1")], None)]),
                rule("one", vec![with(vec![header("x", "1")], &[], None)]),
                rule("two", vec![with(vec![header("x", "1"), header("y", "1,2")], &[], None)]),
                rule("post", vec![with(vec![], &[], Some(Method::POST))]),
            ],
        ),
        http("a-older", 1, vec![rule("older", vec![prefix("/")])]),
    ]);
    assert_eq!(asked(&view, "/", &[]).as_deref(), Some("older"));
    assert_eq!(asked(&view, "/?r=1&q=a+b&q=no", &[]).as_deref(), Some("query"));
    assert_eq!(asked(&view, "/?r=1&q=a%20b", &[("x", "1")]).as_deref(), Some("one"));
    assert_eq!(asked(&view, "/?r=1&q=a%20b", &[("x", "1"), ("y", "1"), ("y", "2")]).as_deref(), Some("two"));
    let post = Request { method: &Method::POST, path: "/", query: None, headers: &HeaderMap::new() };
    assert_eq!(view.request(&post).unwrap().rule.name.as_deref(), Some("post"));
}

#[test]
fn the_prefix_that_matched_is_told_for_those_who_replace_it() {
    let view = view(vec![http("web", 0, vec![rule("a", vec![prefix("/a/b"), exact("/x"), prefix("/")])])]);
    let headers = HeaderMap::new();
    let told = |path| {
        view.request(&Request { method: &Method::GET, path, query: None, headers: &headers }).unwrap().prefix
    };
    assert_eq!((told("/a/b/c").as_str(), told("/x").as_str(), told("/y").as_str()), ("/a/b", "/", "/"));
}

#[test]
fn records_are_told_the_route_and_the_rule_where_it_has_a_name() {
    let nameless = HttpRule { name: None, ..rule("", vec![exact("/b")]) };
    let view = view(vec![http("web", 0, vec![rule("a", vec![exact("/a"), exact("/c")]), nameless])]);
    let headers = HeaderMap::new();
    let told = |path| {
        view.request(&Request { method: &Method::GET, path, query: None, headers: &headers }).unwrap().label
    };
    let expected = ["HTTPRoute/shop/web/a", "HTTPRoute/shop/web/a", "HTTPRoute/shop/web"];
    assert_eq!(["/a", "/c", "/b"].map(|path| told(path).to_string()), expected);
}

#[test]
fn methods_of_grpc_are_told_apart_by_service_then_method() {
    let call = |service: Option<&str>, method: Option<&str>| {
        let exact = |text: Option<&str>| text.map(|text| TextMatch::Exact(text.into()));
        path(PathMatch::Rpc { service: exact(service), method: exact(method) })
    };
    let mut grpc = http(
        "grpc",
        9,
        vec![
            rule("all", vec![HttpMatch::default()]),
            rule("echo", vec![call(None, Some("Echo"))]),
            rule("service", vec![call(Some("a.B"), None)]),
            rule("both", vec![call(Some("a.B"), Some("Echo"))]),
        ],
    );
    grpc.name.kind = RouteKind::Grpc;
    let beside = http("http", 0, vec![rule("http", vec![exact("/a.B/Echo")])]);
    let view = view(vec![beside, grpc]);
    for (path, expected) in [
        ("/a.B/Echo", "both"),
        ("/a.B/Other", "service"),
        ("/c.D/Echo", "echo"),
        ("/c.D/Other", "all"),
        ("/", "all"),
    ] {
        assert_eq!(asked(&view, path, &[]).as_deref(), Some(expected), "{path}");
    }
}

#[test]
fn server_names_are_told_apart_by_exactness_then_length_then_age() {
    let tls = |name: &str, created, hostnames: &[&str]| {
        let hostnames = hostnames.iter().map(|name| (*name).into()).collect();
        let rule = TlsRule { name: Some(name.into()), hostnames, backends: Vec::new() };
        Route { rules: Rules::Tls(vec![Arc::new(rule)]), ..http(name, created, Vec::new()) }
    };
    let view = view(vec![
        tls("young", 2, &["*.example.com"]),
        tls("old", 1, &["*.example.com"]),
        tls("deep", 3, &["*.a.example.com"]),
        tls("exact", 4, &["x.a.example.com"]),
    ]);
    let told =
        |server| view.tls(server).and_then(|found| found.rule.name.clone()).map(|name| name.to_string());
    assert_eq!(told("www.example.com").as_deref(), Some("old"));
    assert_eq!(told("y.A.example.com").as_deref(), Some("deep"));
    assert_eq!(told("x.a.example.com").as_deref(), Some("exact"));
    assert_eq!(told("example.com"), None);
    assert_eq!(told("wwwexample.com"), None);
}

#[test]
fn a_route_is_for_its_port_and_its_clients() {
    let mut index = Index::new();
    let attach = |name: &str, port, consumers: Option<&str>| {
        let parent = Parent { service: service("web"), port, consumers: consumers.map(Into::into) };
        Change::Route(Route { parents: vec![parent], ..http(name, 0, vec![rule(name, vec![prefix("/")])]) })
    };
    let told = |index: &Index, port, namespace: &str| {
        index.routes_for(&service("web"), port, namespace).and_then(|view| asked(view, "/", &[]))
    };
    assert!(index.apply(attach("a-80", Some(80), None)).routes);
    assert!(!index.apply(attach("a-80", Some(80), None)).routes);
    assert_eq!((told(&index, 80, "x").as_deref(), told(&index, 81, "x")), (Some("a-80"), None));
    index.apply(attach("every", None, None));
    assert_eq!(told(&index, 81, "x").as_deref(), Some("every"));
    index.apply(attach("bank", Some(81), Some("bank")));
    assert_eq!(told(&index, 81, "bank").as_deref(), Some("bank"));
    assert_eq!(told(&index, 80, "bank").as_deref(), Some("a-80"));
    assert_eq!(told(&index, 81, "x").as_deref(), Some("every"));
    for name in ["a-80", "every", "bank"] {
        let name = RouteName { kind: RouteKind::Http, namespace: "shop".into(), name: name.into() };
        assert!(index.apply(Change::RouteGone(name.clone())).routes);
        assert!(!index.apply(Change::RouteGone(name)).routes);
    }
    assert!(index.routes_for(&service("web"), 80, "x").is_none() && index.routes().next().is_none());
}

fn any_match() -> impl Strategy<Value = HttpMatch> {
    let paths = || select(vec!["/", "/a", "/a/b", "/a/b/c", "/ab"]);
    let path = prop_oneof![
        Just(PathMatch::Any),
        paths().prop_map(|path| PathMatch::Exact(path.into())),
        paths().prop_map(|path| PathMatch::Prefix(path.trim_end_matches('/').into())),
        select(vec!["/a.*", "/.", ".*"]).prop_map(|text| PathMatch::Pattern(Pattern::parse(text).unwrap())),
    ];
    let headers = vec(select(vec![header("x", "1"), header("y", "1")]), 0..2);
    (path, proptest::option::of(select(vec![Method::GET, Method::POST])), headers)
        .prop_map(|(path, method, headers)| HttpMatch { path, method, headers, query: Vec::new() })
}

/// What the tables do, without them: every match in order of rank.
fn naive(routes: &[Arc<Route>], request: &Request<'_>) -> Option<Arc<HttpRule>> {
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut entries: Vec<Entry> = Vec::new();
    for route in routes {
        let Rules::Http(rules) = &route.rules else { continue };
        entries.extend(rules.iter().enumerate().flat_map(|(place, rule)| entries_of(route, place, rule)));
    }
    entries.sort_by(|one, other| one.rank().cmp(&other.rank()));
    let fits = |entry: &&Entry| {
        entry.fits(request)
            && match &entry.matching.path {
                PathMatch::Exact(path) => path == request.path,
                PathMatch::Prefix(prefix) => below(request.path, prefix),
                PathMatch::Any | PathMatch::Pattern(_) | PathMatch::Rpc { .. } => true,
            }
    };
    entries.iter().find(fits).map(|entry| Arc::clone(&entry.found.rule))
}

proptest! {
    #[test]
    fn the_tables_find_what_asking_one_by_one_finds(
        rules in vec(vec(vec(any_match(), 1..3), 1..4), 1..4),
        path in select(vec!["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/ab/c", "/b"]),
        method in select(vec![Method::GET, Method::POST]),
        x in any::<bool>(),
    ) {
        let route = |(number, rules): (usize, Vec<Vec<HttpMatch>>)| {
            let rules = rules.into_iter().enumerate().map(|(place, matches)| rule(&place.to_string(), matches));
            Arc::new(http(&number.to_string(), number as u64 % 2, rules.collect()))
        };
        let routes: Vec<_> = rules.into_iter().enumerate().map(route).collect();
        let mut headers = HeaderMap::new();
        if x {
            headers.insert("x", HeaderValue::from_static("1"));
        }
        let request = Request { method: &method, path, query: None, headers: &headers };
        let found = View::new(&routes.iter().collect::<Vec<_>>()).request(&request).map(|found| found.rule);
        prop_assert_eq!(found, naive(&routes, &request));
    }
}
