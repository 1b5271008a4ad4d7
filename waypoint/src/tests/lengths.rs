// SPDX-License-Identifier: Apache-2.0
//! Bodies of which nobody says how long they are, with methods that rarely have one.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh::service::AppProtocol;
use tokio::time::timeout;

use crate::testing::{Bench, SOON, Wire, answer};

/// A waypoint before a server of HTTP/1.1 that says what it was sent.
async fn mirror() -> Bench {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let back = answer(|request| {
        let method = request.method().clone();
        Response::new(Full::from(format!("{method} {}", String::from_utf8_lossy(request.body()))))
    });
    bench.server("one", AppProtocol::Http11, Wire::Http1, back).await;
    bench
}

#[tokio::test]
async fn a_body_of_http2_without_a_length_is_not_lost() {
    let bench = mirror().await;
    let begun =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(bench.connect().await));
    let (mut sender, driver) = begun.await.unwrap();
    drop(bench.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
    for method in ["GET", "DELETE", "POST"] {
        let pieces =
            ["he", "llo"].map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let body = StreamBody::new(stream::iter(pieces));
        let request = Request::builder().method(method).uri("http://web/").body(body).unwrap();
        let response = timeout(SOON, sender.send_request(request)).await.unwrap().unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("{method} hello"));
    }
}

#[tokio::test]
async fn a_body_of_http1_in_chunks_is_not_lost_and_none_is_made_up() {
    let bench = mirror().await;
    let chunked = "GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let said = bench.say(chunked.as_bytes()).await;
    assert!(said.ends_with("GET hello"), "{said}");
    let said = bench.say(b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").await;
    assert!(said.ends_with("GET "), "{said}");
}
