// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 from clients, by hyper: one connection, one request at a time.

use std::{convert::Infallible, sync::Arc, time::Duration};

use ::runtime::Shutdown;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION};
use hyper::{body::Incoming, server::conn::http1, service::service_fn, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use crate::{
    body::Body,
    link::{Link, Linked},
    patience::{Patience, patience},
    serve::answer,
    shard::Shard,
};

/// Bytes of a connection's read buffer at most; heads are bounded by themselves.
const BUFFER: usize = 64 * 1024;
/// How long a connection of a process that ends waits for one more request, whose answer says that it is the last. An end
/// without a word may cross a request that is on its way, and that one fails.
const LAST_REQUEST: Duration = Duration::from_secs(3);

/// Serves a connection until the client ends it, or the process does.
pub async fn serve(shard: Arc<Shard>, linked: Linked) {
    let Linked { link, inner } = linked;
    let bounds = shard.waypoint.config.bounds;
    let shutdown = shard.tasks.shutdown();
    let refused = Wish::default();
    let service = service_fn(|request: Request<Incoming>| {
        let (shard, link, shutdown, refused) =
            (Arc::clone(&shard), Arc::clone(&link), shutdown.clone(), Arc::clone(&refused));
        async move { Ok::<_, Infallible>(one(&shard, &link, &shutdown, &refused, request).await) }
    });
    let answered = inner.answered();
    let (stream, patience) = patience(inner, bounds.head);
    let mut builder = http1::Builder::new();
    builder
        .timer(patience.clone())
        .header_read_timeout(bounds.idle)
        .max_headers(bounds.headers)
        .max_header_size(bounds.header_bytes as usize)
        .max_buf_size(BUFFER.max(bounds.header_bytes as usize + 1))
        .auto_date_header(false)
        .preserve_header_case(false);
    let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = rested(&shutdown, LAST_REQUEST.min(shard.waypoint.config.proxy.drain / 2)) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    let wish = refused.lock().take();
    if let (Ok(()), Some(wish)) = (&ended, wish)
        && let Ok(connection) = wish.await
    {
        TokioIo::new(connection).shutdown().await.unwrap_or_default();
    }
    if let Err(error) = ended {
        // hyper has answered what it could not read, and leaves the end to whoever holds the connection.
        if error.is_parse() {
            answered.note();
        }
        if let Some(kind) = attack(&error, &patience) {
            metrics::counter!("ambit_attacks_total", "kind" => kind).increment(1);
        }
        tracing::debug!(peer = %link.peer, error = %::proxy::chain(&error), "a client's HTTP/1 connection failed");
    }
}

/// hyper leaves the end of a connection to the last who wished to go on in another protocol, also where that was refused: then
/// the end is said here, or the client would take it for a failure and might lose the answer.
type Wish = Arc<Mutex<Option<OnUpgrade>>>;

async fn one(
    shard: &Arc<Shard>,
    link: &Arc<Link>,
    shutdown: &Shutdown,
    refused: &Wish,
    request: Request<Incoming>,
) -> Response<Body> {
    let connect = request.method() == Method::CONNECT;
    let wish = request.extensions().get::<OnUpgrade>().cloned();
    let mut response = Box::pin(answer(shard, link, request.map(Body::http1))).await;
    let status = response.status();
    let granted = status == StatusCode::SWITCHING_PROTOCOLS || (connect && status.is_success());
    if wish.is_some() && !granted {
        *refused.lock() = wish;
    }
    if shutdown.is_requested() && !granted {
        say_the_last(&mut response);
    }
    response
}

/// What hyper itself ended a connection for, if that was the client's doing; flaws of requests are counted where they are seen.
fn attack(error: &hyper::Error, patience: &Patience) -> Option<&'static str> {
    if error.is_parse_too_large() {
        return Some("head_too_large");
    }
    (error.is_timeout() && patience.has_begun()).then_some("slow_head")
}

async fn rested(shutdown: &Shutdown, rest: Duration) {
    shutdown.requested().await;
    tokio::time::sleep(rest).await;
}

/// The client opens another connection for its next request (RFC 9112 section 9.6).
fn say_the_last(response: &mut Response<Body>) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}
