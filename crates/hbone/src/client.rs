// SPDX-License-Identifier: Apache-2.0
//! The client's end of one connection: the handshake, the driver that moves its bytes, and the opening of tunnels.
//! Which connection to use is the pool's question.

use crate::end::Cause;
use crate::head::Head;
use crate::keepalive::{Heartbeat, Silent};
use crate::link::{Fate, Link, Permit};
use crate::settings::Settings;
use crate::tunnel::Tunnel;
use crate::window::Window;
use crate::wire::{Flusher, Wire, wire};
use bytes::Bytes;
use futures_util::task::noop_waker_ref;
use h2::client::SendRequest;
use http::{HeaderMap, StatusCode};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// The HTTP/2 handshake on a stream failed.
#[derive(Debug, thiserror::Error)]
#[error("HTTP/2 handshake failed")]
pub struct HandshakeError {
    #[source]
    source: h2::Error,
}

/// Why a tunnel was not opened. In every case no byte of payload was delivered.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The peer answered with another status than 200.
    #[error("peer refused the tunnel: http status: {}", status.as_u16())]
    Refused {
        /// What it answered.
        status: StatusCode,
        /// Beside it.
        headers: Box<HeaderMap>,
    },
    /// The peer did not look at the request: it drains, or has as many streams as it allows.
    #[error("peer did not process the request")]
    Unprocessed {
        /// What HTTP/2 said.
        #[source]
        source: h2::Error,
    },
    /// The connection or the stream failed before there was an answer.
    #[error("connection failed before the answer")]
    Lost {
        /// What HTTP/2 said.
        #[source]
        source: h2::Error,
    },
    /// We closed the connection.
    #[error("connection closed: {cause}")]
    Closed {
        /// As given to `close`.
        cause: Cause,
    },
    /// The peer stopped answering PINGs.
    #[error("HBONE ping timeout")]
    Silent,
    /// No answer in time.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// What was allowed.
        after: Duration,
    },
}

/// Whether opening the tunnel again can succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// The peer did nothing: the same endpoint may be asked again over another connection, or any other one.
    Again,
    /// This endpoint failed or is unable: another one may do.
    Elsewhere,
    /// The answer will not change.
    No,
}

impl ConnectError {
    /// Whether to try again; 503 is the only refusal that says "not I" (its dial failed, or it knows no such workload).
    pub fn retry(&self) -> Retry {
        match self {
            Self::Refused { status, .. } if *status == StatusCode::SERVICE_UNAVAILABLE => Retry::Elsewhere,
            Self::Refused { .. } => Retry::No,
            Self::Unprocessed { .. } | Self::Closed { .. } => Retry::Again,
            Self::Lost { .. } | Self::Silent | Self::TimedOut { .. } => Retry::Elsewhere,
        }
    }

    fn of(source: h2::Error, link: &Link) -> Self {
        match link.fate() {
            Some(Fate::Closed(cause)) => Self::Closed { cause },
            Some(Fate::Silent) => Self::Silent,
            // RFC 9113 §6.8 and §8.7: a stream above GOAWAY's last id, or reset with REFUSED_STREAM, was not processed.
            None if source.is_remote()
                && (source.is_go_away() || source.reason() == Some(h2::Reason::REFUSED_STREAM)) =>
            {
                Self::Unprocessed { source }
            }
            None => Self::Lost { source },
        }
    }
}

/// What became of a connection.
#[derive(Debug)]
pub enum Ended {
    /// Nobody held it any more, or the peer had announced its end: all streams had finished.
    Finished,
    /// By [`Connection::close`].
    Closed(Cause),
    /// The peer stopped answering PINGs.
    Silent,
    /// HTTP/2 failed.
    Failed(h2::Error),
    /// The stream below failed.
    Broken(std::io::Error),
}

/// A handle of an open connection. Cheap to clone. The connection ends when no handle and no tunnel is left.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    link: Arc<Link>,
    max_streams: usize,
    answer_timeout: Duration,
}

/// Moves the connection's bytes; nothing happens unless it is polled. Dropping it ends the connection abruptly.
#[must_use = "a connection stands still unless its driver runs"]
pub struct Driver<S> {
    connection: Option<h2::client::Connection<Wire<S>, Bytes>>,
    flusher: Flusher<S>,
    heartbeat: Heartbeat,
    window: Window,
    link: Arc<Link>,
}

/// Begins HTTP/2 on a stream. Waits for nothing: the first bytes leave when the driver runs.
///
/// # Errors
/// When the stream fails at once.
pub async fn handshake<S>(stream: S, settings: &Settings) -> Result<(Connection, Driver<S>), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let link = Arc::new(Link::default());
    let (wire, flusher) = wire(stream, Arc::clone(&link));
    let handshake = settings.client_builder().handshake(wire);
    let (requests, mut connection) = handshake.await.map_err(|source| HandshakeError { source })?;
    let heartbeat = Heartbeat::new(connection.ping_pong(), settings.keepalive);
    let handle = Connection {
        requests,
        link: Arc::clone(&link),
        max_streams: settings.max_streams as usize,
        answer_timeout: settings.answer_timeout,
    };
    let window = Window::new(settings.connection_window, settings.connection_window_limit);
    Ok((handle, Driver { connection: Some(connection), flusher, heartbeat, window, link }))
}

impl Connection {
    /// Opens a tunnel; returns it with the headers of the peer's 200. Cancel-safe: the stream is then reset.
    ///
    /// # Errors
    /// When the peer refuses, or no answer comes.
    pub async fn connect(&self, head: &Head) -> Result<(Tunnel, HeaderMap), ConnectError> {
        self.connect_as(Permit::new(&self.link), head).await
    }

    pub(crate) async fn connect_as(
        &self,
        permit: Permit,
        head: &Head,
    ) -> Result<(Tunnel, HeaderMap), ConnectError> {
        let sent = self.requests.clone().send_request(head.request(), false);
        // Nothing left this process, whatever the reason.
        let (answer, send) = sent.map_err(|source| match ConnectError::of(source, permit.link()) {
            ConnectError::Lost { source } => ConnectError::Unprocessed { source },
            other => other,
        })?;
        let after = self.answer_timeout;
        let answer = tokio::time::timeout(after, answer).await;
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(source)) => return Err(ConnectError::of(source, permit.link())),
            Err(_elapsed) => return Err(ConnectError::TimedOut { after }),
        };
        let (parts, receive) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Err(ConnectError::Refused { status: parts.status, headers: Box::new(parts.headers) });
        }
        Ok((Tunnel::new(send, receive, permit), parts.headers))
    }

    /// Closes the connection and all its tunnels at once, without waiting for anything; their copies end with `cause`.
    /// Says whether it was this call that did.
    pub fn close(&self, cause: Cause) -> bool {
        self.link.end(Fate::Closed(cause))
    }

    /// Whether new tunnels may be opened: not after the peer's GOAWAY, nor after its end.
    pub fn is_open(&self) -> bool {
        !self.link.is_ended() && {
            let mut cx = Context::from_waker(noop_waker_ref());
            matches!(self.requests.clone().poll_ready(&mut cx), Poll::Ready(Ok(())))
        }
    }

    /// Tunnels open or being opened.
    pub fn streams(&self) -> usize {
        self.link.streams()
    }

    /// How many tunnels to put on it: one less than both ends allow, as Istio's pool does, but at least one.
    pub fn usable_streams(&self) -> usize {
        let allowed = self.requests.current_max_send_streams().min(self.max_streams);
        allowed.saturating_sub(1).max(1)
    }

    /// Bytes moved in both directions so far.
    pub fn moved(&self) -> u64 {
        self.link.moved()
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Driver<S> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(fate) = self.link.poll_fate(cx) {
            return Poll::Ready(fate.into());
        }
        if let Poll::Ready(Silent) = self.heartbeat.poll(cx) {
            self.link.end(Fate::Silent);
            return Poll::Ready(Ended::Silent);
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ended::Finished) };
        if let Some(target) = self.window.follow(self.link.held()) {
            connection.set_target_window_size(target);
        }
        match Pin::new(connection).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(Ended::Finished),
            Poll::Ready(Err(source)) => Poll::Ready(Ended::Failed(source)),
            Poll::Pending => match self.flusher.poll_flush(cx) {
                Poll::Ready(Err(source)) => Poll::Ready(Ended::Broken(source)),
                Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Driver<S> {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let ended = std::task::ready!(self.poll_end(cx));
        self.link.mark_ended();
        // Wakes every stream that waits.
        self.connection = None;
        Poll::Ready(ended)
    }
}

impl<S> fmt::Debug for Driver<S> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Driver").field("link", &self.link).finish_non_exhaustive()
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.link.mark_ended();
    }
}

impl From<Fate> for Ended {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Closed(cause) => Self::Closed(cause),
            Fate::Silent => Self::Silent,
        }
    }
}
