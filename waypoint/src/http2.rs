// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 from clients, by `h2`: a task per stream. What a client may have open, and how often it may take back what it
//! asked for, is bounded.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{Request, Response, StatusCode, header};
use hyper::body::Body as _;

use crate::{
    body::{self, Body},
    config::Bounds,
    expect,
    frames::Watched,
    link::{Link, Linked},
    serve::answer,
    shard::Shard,
};

/// Of one stream: what is held of a body whose receiver is slow.
const STREAM_WINDOW: u32 = 256 * 1024;
const LARGEST_FRAME: u32 = 16 * 1024;
/// Bytes of one stream that may wait for the wire.
const SEND_BUFFER: usize = 256 * 1024;
/// Overhead that unread small DATA frames may run up before the connection counts as an attack.
const SMALL_FRAMES: usize = 4 << 20;
/// Streams that a client took back before the answer, beyond what it let come to an end: more is no accident.
const TAKEN_BACK: usize = 1000;
/// A client that does not begin is turned away.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// The settings of a server's end.
fn builder(bounds: &Bounds) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        // As much as all streams may hold: one that nobody reads does not stop the others.
        .initial_connection_window_size(STREAM_WINDOW.saturating_mul(bounds.streams).min(1 << 30))
        .max_frame_size(LARGEST_FRAME)
        .max_header_list_size(bounds.header_bytes)
        .max_concurrent_streams(bounds.streams)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// Serves a connection until the client ends it, or the process does.
pub async fn serve(shard: Arc<Shard>, linked: Linked) {
    let Linked { link, inner } = linked;
    let bounds = shard.waypoint.config.bounds;
    let (watched, waiting) = Watched::new(inner);
    let handshake = tokio::time::timeout(HANDSHAKE, builder(&bounds).handshake::<_, Bytes>(watched)).await;
    let mut connection = match handshake {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            tracing::debug!(peer = %link.peer, %error, "a client's HTTP/2 connection did not begin");
            return;
        }
        Err(_elapsed) => return,
    };
    let shutdown = shard.tasks.shutdown();
    let taken_back = Arc::new(AtomicUsize::new(0));
    let mut draining = false;
    let failed = loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = shutdown.requested(), if !draining => {
                draining = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Some(Ok((request, respond))) => {
                waiting.give_out(respond.stream_id().as_u32());
                if taken_back.load(Ordering::Relaxed) > TAKEN_BACK {
                    metrics::counter!("ambit_attacks_total", "kind" => "rapid_reset").increment(1);
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    continue;
                }
                let stream = stream(
                    Arc::clone(&shard),
                    Arc::clone(&link),
                    Arc::clone(&taken_back),
                    (request, respond),
                );
                drop(shard.tasks.spawn("request", stream));
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    if let Some(error) = failed {
        if let Some(kind) = attack(&error) {
            metrics::counter!("ambit_attacks_total", "kind" => kind).increment(1);
        }
        tracing::debug!(peer = %link.peer, %error, "a client's HTTP/2 connection failed");
    }
}

/// What `h2` itself ended a connection for, if that was the client's doing; floods of frames are counted where they are seen.
fn attack(error: &h2::Error) -> Option<&'static str> {
    if error.is_io() || error.is_remote() {
        return None;
    }
    match error.reason()? {
        Reason::ENHANCE_YOUR_CALM => Some("too_much_at_once"),
        Reason::FLOW_CONTROL_ERROR => Some("flow_control"),
        Reason::FRAME_SIZE_ERROR => Some("frame_size"),
        Reason::COMPRESSION_ERROR => Some("compression"),
        Reason::PROTOCOL_ERROR => Some("protocol"),
        _ => None,
    }
}

async fn stream(
    shard: Arc<Shard>,
    link: Arc<Link>,
    taken_back: Arc<AtomicUsize>,
    (request, mut respond): (Request<RecvStream>, SendResponse<Bytes>),
) {
    let (mut head, body) = request.into_parts();
    if expect::is_expected(&head.headers) {
        // Whether the server wants the body is not asked over HTTP/2: the client's window bounds what is sent in vain.
        head.headers.remove(header::EXPECT);
        let mut go_on = Response::new(());
        *go_on.status_mut() = StatusCode::CONTINUE;
        if let Err(error) = respond.send_informational(go_on) {
            tracing::debug!(%error, "a client was not told to go on");
        }
    }
    let body = Body::http2(body, &head.headers);
    let response = tokio::select! {
        biased;
        response = Box::pin(answer(&shard, &link, Request::from_parts(head, body))) => response,
        _reset = poll_fn(|cx| respond.poll_reset(cx)) => {
            taken_back.fetch_add(1, Ordering::Relaxed);
            return;
        }
    };
    // Whoever lets requests come to an end may take back as many others.
    taken_back.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_sub(1))).ok();
    let (head, body) = response.into_parts();
    let end = body.is_end_stream();
    match respond.send_response(Response::from_parts(head, ()), end) {
        Ok(mut send) if !end => {
            if let Err(error) = body::send(body, &mut send).await {
                tracing::debug!(peer = %link.peer, error = %::proxy::chain(&error), "an answer was cut short");
            }
        }
        Ok(_sent) => {}
        Err(error) => tracing::debug!(peer = %link.peer, %error, "a client left before its answer"),
    }
}
