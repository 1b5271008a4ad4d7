// SPDX-License-Identifier: Apache-2.0
//! One CONNECT stream as a byte pipe. Credit for received bytes is given only when the reader says that they reached
//! their destination, and what was received, credited and sent is kept as plain numbers.

use crate::copy::Leg;
use crate::end::Cause;
use crate::link::{Fate, Permit};
use bytes::{Buf, Bytes};
use futures_util::task::noop_waker_ref;
use h2::{Reason, RecvStream, SendStream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Room to ask for before a frame of unknown size is passed on.
const PIECE: usize = 64 * 1024;

/// Why a tunnel failed. Inside the `io::Error` of its reads and writes; see [`TunnelError::of`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum TunnelError {
    /// We closed its connection.
    #[error("connection closed: {cause}")]
    Closed {
        /// As given to `close`.
        cause: Cause,
    },
    /// The peer stopped answering PINGs.
    #[error("HBONE ping timeout")]
    Silent,
    /// The peer reset the stream: what its application did was no orderly end.
    #[error("peer reset the stream: {reason}")]
    Reset {
        /// HTTP/2's reason.
        reason: Reason,
    },
    /// The connection failed.
    #[error("tunnel connection failed: {text}")]
    Lost {
        /// What HTTP/2 said.
        text: String,
    },
}

impl TunnelError {
    /// Whether the peer only said that it needs no more.
    pub(crate) fn is_enough(&self) -> bool {
        matches!(self, Self::Reset { reason } if says_enough(*reason))
    }

    /// The tunnel's part in an error, if it has one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> Self {
        let kind = match error {
            TunnelError::Closed { .. } => io::ErrorKind::ConnectionAborted,
            TunnelError::Silent => io::ErrorKind::TimedOut,
            TunnelError::Reset { .. } | TunnelError::Lost { .. } => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, error)
    }
}

/// What a tunnel has carried, as numbers from which another process could go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Bytes received from the peer.
    pub received: u64,
    /// Of these, how many reached their destination, so that the peer may forget them.
    pub credited: u64,
    /// Bytes given to the connection for the peer.
    pub sent: u64,
    /// The peer has said that no more comes.
    pub peer_finished: bool,
    /// We have said that no more comes.
    pub finished: bool,
}

/// An open tunnel: both directions of one CONNECT stream. As `AsyncRead + AsyncWrite` it carries another protocol; as a
/// side of a copy it moves bytes without copying them.
#[derive(Debug)]
pub struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
    permit: Permit,
    ledger: Ledger,
    /// Received, not yet read: only when used as `AsyncRead`.
    unread: Bytes,
}

impl Tunnel {
    pub(crate) fn new(send: SendStream<Bytes>, receive: RecvStream, permit: Permit) -> Self {
        Self { send, receive, permit, ledger: Ledger::default(), unread: Bytes::new() }
    }

    /// What it has carried so far.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// Ends both directions at once; the peer sees a failure, not an end of data.
    pub fn reset(&mut self) {
        // RFC 9113 §8.5: how a proxy tells that the TCP connection was reset or ended abnormally.
        self.send.send_reset(Reason::CONNECT_ERROR);
    }

    fn check(&self) -> io::Result<()> {
        match self.permit.link().fate() {
            None => Ok(()),
            Some(Fate::Closed(cause)) => Err(TunnelError::Closed { cause }.into()),
            Some(Fate::Silent) => Err(TunnelError::Silent.into()),
        }
    }

    fn error(&self, source: &h2::Error) -> io::Error {
        if let Err(error) = self.check() {
            return error;
        }
        match source.reason() {
            Some(reason) if source.is_reset() => TunnelError::Reset { reason }.into(),
            _ => TunnelError::Lost { text: source.to_string() }.into(),
        }
    }

    /// The next received bytes; empty at the end. They are not credited.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        self.check()?;
        while !self.ledger.peer_finished {
            match ready!(self.receive.poll_data(cx)) {
                // A peer may send empty frames; empty means the end here.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.ledger.received += bytes.len() as u64;
                    self.permit.link().hold(bytes.len());
                    return Poll::Ready(Ok(bytes));
                }
                Some(Err(error)) if is_orderly(&error) => self.ledger.peer_finished = true,
                Some(Err(error)) => return Poll::Ready(Err(self.error(&error))),
                None => self.ledger.peer_finished = true,
            }
        }
        Poll::Ready(Ok(Bytes::new()))
    }

    fn give_credit(&mut self, count: usize) {
        self.ledger.credited += count as u64;
        self.permit.link().let_go(count as u64);
        // Fails only when more is given back than was received, or the stream is gone; neither matters then.
        if let Err(error) = self.receive.flow_control().release_capacity(count) {
            tracing::debug!(%error, "could not give credit");
        }
    }

    fn poll_capacity(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.check()?;
        self.send.reserve_capacity(wanted);
        let capacity = self.send.capacity();
        if capacity > 0 {
            return Poll::Ready(Ok(capacity.min(wanted)));
        }
        match ready!(self.send.poll_capacity(cx)) {
            Some(Ok(capacity)) => Poll::Ready(Ok(capacity.min(wanted))),
            Some(Err(error)) => Poll::Ready(Err(self.error(&error))),
            None => Poll::Ready(Err(self.closed_error())),
        }
    }

    fn send(&mut self, bytes: Bytes) -> io::Result<()> {
        // A DATA frame without payload or END_STREAM would count against the connection for its whole life.
        if bytes.is_empty() {
            return Ok(());
        }
        let count = bytes.len() as u64;
        self.send.send_data(bytes, false).map_err(|_closed| self.closed_error())?;
        self.ledger.sent += count;
        Ok(())
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.ledger.finished {
            self.ledger.finished = true;
            self.send.send_data(Bytes::new(), true).map_err(|_closed| self.closed_error())?;
        }
        Ok(())
    }

    /// `h2` says only that the stream is closed when one sends; why, it says here.
    fn closed_error(&mut self) -> io::Error {
        let mut cx = Context::from_waker(noop_waker_ref());
        match self.send.poll_reset(&mut cx) {
            Poll::Ready(Ok(reason)) => {
                self.check().err().unwrap_or_else(|| TunnelError::Reset { reason }.into())
            }
            Poll::Ready(Err(error)) => self.error(&error),
            Poll::Pending => TunnelError::Lost { text: "stream closed".to_owned() }.into(),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.permit.link().let_go(self.ledger.received - self.ledger.credited);
    }
}

fn is_orderly(error: &h2::Error) -> bool {
    error.is_reset() && error.is_remote() && error.reason().is_some_and(says_enough)
}

/// Reasons of a reset that only say "I need no more" (RFC 9113 §8.1, and what ends do that drop a stream).
fn says_enough(reason: Reason) -> bool {
    matches!(reason, Reason::NO_ERROR | Reason::CANCEL)
}

impl Leg for Tunnel {
    const CREDITED: bool = true;

    fn poll_source(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(PIECE))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, _room: usize) -> Poll<io::Result<Bytes>> {
        self.poll_receive(cx)
    }

    fn credit(&mut self, count: usize) {
        self.give_credit(count);
    }

    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize, _credited: bool) -> Poll<io::Result<usize>> {
        self.poll_capacity(cx, wanted)
    }

    fn decline_room(&mut self) {
        // What is reserved here is missing to the connection's other streams.
        self.send.reserve_capacity(0);
    }

    fn give(&mut self, bytes: Bytes) -> io::Result<usize> {
        let count = bytes.len();
        self.send(bytes)?;
        Ok(count)
    }

    fn backlog(&self) -> usize {
        0
    }

    fn is_blocked(&self) -> bool {
        false
    }

    fn poll_push(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(0))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        // Before the peer's end of data, reading tells.
        if !self.ledger.peer_finished {
            return Poll::Pending;
        }
        match ready!(self.send.poll_reset(cx)) {
            Ok(reason) => Poll::Ready(TunnelError::Reset { reason }.into()),
            Err(error) => Poll::Ready(self.error(&error)),
        }
    }

    fn fail(&mut self) {
        self.reset();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            self.unread = ready!(self.poll_receive(cx))?;
        }
        let count = self.unread.len().min(buf.remaining());
        buf.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        if count > 0 {
            self.give_credit(count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = ready!(self.poll_capacity(cx, buf.len()))?;
        let bytes = Bytes::copy_from_slice(buf.get(..count).unwrap_or(buf));
        let count = bytes.len();
        self.send(bytes)?;
        Poll::Ready(Ok(count))
    }

    /// Does nothing: the connection's driver sends at its next turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.finish())
    }
}
