// SPDX-License-Identifier: Apache-2.0
//! Tests: the router, and the server on an in-memory stream.

use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::timeout,
};

use super::*;
use crate::Tasks;

const PATIENCE: Duration = Duration::from_secs(60);

fn router() -> Router {
    Router::new()
        .route(Method::GET, "/metrics", |_| async { respond::text(StatusCode::OK, "a 1\n") })
        .route(Method::POST, "/logging", |request: Request| async move {
            respond::text(StatusCode::OK, format!("{:?}", request.query))
        })
        .route(Method::POST, "/pods", |request: Request| async move {
            respond::json(StatusCode::OK, request.body)
        })
        .route(Method::DELETE, "/pods/*", |request: Request| async move {
            respond::text(StatusCode::OK, request.rest)
        })
}

#[tokio::test]
async fn a_request_is_answered_by_the_route_of_its_method_and_path() {
    for (method, path, status, body) in [
        (Method::GET, "/metrics", 200, "a 1\n"),
        (Method::HEAD, "/metrics", 200, "a 1\n"),
        (Method::POST, "/metrics", 405, "method not allowed\n"),
        (Method::GET, "/nothing", 404, "not found\n"),
        (Method::GET, "/metrics/", 404, "not found\n"),
        (Method::DELETE, "/pods/uid-1/x", 200, "uid-1/x"),
        (Method::DELETE, "/pods/", 404, "not found\n"),
        (Method::GET, "/pods/uid-1", 405, "method not allowed\n"),
    ] {
        let request = Request { method: method.clone(), path: path.to_owned(), ..Request::default() };
        let response = router().answer(request).await;
        assert_eq!(
            (response.status().as_u16(), response.body().as_ref()),
            (status, body.as_bytes()),
            "{method} {path}"
        );
    }
    let request = Request { method: Method::PUT, path: "/pods".to_owned(), ..Request::default() };
    assert_eq!(router().answer(request).await.headers()[header::ALLOW], "POST");
}

/// The other end of a served connection.
fn client(tasks: &Tasks) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    drop(tasks.spawn("connection", connection(far, tasks.clone(), router())));
    near
}

/// Sends a request as it stands and reads until the server closes.
async fn exchange(request: &str) -> String {
    let mut stream = client(&Tasks::new());
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

#[tokio::test(start_paused = true)]
async fn http_1_requests_have_decoded_queries_and_whole_bodies() {
    let head = "Host: x\r\nConnection: close\r\n";
    let answer =
        exchange(&format!("POST /logging?level=a%3Ddebug&reset&x=1%2&y=+ HTTP/1.1\r\n{head}\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with(r#"{"level": "a=debug", "reset": "", "x": "1%2", "y": " "}"#), "{answer}");
    let answer = exchange(&format!("POST /pods HTTP/1.1\r\n{head}Content-Length: 2\r\n\r\n{{}}")).await;
    assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    let answer = exchange(&format!("HEAD /metrics HTTP/1.1\r\n{head}\r\n")).await;
    assert!(answer.contains("content-length: 4") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_long_or_does_not_come_is_refused() {
    let head = "POST /pods HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let long = MAX_BODY + 1;
    let answer = exchange(&format!("{head}Content-Length: {long}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let answer = exchange(&format!("{head}Content-Length: 2\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_cut_off() {
    let tasks = Tasks::new();
    let mut silent = client(&tasks);
    let mut halting = client(&tasks);
    halting.write_all(b"GET /metr").await.unwrap();
    for stream in [&mut silent, &mut halting] {
        let mut answer = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(tasks.drain(Duration::ZERO).await.forced, [] as [(&str, usize); 0]);
}

#[tokio::test]
async fn http_2_is_spoken_on_the_same_port_and_a_drain_ends_the_connection() {
    let tasks = Tasks::new();
    let stream = TokioIo::new(client(&tasks));
    let (mut sender, driver) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driver = Tasks::new().spawn("driver", driver);
    let request = http::Request::get("http://x/metrics").body(Full::new(Bytes::new())).unwrap();
    let response = timeout(PATIENCE, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a 1\n");
    let drained = timeout(PATIENCE, tasks.drain(PATIENCE)).await.unwrap();
    assert_eq!(drained.forced, [] as [(&str, usize); 0]);
    timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_router_is_served_on_tcp_and_on_unix_sockets() {
    let tasks = Tasks::new();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let tcp = crate::accept::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = tcp.local_addr().unwrap();
    let unix = crate::accept::bind_unix(&path).unwrap();
    let limits = crate::accept::Limits { name: "test", connections: 4 };
    let group = tasks.clone();
    drop(tasks.spawn("tcp", async move { serve(tcp, &group, limits, router()).await }));
    let group = tasks.clone();
    drop(tasks.spawn("unix", async move { serve(unix, &group, limits, router()).await }));
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut answers = [String::new(), String::new()];
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request).await.unwrap();
    timeout(PATIENCE, stream.read_to_string(&mut answers[0])).await.unwrap().unwrap();
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    stream.write_all(request).await.unwrap();
    timeout(PATIENCE, stream.read_to_string(&mut answers[1])).await.unwrap().unwrap();
    assert!(answers.iter().all(|answer| answer.ends_with("a 1\n")), "{answers:?}");
    assert_eq!(tasks.drain(PATIENCE).await.forced, [] as [(&str, usize); 0]);
}
