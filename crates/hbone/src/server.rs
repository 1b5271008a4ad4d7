// SPDX-License-Identifier: Apache-2.0
//! The server's end of one connection: yields every CONNECT to its caller, who accepts or refuses it, drains, and ends.
//! What a request may reach is the caller's question.

use crate::end::Cause;
use crate::keepalive::{Heartbeat, Silent};
use crate::link::{Fate, Link, Permit};
use crate::settings::Settings;
use crate::spawn::Spawner;
use crate::tunnel::Tunnel;
use crate::window::Window;
use crate::wire::{Flusher, Wire, wire};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a connection was not served to an orderly end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client did not begin in time.
    #[error("HTTP/2 handshake not finished within {after:?}")]
    HandshakeTimedOut {
        /// What was allowed.
        after: Duration,
    },
    /// The client does not speak HTTP/2, or left.
    #[error("HTTP/2 handshake failed")]
    Handshake {
        /// What HTTP/2 said.
        #[source]
        source: h2::Error,
    },
    /// It failed while being served.
    #[error("HTTP/2 connection failed")]
    Failed {
        /// What HTTP/2 said.
        #[source]
        source: h2::Error,
    },
    /// The stream below failed.
    #[error("connection failed")]
    Broken {
        /// What it said.
        #[source]
        source: std::io::Error,
    },
    /// The client stopped answering PINGs.
    #[error("HBONE ping timeout")]
    Silent,
    /// We ended it before its streams had finished.
    #[error("connection closed: {cause}")]
    Closed {
        /// As `force` gave it.
        cause: Cause,
    },
}

/// Accepting a tunnel failed: its client has gone.
#[derive(Debug, thiserror::Error)]
#[error("client left before the tunnel was accepted")]
pub struct AcceptError {
    #[source]
    source: h2::Error,
}

/// When to stop serving.
#[derive(Debug)]
pub struct Stop<D, F> {
    /// When it resolves, the client is told to open no more tunnels (GOAWAY); those open go on.
    pub drain: D,
    /// When it resolves, everything ends at once; copies of the connection's tunnels end with that cause.
    pub force: F,
}

/// Serves connections.
#[derive(Clone, Debug)]
pub struct Server {
    settings: Settings,
    spawner: Spawner,
}

impl Server {
    /// A server that runs its handlers by `spawner`.
    pub fn new(settings: Settings, spawner: Spawner) -> Self {
        Self { settings, spawner }
    }

    /// Serves one connection until the client or `stop` ends it. Every CONNECT is given to `handle`, whose future runs as
    /// a task of its own; there are never more than [`Settings::max_streams`] open streams. Dropping this future ends
    /// the connection abruptly.
    ///
    /// # Errors
    /// When it ended otherwise than in order.
    pub async fn serve<S, D, F, H, T>(&self, stream: S, stop: Stop<D, F>, handle: H) -> Result<(), ServeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
        D: Future<Output = ()>,
        F: Future<Output = Cause>,
        H: FnMut(Connect) -> T,
        T: Future<Output = ()> + Send + 'static,
    {
        let link = Arc::new(Link::default());
        let (wire, flusher) = wire(stream, Arc::clone(&link));
        let after = self.settings.handshake_timeout;
        let handshake = self.settings.server_builder().handshake(wire);
        let mut connection = match tokio::time::timeout(after, handshake).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(source)) => return Err(ServeError::Handshake { source }),
            Err(_elapsed) => return Err(ServeError::HandshakeTimedOut { after }),
        };
        let heartbeat = Heartbeat::new(connection.ping_pong(), self.settings.keepalive);
        let window = Window::new(self.settings.connection_window, self.settings.connection_window_limit);
        let spawner = &self.spawner;
        let mut serving = Serving { connection, flusher, heartbeat, window, link, spawner, handle };
        let mut drain = pin!(stop.drain);
        let mut force = pin!(stop.force);
        let mut draining = false;
        let result = std::future::poll_fn(|cx| {
            if let Poll::Ready(cause) = force.as_mut().poll(cx) {
                serving.link.end(Fate::Closed(cause));
                return Poll::Ready(Err(ServeError::Closed { cause }));
            }
            if !draining && drain.as_mut().poll(cx).is_ready() {
                draining = true;
                serving.connection.graceful_shutdown();
            }
            serving.poll(cx)
        })
        .await;
        serving.link.mark_ended();
        result
    }
}

struct Serving<'a, S, H> {
    connection: h2::server::Connection<Wire<S>, Bytes>,
    flusher: Flusher<S>,
    heartbeat: Heartbeat,
    window: Window,
    link: Arc<Link>,
    spawner: &'a Spawner,
    handle: H,
}

impl<S, H, T> Serving<'_, S, H>
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Connect) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ServeError>> {
        if let Poll::Ready(Silent) = self.heartbeat.poll(cx) {
            self.link.end(Fate::Silent);
            return Poll::Ready(Err(ServeError::Silent));
        }
        // Registers for the link's wake-ups; the fate itself is only ever set here.
        if self.link.poll_fate(cx).is_none()
            && let Some(target) = self.window.follow(self.link.held())
        {
            self.connection.set_target_window_size(target);
        }
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(source))) => return Poll::Ready(Err(ServeError::Failed { source })),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        match self.flusher.poll_flush(cx) {
            Poll::Ready(Err(source)) => Poll::Ready(Err(ServeError::Broken { source })),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let connect = Connect { request, respond, permit: Permit::new(&self.link) };
        let is_connect = connect.request.method() == Method::CONNECT;
        match connect.request.uri().authority() {
            Some(_) if is_connect => self.spawner.spawn("tunnel", (self.handle)(connect)),
            _ => connect.refuse(StatusCode::BAD_REQUEST),
        }
    }
}

/// A client's wish for a tunnel. Dropping it unanswered resets the stream.
#[derive(Debug)]
pub struct Connect {
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    permit: Permit,
}

impl Connect {
    /// The `:authority`: where to. Not parsed further; never empty.
    pub fn authority(&self) -> &str {
        self.request.uri().authority().map_or("", http::uri::Authority::as_str)
    }

    /// The header fields beside it.
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Resolves when the client gives up before the answer. Cancel-safe.
    pub async fn abandoned(&mut self) {
        std::future::poll_fn(|cx| self.respond.poll_reset(cx).map(|_| ())).await;
    }

    /// Answers 200 with `headers` and opens the tunnel.
    ///
    /// # Errors
    /// When the client has gone.
    pub fn accept(mut self, headers: HeaderMap) -> Result<Tunnel, AcceptError> {
        let mut response = Response::new(());
        *response.headers_mut() = headers;
        let send = self.respond.send_response(response, false).map_err(|source| AcceptError { source })?;
        Ok(Tunnel::new(send, self.request.into_body(), self.permit))
    }

    /// Answers `status` and ends the stream.
    pub fn refuse(mut self, status: StatusCode) {
        let mut response = Response::new(());
        *response.status_mut() = status;
        if let Err(error) = self.respond.send_response(response, true) {
            tracing::debug!(%error, "client left before it was refused");
        }
    }

    /// Resets the stream as not processed: the client may ask another endpoint, or this one over another connection.
    pub fn decline(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }
}
