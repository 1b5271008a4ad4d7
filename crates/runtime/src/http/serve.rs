// SPDX-License-Identifier: Apache-2.0
//! The hyper side of the server: whole requests in, whole answers out, on any stream.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Frame, Incoming},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{MAX_BODY, Reply, Request, Response, Router, Streamed, respond};
use crate::{
    Tasks,
    accept::{self, AcceptError, Limits, Listener},
};

/// A client that has not sent its first request, the head of a next one, or the rest of a body by then is cut off.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests at one time on one HTTP/2 connection.
const STREAMS: u32 = 64;

/// Serves a router on a listener until the group is asked to finish; requests that run then are finished.
///
/// # Errors
/// When the listener is broken.
pub async fn serve(
    listener: impl Listener,
    tasks: &Tasks,
    limits: Limits,
    router: Router,
) -> Result<(), AcceptError> {
    accept::serve(listener, tasks, limits, |stream, _peer| connection(stream, tasks.clone(), router.clone()))
        .await
}

/// Serves a router on one connection, until it ends or the group is asked to finish.
pub async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    tasks: Tasks,
    router: Router,
) {
    let shutdown = tasks.shutdown();
    let spoken = Arc::new(AtomicBool::new(false));
    let first_request = Arc::clone(&spoken);
    let service = service_fn(move |request| {
        first_request.store(true, Ordering::Relaxed);
        let router = router.clone();
        async move { Ok::<_, Infallible>(answer(request, &router).await) }
    });
    let mut builder = Builder::new(Executor(tasks));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(STREAMS).keep_alive_interval(PATIENCE);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let silence = tokio::time::sleep(PATIENCE);
    tokio::pin!(silence);
    let (mut watching, mut draining) = (true, false);
    let ended = loop {
        tokio::select! {
            ended = serving.as_mut() => break ended,
            () = silence.as_mut(), if watching => {
                if !spoken.load(Ordering::Relaxed) {
                    return;
                }
                watching = false;
            }
            () = shutdown.requested(), if !draining => {
                draining = true;
                serving.as_mut().graceful_shutdown();
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection failed");
    }
}

/// What goes out: all at once, or as it comes.
type Outgoing = Either<Full<Bytes>, Pieces>;

async fn answer(request: http::Request<Incoming>, router: &Router) -> http::Response<Outgoing> {
    let (head, body) = request.into_parts();
    let reply = match gathered(body).await {
        Ok(body) => router.reply(whole(head, body)).await,
        Err(refusal) => Reply::Whole(refusal),
    };
    match reply {
        Reply::Whole(response) => response.map(|body| Either::Left(Full::new(body))),
        Reply::Streamed(Streamed { content_type, pieces }) => {
            let response = respond::with_type(StatusCode::OK, content_type, Bytes::new());
            response.map(|_empty| Either::Right(Pieces(pieces)))
        }
    }
}

async fn gathered(body: Incoming) -> Result<Bytes, Response> {
    let too_long = || respond::text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long\n");
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_long());
    }
    match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
        Ok(Err(_)) => Err(respond::text(StatusCode::BAD_REQUEST, "the body cannot be read\n")),
        Err(_) => Err(respond::text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    }
}

/// The pieces of an answer that goes on.
struct Pieces(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

fn whole(head: http::request::Parts, body: Bytes) -> Request {
    let query = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let query = query.map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    Request {
        method: head.method,
        path: head.uri.path().to_owned(),
        rest: String::new(),
        query: query.collect(),
        headers: head.headers,
        body,
    }
}

/// Decodes `%41` and `+` (application/x-www-form-urlencoded); what is not an escape stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escaped = match (first, after) {
            (b'%', [high, low, tail @ ..]) => {
                hex(*high).zip(hex(*low)).map(|(high, low)| (high << 4 | low, tail))
            }
            _ => None,
        };
        let plain = if first == b'+' { b' ' } else { first };
        let (byte, next) = escaped.unwrap_or((plain, after));
        bytes.push(byte);
        rest = next;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Runs what hyper spawns (HTTP/2 streams) as tasks of the group.
#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn("http stream", future));
    }
}
