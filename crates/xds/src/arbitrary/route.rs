// SPDX-License-Identifier: Apache-2.0
//! Arbitrary routes.

use std::{sync::Arc, time::Duration};

use arcstr::ArcStr;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use mesh::{
    Route, RouteName,
    l7::{
        Pattern, RouteKind, TextMatch,
        route::{
            Backend, Carrier, Cors, Filter, HeaderEdits, HttpMatch, HttpRule, Mirror, Parent, PathEdit,
            PathMatch, Persistence, Redirect, Retry, Rewrite, Rules, Target, TcpRule, Timeouts, TlsRule,
        },
    },
};
use proptest::{collection::vec, option, prelude::*, sample::select};

use super::{any_text, port, service_name, text};

fn some_text() -> impl Strategy<Value = ArcStr> {
    text("[a-z/]{1,6}")
}

pub(super) fn header_name() -> impl Strategy<Value = HeaderName> {
    select(vec![
        HeaderName::from_static("x"),
        HeaderName::from_static("host"),
        HeaderName::from_static("x-y"),
    ])
}

fn header_value() -> impl Strategy<Value = HeaderValue> {
    "[ -~]{0,6}".prop_map(|text| HeaderValue::from_str(&text).unwrap())
}

fn status() -> impl Strategy<Value = StatusCode> {
    (100_u16..1000).prop_map(|code| StatusCode::from_u16(code).unwrap())
}

/// To the microsecond, as on the wire.
pub(super) fn duration() -> impl Strategy<Value = Duration> {
    any::<u64>().prop_map(Duration::from_micros)
}

fn pattern() -> impl Strategy<Value = Pattern> {
    select(vec!["", "a.*", "(a|b)+", "^x$"]).prop_map(|text| Pattern::parse(text).unwrap())
}

fn text_match() -> impl Strategy<Value = TextMatch> {
    prop_oneof![any_text().prop_map(TextMatch::Exact), pattern().prop_map(TextMatch::Pattern)]
}

fn path_match() -> impl Strategy<Value = PathMatch> {
    prop_oneof![
        Just(PathMatch::Any),
        any_text().prop_map(PathMatch::Exact),
        any_text().prop_map(PathMatch::Prefix),
        pattern().prop_map(PathMatch::Pattern),
        (option::of(text_match()), option::of(text_match()))
            .prop_map(|(service, method)| PathMatch::Rpc { service, method }),
    ]
}

prop_compose! {
    fn http_match()(
        path in path_match(), method in option::of(select(vec![Method::GET, Method::PUT])),
        headers in vec((header_name(), text_match()), 0..3), query in vec((any_text(), text_match()), 0..3),
    ) -> HttpMatch {
        HttpMatch { path, method, headers, query }
    }
}

prop_compose! {
    fn edits()(
        set in vec((header_name(), header_value()), 0..2), add in vec((header_name(), header_value()), 0..2),
        remove in vec(header_name(), 0..2),
    ) -> HeaderEdits {
        HeaderEdits { set, add, remove }
    }
}

fn path_edit() -> impl Strategy<Value = PathEdit> {
    prop_oneof![any_text().prop_map(PathEdit::Full), any_text().prop_map(PathEdit::Prefix)]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (service_name(), port()).prop_map(|(name, port)| Target::Service { name, port }),
        any_text().prop_map(Target::Refused),
    ]
}

prop_compose! {
    fn cors()(
        lists in [vec(any_text(), 0..2), vec(any_text(), 0..2), vec(any_text(), 0..2), vec(any_text(), 0..2)],
        allow_credentials in any::<bool>(), seconds in any::<u64>(),
    ) -> Cors {
        let [allow_origins, allow_methods, allow_headers, expose_headers] = lists;
        let max_age = Duration::from_secs(seconds);
        Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age }
    }
}

fn filter() -> impl Strategy<Value = Filter> {
    let redirect = (
        option::of(some_text()),
        option::of(some_text()),
        option::of(port()),
        option::of(path_edit()),
        status(),
    )
        .prop_map(|(scheme, hostname, port, path, status)| Redirect {
            scheme,
            hostname,
            port,
            path,
            status,
        });
    let hostname = "[a-z]{1,6}".prop_map(|text| HeaderValue::from_str(&text).unwrap());
    let rewrite = (option::of(hostname), option::of(path_edit()))
        .prop_map(|(hostname, path)| Rewrite { hostname, path });
    let mirror = (target(), 1..=u32::MAX, any::<u32>()).prop_map(|(target, denominator, numerator)| Mirror {
        target,
        denominator,
        numerator,
    });
    prop_oneof![
        edits().prop_map(Filter::RequestHeaders),
        edits().prop_map(Filter::ResponseHeaders),
        redirect.prop_map(Filter::Redirect),
        rewrite.prop_map(Filter::Rewrite),
        mirror.prop_map(Filter::Mirror),
        cors().prop_map(Filter::Cors),
    ]
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let backend = (target(), any::<u32>(), vec(filter(), 0..2))
        .prop_map(|(target, weight, filters)| Backend { target, weight, filters });
    vec(backend, 0..3)
}

pub(super) fn persistence() -> impl Strategy<Value = Persistence> {
    let carrier = select(vec![Carrier::Header, Carrier::SessionCookie, Carrier::PermanentCookie]);
    (any_text(), carrier, option::of(duration())).prop_map(|(name, carrier, absolute)| Persistence {
        name,
        carrier,
        absolute,
    })
}

prop_compose! {
    fn http_rule()(
        name in option::of(some_text()), matches in vec(http_match(), 0..3), filters in vec(filter(), 0..3),
        backends in backends(), timeouts in (option::of(duration()), option::of(duration())),
        retry in option::of((any::<u32>(), option::of(duration()), vec(status(), 0..3))),
        persistence in option::of(persistence()),
    ) -> HttpRule {
        let retry = retry.map(|(attempts, backoff, codes)| Retry { attempts, backoff, codes });
        let timeouts = Timeouts { request: timeouts.0, attempt: timeouts.1 };
        HttpRule { name, matches, filters, backends, timeouts, retry, persistence }
    }
}

fn parent() -> impl Strategy<Value = Parent> {
    (service_name(), option::of(port()), option::of(some_text()))
        .prop_map(|(service, port, consumers)| Parent { service, port, consumers })
}

fn rules() -> impl Strategy<Value = (RouteKind, Rules)> {
    let arcs = |rules: Vec<HttpRule>| Rules::Http(rules.into_iter().map(Arc::new).collect());
    let tls = (option::of(some_text()), vec(any_text(), 0..3), backends())
        .prop_map(|(name, hostnames, backends)| Arc::new(TlsRule { name, hostnames, backends }));
    let tcp = (option::of(some_text()), backends())
        .prop_map(|(name, backends)| Arc::new(TcpRule { name, backends }));
    prop_oneof![
        (select(vec![RouteKind::Http, RouteKind::Grpc]), vec(http_rule(), 0..3))
            .prop_map(move |(kind, rules)| (kind, arcs(rules))),
        vec(tls, 0..3).prop_map(|rules| (RouteKind::Tls, Rules::Tls(rules))),
        vec(tcp, 0..3).prop_map(|rules| (RouteKind::Tcp, Rules::Tcp(rules))),
    ]
}

prop_compose! {
    /// Any route.
    pub(crate) fn route()(
        (kind, rules) in rules(), (namespace, name) in (text("[a-z]{1,3}"), text("[a-z./]{1,6}")),
        created in any::<u64>(), parents in vec(parent(), 0..3),
    ) -> Route {
        Route { name: RouteName { kind, namespace, name }, created, parents, rules }
    }
}

/// A route of one rule for everything to service `web`.
pub(super) fn plain(name: &str, created: u64) -> Route {
    let service = "shop/web.shop.svc.cluster.local".parse().unwrap();
    let matches = vec![HttpMatch::default()];
    Route {
        name: RouteName { kind: RouteKind::Http, namespace: "shop".into(), name: name.into() },
        created,
        parents: vec![Parent { service, port: None, consumers: None }],
        rules: Rules::Http(vec![Arc::new(HttpRule { matches, ..HttpRule::default() })]),
    }
}
