// SPDX-License-Identifier: Apache-2.0
//! The whole path of requests in one process.

mod drain;
mod ejection;
mod lengths;
mod refusals;
mod trailers;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use hbone::ConnectError;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Full;
use mesh::{
    Change, ServiceName,
    l7::{
        Route, RouteKind, RouteName,
        route::{
            Backend, Filter, HeaderEdits, HttpMatch, HttpRule, Mirror, Parent, Redirect, Retry, Rules,
            Target, Timeouts,
        },
    },
    service::AppProtocol,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::testing::{Answer, Bench, SOON, VIP, Wire, answer};

mod connect;
mod hostile;

/// Says who it is, by which version it was asked, and for what.
fn named(name: &'static str) -> Answer {
    answer(move |request| {
        let text = format!("{name} {:?} {} {}", request.version(), request.uri(), request.body().len());
        let mut response = Response::new(Full::from(text));
        for field in ["host", "x-forwarded-for", "x-forwarded-client-cert", "x-route"] {
            if let Some(value) = request.headers().get(field) {
                response.headers_mut().insert(http::HeaderName::from_static(field), value.clone());
            }
        }
        response
    })
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::get(path).header("host", "web").body(Full::default()).unwrap()
}

async fn web(wire: Wire, protocol: AppProtocol) -> Bench {
    let mut bench = Bench::new(protocol, &[]);
    bench.server("one", protocol, wire, named("one")).await;
    bench
}

#[tokio::test]
async fn each_version_of_http_reaches_servers_of_both() {
    for (wire, protocol, version) in
        [(Wire::Http1, AppProtocol::Http11, "HTTP/1.1"), (Wire::Http2, AppProtocol::Http2, "HTTP/2.0")]
    {
        let bench = web(wire, protocol).await;
        let response = bench.ask(get("/a?b=c")).await;
        assert_eq!(response.status(), StatusCode::OK);
        let text = String::from_utf8_lossy(response.body()).into_owned();
        assert!(text.starts_with(&format!("one {version}")) && text.ends_with("/a?b=c 0"), "{text}");
        assert_eq!(response.headers()["x-forwarded-for"], "10.0.0.1");
        let request = Request::post("http://web/a?b=c").body(Full::from("12345")).unwrap();
        let response = bench.ask_http2(request).await;
        let text = String::from_utf8_lossy(response.body()).into_owned();
        assert!(text.starts_with(&format!("one {version}")) && text.ends_with("/a?b=c 5"), "{text}");
        assert_eq!(response.version(), Version::HTTP_2);
    }
}

#[tokio::test]
async fn what_this_waypoint_does_not_serve_is_refused() {
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    for authority in ["10.1.2.3:80", "127.0.0.1:22", "10.9.9.9:15008", "web.other:80"] {
        let Err(ConnectError::Refused { status, .. }) = bench.tunnel(authority).await else {
            panic!("{authority} is served")
        };
        assert_eq!(status, StatusCode::NOT_FOUND, "{authority}");
    }
    let refused = bench.tunnel(&format!("{VIP}:81")).await;
    assert!(matches!(refused, Err(ConnectError::Refused { .. })), "a port that the service does not have");
}

#[tokio::test]
async fn connections_to_servers_are_used_again() {
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    for _ in 0..5 {
        bench.ask(get("/")).await;
    }
    assert_eq!(bench.shard.http.count(), (1, 0));
    let bench = web(Wire::Http2, AppProtocol::Http2).await;
    for _ in 0..5 {
        bench.ask(get("/")).await;
    }
    assert_eq!(bench.shard.http.count(), (0, 1));
}

#[tokio::test]
async fn what_two_parsers_could_read_differently_reaches_no_server() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let counting = answer(move |request| {
        assert!(!request.headers().contains_key("content-length") || request.body().is_empty());
        counter.fetch_add(1, Ordering::Relaxed);
        Response::new(Full::default())
    });
    bench.server("one", AppProtocol::Http11, Wire::Http1, counting).await;
    let end = "\r\nconnection: close\r\n\r\n0\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 6",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +5",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, identity",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b",
        "GET / HTTP/1.1\r\nx: y",
        "GET / HTTP/1.1\r\nhost: a\r\nbad header: 1",
        "GET / HTTP/1.1\r\nhost: a\r\n x: folded",
        "GET / HTTP/1.1\r\nhost: a\r\nx: a\0b",
        "GET no-slash HTTP/1.1\r\nhost: a",
    ] {
        let back = bench.say(format!("{head}{end}").as_bytes()).await;
        let status = back.get(9..12).unwrap_or_default();
        assert_eq!(status, "400", "{head:?}: {back}");
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0);
    // Of two lengths neither is believed, and what follows is no request (RFC 9112 §6.3).
    for fields in
        ["content-length: 5\r\ntransfer-encoding: chunked", "transfer-encoding: chunked\r\ncontent-length: 5"]
    {
        let smuggled = "0\r\n\r\nGET /admin HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let before = seen.load(Ordering::Relaxed);
        let back =
            bench.say(format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{smuggled}").as_bytes()).await;
        let answers = back.matches("HTTP/1.1 400").count();
        assert_eq!((answers, seen.load(Ordering::Relaxed) - before), (1, 0), "{back}");
    }
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    let many: String = (0..2000).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = format!("x: {}\r\n", "y".repeat(200_000));
    for fields in [many, long] {
        let back = bench.say(format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n").as_bytes()).await;
        assert!(back.starts_with("HTTP/1.1 431"), "{}", &back[..back.len().min(100)]);
    }
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK, "others are served");
}

#[tokio::test]
async fn an_endpoint_that_does_not_listen_is_passed_over() {
    let mut bench = web(Wire::Http1, AppProtocol::Http11).await;
    bench.endpoint("mute", "web", AppProtocol::Http11, 1);
    for _ in 0..20 {
        assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn without_an_endpoint_there_is_an_answer_all_the_same() {
    let bench = Bench::new(AppProtocol::Http11, &[]);
    let response = bench.ask(get("/")).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.body(), &Bytes::from_static(b"no healthy upstream\n"));
    let call = Request::post("http://web/a.B/C").header("content-type", "application/grpc");
    let response = bench.ask_http2(call.body(Full::default()).unwrap()).await;
    assert_eq!(response.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_an_undeclared_port() {
    let mut bench = Bench::new(AppProtocol::Unknown, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Unknown).await;
    let server = async {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).await.unwrap();
        heard
    };
    let client = async {
        let mut tunnel = bench.connect().await;
        let mut banner = [0; 11];
        tunnel.read_exact(&mut banner).await.unwrap();
        tunnel.write_all(b"QUIT").await.unwrap();
        (banner, tunnel)
    };
    let (heard, (banner, _tunnel)) =
        tokio::time::timeout(SOON, async { tokio::join!(server, client) }).await.unwrap();
    assert_eq!((&banner, &heard), (b"220 ready\r\n", b"QUIT"));
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_what_its_server_says() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http11).await;
    for (word, told) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100"),
        ("HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", "HTTP/1.1 413"),
    ] {
        let server = async {
            let (mut stream, _peer) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_buf(&mut head).await.unwrap();
            }
            assert!(!head.ends_with(b"body"), "it was sent before it was wanted");
            stream.write_all(word.as_bytes()).await.unwrap();
            stream
        };
        let client = async {
            let mut tunnel = bench.connect().await;
            let head = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
            tunnel.write_all(head.as_bytes()).await.unwrap();
            let mut line = [0; 12];
            tunnel.read_exact(&mut line).await.unwrap();
            (String::from_utf8_lossy(&line).into_owned(), tunnel)
        };
        let (_stream, (line, _tunnel)) =
            tokio::time::timeout(SOON, async { tokio::join!(server, client) }).await.unwrap();
        assert_eq!(line, told);
    }
}

#[tokio::test]
async fn a_head_that_comes_drop_by_drop_is_not_waited_for() {
    let mut bench = Bench::new(AppProtocol::Http11, &[("AMBIT_HEADER_TIMEOUT", "200ms")]);
    bench.server("one", AppProtocol::Http11, Wire::Http1, named("one")).await;
    let mut tunnel = bench.connect().await;
    let mut resting = bench.connect().await;
    tunnel.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut back = vec![0; 12];
    tunnel.read_exact(&mut back).await.unwrap();
    tunnel.write_all(b"GET / HT").await.unwrap();
    tokio::time::timeout(SOON, tunnel.read_to_end(&mut back)).await.unwrap().unwrap_or_default();
    assert!(back.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&back));
    // One that has not begun may rest.
    resting.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    back.clear();
    tokio::time::timeout(SOON, resting.read_to_end(&mut back)).await.unwrap().unwrap();
    assert!(back.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&back));
}

fn name(service: &str) -> ServiceName {
    format!("shop/{service}.shop.svc.cluster.local").parse().unwrap()
}

fn to(service: &str, weight: u32) -> Backend {
    Backend { target: Target::Service { name: name(service), port: 80 }, weight, filters: Vec::new() }
}

fn rule(backends: Vec<Backend>) -> HttpRule {
    HttpRule { matches: vec![HttpMatch::default()], backends, ..HttpRule::default() }
}

fn route(rules: Vec<HttpRule>) -> Change {
    Change::Route(Route {
        name: RouteName { kind: RouteKind::Http, namespace: "shop".into(), name: "web".into() },
        created: 1,
        parents: vec![Parent { service: name("web"), port: None, consumers: None }],
        rules: Rules::Http(rules.into_iter().map(Arc::new).collect()),
    })
}

#[tokio::test]
async fn a_route_sends_edits_and_answers_by_itself() {
    let mut bench = web(Wire::Http1, AppProtocol::Http11).await;
    let value = |text| (http::HeaderName::from_static("x-route"), http::HeaderValue::from_static(text));
    let redirect = Redirect {
        scheme: None,
        hostname: Some("elsewhere".into()),
        port: None,
        path: None,
        status: StatusCode::FOUND,
    };
    let edits = |text| HeaderEdits { set: vec![value(text)], ..HeaderEdits::default() };
    bench.writer.apply([route(vec![
        HttpRule {
            filters: vec![Filter::RequestHeaders(edits("asked")), Filter::ResponseHeaders(edits("answered"))],
            ..rule(vec![to("web", 1)])
        },
        HttpRule {
            matches: vec![HttpMatch { method: Some(http::Method::HEAD), ..HttpMatch::default() }],
            filters: vec![Filter::Redirect(redirect)],
            ..HttpRule::default()
        },
    ])]);
    let response = bench.ask(get("/x")).await;
    assert_eq!(response.headers().get_all("x-route").iter().collect::<Vec<_>>(), ["answered"]);
    let head = Request::head("/x").header("host", "web").body(Full::default()).unwrap();
    let response = bench.ask(head).await;
    assert_eq!(
        (response.status(), &response.headers()["location"]),
        (StatusCode::FOUND, &"http://elsewhere/x".parse().unwrap())
    );
    bench.writer.apply([route(vec![rule(vec![to("nobody", 1)])])]);
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::INTERNAL_SERVER_ERROR, "no such backend");
    bench.writer.apply([route(vec![HttpRule { matches: Vec::new(), ..rule(vec![to("web", 1)]) }])]);
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::NOT_FOUND, "no rule");
}

#[tokio::test]
async fn shares_of_requests_go_to_backends_by_weight() {
    let mut bench = web(Wire::Http1, AppProtocol::Http11).await;
    let listener = bench.listen("two", "canary", AppProtocol::Http11).await;
    crate::testing::serve(&bench.tasks, listener, Wire::Http1, named("two"));
    bench.writer.apply([route(vec![rule(vec![to("web", 3), to("canary", 1)])])]);
    let mut canary = 0;
    for _ in 0..200 {
        let response = bench.ask(get("/")).await;
        canary += usize::from(response.body().starts_with(b"two"));
    }
    // Six standard deviations about 50: one run in 500 million is outside by chance.
    assert!((13..=87).contains(&canary), "{canary} of 200");
}

#[tokio::test]
async fn a_request_is_tried_again_as_its_route_says_with_its_body() {
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let flaky = answer(move |request| {
        let number = seen.fetch_add(1, Ordering::Relaxed);
        let mut response = Response::new(Full::from(format!("{} {}", number, request.body().len())));
        if number < 2 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    });
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    bench.server("one", AppProtocol::Http11, Wire::Http1, flaky).await;
    let post = || Request::post("/").header("host", "web").body(Full::from("12345")).unwrap();
    bench.writer.apply([route(vec![rule(vec![to("web", 1)])])]);
    assert_eq!(
        bench.ask(post()).await.status(),
        StatusCode::SERVICE_UNAVAILABLE,
        "without a word of the route"
    );
    count.store(0, Ordering::Relaxed);
    let codes = vec![StatusCode::SERVICE_UNAVAILABLE];
    let retry = Some(Retry { attempts: 2, backoff: None, codes });
    bench.writer.apply([route(vec![HttpRule { retry, ..rule(vec![to("web", 1)]) }])]);
    let response = bench.ask(post()).await;
    assert_eq!((response.status(), response.body().as_ref()), (StatusCode::OK, &b"2 5"[..]));
}

#[tokio::test]
async fn a_connection_that_ends_as_it_is_used_again_costs_only_what_may_not_be_done_twice() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http11).await;
    drop(bench.tasks.spawn("server", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            }
            // The next one on this connection is read, and not answered.
            stream.read(&mut request).await.unwrap_or_default();
        }
    }));
    let post = Request::post("/").header("host", "web").body(Full::default()).unwrap();
    assert_eq!(bench.ask(get("/")).await.status(), StatusCode::OK);
    assert_eq!(bench.ask(get("/again")).await.status(), StatusCode::OK, "it may be done twice");
    assert_eq!(bench.ask(post).await.status(), StatusCode::SERVICE_UNAVAILABLE, "it may not");
}

#[tokio::test]
async fn a_request_ends_when_its_time_is_over() {
    let never: Answer = Arc::new(|_request| Box::pin(std::future::pending()));
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    bench.server("one", AppProtocol::Http11, Wire::Http1, never).await;
    let limit = Some(std::time::Duration::from_millis(100));
    for timeouts in [Timeouts { request: limit, attempt: None }, Timeouts { request: None, attempt: limit }] {
        bench.writer.apply([route(vec![HttpRule { timeouts, ..rule(vec![to("web", 1)]) }])]);
        assert_eq!(bench.ask(get("/")).await.status(), StatusCode::GATEWAY_TIMEOUT, "{timeouts:?}");
    }
}

#[tokio::test]
async fn copies_go_elsewhere_and_nobody_waits_for_their_answers() {
    let (copied, mut copies) = tokio::sync::mpsc::channel(8);
    let mut bench = web(Wire::Http1, AppProtocol::Http11).await;
    let listener = bench.listen("two", "copy", AppProtocol::Http11).await;
    let noting: Answer = Arc::new(move |request| {
        copied.try_send(request.body().len()).unwrap();
        Box::pin(std::future::pending())
    });
    crate::testing::serve(&bench.tasks, listener, Wire::Http1, noting);
    let target = Target::Service { name: name("copy"), port: 80 };
    let mirror = Filter::Mirror(Mirror { target, denominator: 1, numerator: 1 });
    bench.writer.apply([route(vec![HttpRule { filters: vec![mirror], ..rule(vec![to("web", 1)]) }])]);
    let post = Request::post("/").header("host", "web").body(Full::from("12345")).unwrap();
    assert_eq!(bench.ask(post).await.status(), StatusCode::OK);
    assert_eq!(tokio::time::timeout(SOON, copies.recv()).await.unwrap(), Some(5));
}
