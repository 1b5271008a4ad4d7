// SPDX-License-Identifier: Apache-2.0
//! Fields after a body, between clients and servers of both versions.

use std::{array, convert::Infallible};

use bytes::Bytes;
use futures_util::stream::{self, Iter};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::service::AppProtocol;
use tokio::time::timeout;

use crate::testing::{Bench, SOON, Wire};

/// A body with a field after it.
type Trailed = StreamBody<Iter<array::IntoIter<Result<Frame<Bytes>, Infallible>, 2>>>;

/// In requests.
const ASKED: &str = "x-asked";
/// In answers, where they say what came with the request.
const ANSWERED: &str = "x-answered";

fn trailed(field: &'static str, value: HeaderValue) -> Trailed {
    let fields = HeaderMap::from_iter([(HeaderName::from_static(field), value)]);
    let frames = [Frame::data(Bytes::from_static(b"hello")), Frame::trailers(fields)];
    StreamBody::new(stream::iter(frames.map(Ok)))
}

/// Whether the fields that follow are named before the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Before,
    Not,
}

fn announce(headers: &mut HeaderMap, said: Said, field: &'static str) {
    if said == Said::Before {
        headers.insert("trailer", HeaderValue::from_static(field));
    }
}

/// A server that says after its answer what came after the request, and before it whether it was asked for that.
async fn server(bench: &mut Bench, wire: Wire, said: Said) {
    let protocol = match wire {
        Wire::Http1 => AppProtocol::Http11,
        Wire::Http2 => AppProtocol::Http2,
    };
    let listener = bench.listen("one", "web", protocol).await;
    let service = service_fn(move |request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let body = body.collect().await?;
        let heard = body.trailers().and_then(|fields| fields.get(ASKED)).cloned();
        let heard = heard.unwrap_or_else(|| HeaderValue::from_static("nothing"));
        let mut response = Response::new(trailed(ANSWERED, heard));
        announce(response.headers_mut(), said, ANSWERED);
        for name in ["te", "connection"] {
            if let Some(value) = head.headers.get(name) {
                let name = HeaderName::try_from(format!("x-was-{name}")).unwrap();
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok::<_, hyper::Error>(response)
    });
    let owner = bench.tasks.clone();
    drop(bench.tasks.spawn("listener", async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let (stream, service) = (TokioIo::new(stream), service);
            drop(owner.spawn("server", async move {
                let served = match wire {
                    Wire::Http1 => {
                        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await
                    }
                    Wire::Http2 => {
                        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                            .serve_connection(stream, service)
                            .await
                    }
                };
                served.unwrap_or_default();
            }));
        }
    }));
}

async fn ask(bench: &Bench, wire: Wire, mut request: Request<Trailed>) -> Response<Incoming> {
    let connection = TokioIo::new(bench.connect().await);
    match wire {
        Wire::Http1 => {
            request.headers_mut().insert("host", HeaderValue::from_static("web"));
            *request.uri_mut() = "/".parse().unwrap();
            let (mut sender, driver) = hyper::client::conn::http1::handshake(connection).await.unwrap();
            drop(bench.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
            sender.send_request(request).await.unwrap()
        }
        Wire::Http2 => {
            let begun = hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await;
            let (mut sender, driver) = begun.unwrap();
            drop(bench.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
            sender.send_request(request).await.unwrap()
        }
    }
}

fn request(said: Said, takes: bool) -> Request<Trailed> {
    let mut request =
        Request::post("http://web/").body(trailed(ASKED, HeaderValue::from_static("7"))).unwrap();
    announce(request.headers_mut(), said, ASKED);
    if takes {
        request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
    }
    request
}

/// What came after the answer. The answer itself is whole in any case.
async fn after(bench: &Bench, client: Wire, request: Request<Trailed>) -> (HeaderMap, Option<String>) {
    let conversation = async {
        let (head, body) = ask(bench, client, request).await.into_parts();
        (head.headers, body.collect().await.unwrap())
    };
    let (headers, body) = timeout(SOON, conversation).await.unwrap();
    let fields = body.trailers().and_then(|fields| fields.get(ANSWERED)).cloned();
    assert_eq!(body.to_bytes(), "hello");
    (headers, fields.map(|value| value.to_str().unwrap().to_owned()))
}

#[tokio::test]
async fn fields_that_are_named_before_pass_between_all_versions() {
    for server_speaks in [Wire::Http1, Wire::Http2] {
        let mut bench = Bench::new(AppProtocol::Http11, &[]);
        server(&mut bench, server_speaks, Said::Before).await;
        for client_speaks in [Wire::Http1, Wire::Http2] {
            let (headers, fields) = after(&bench, client_speaks, request(Said::Before, true)).await;
            assert_eq!(fields.as_deref(), Some("7"), "{client_speaks:?} to {server_speaks:?}");
            assert_eq!(headers["x-was-te"], "trailers");
            assert_eq!(headers["trailer"], ANSWERED);
            // Of one connection, which only HTTP/1.1 has to say (RFC 9110 section 10.1.4).
            let hop = headers.get("x-was-connection").map(HeaderValue::as_bytes);
            let expected = matches!(server_speaks, Wire::Http1).then_some(&b"te"[..]);
            assert_eq!(hop, expected, "{client_speaks:?} to {server_speaks:?}");
        }
    }
}

#[tokio::test]
async fn http2_needs_no_name_before() {
    let mut bench = Bench::new(AppProtocol::Http2, &[]);
    server(&mut bench, Wire::Http2, Said::Not).await;
    let (_, fields) = after(&bench, Wire::Http2, request(Said::Not, false)).await;
    assert_eq!(fields.as_deref(), Some("7"));
}

#[tokio::test]
async fn a_client_of_http1_gets_only_fields_that_it_takes_and_that_are_named_before() {
    for (said, takes, expected) in
        [(Said::Before, true, Some("7")), (Said::Before, false, None), (Said::Not, true, None)]
    {
        let mut bench = Bench::new(AppProtocol::Http2, &[]);
        server(&mut bench, Wire::Http2, said).await;
        let (_, fields) = after(&bench, Wire::Http1, request(Said::Before, takes)).await;
        assert_eq!(fields.as_deref(), expected, "{said:?}, taken: {takes}");
    }
}

#[tokio::test]
async fn a_server_of_http1_gets_only_fields_that_are_named_before() {
    for (said, expected) in [(Said::Before, "7"), (Said::Not, "nothing")] {
        let mut bench = Bench::new(AppProtocol::Http11, &[]);
        server(&mut bench, Wire::Http1, Said::Before).await;
        let (_, fields) = after(&bench, Wire::Http2, request(said, true)).await;
        assert_eq!(fields.as_deref(), Some(expected), "{said:?}");
    }
}
