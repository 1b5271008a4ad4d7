// SPDX-License-Identifier: Apache-2.0
//! A byte stream as one side of a copy: reads with a buffer that grows with use and is given back when idle, writes
//! through an [`Outbox`].

use crate::copy::Leg;
use crate::outbox::Outbox;
use bytes::{BufMut, Bytes, BytesMut};
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// A read of at most this goes through the thread's scratch buffer and is copied into an allocation of its own size, so
/// that an idle or chatty connection holds no buffer.
const SCRATCH: usize = 16 * 1024;

/// The largest read.
const LARGEST: usize = 256 * 1024;

thread_local! {
    static SCRATCH_BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// A stream that can be one side of a copy.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ready when a read is worth a try, without a system call. Pending registers for it.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Makes the end that follows an abrupt one, so that the peer cannot take it for the end of the data.
    fn reset(&mut self);
}

impl Stream for TcpStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn reset(&mut self) {
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "could not make the close a reset");
        }
    }
}

/// Any other stream (TLS, a pipe): it cannot say whether it is readable, and its drop is as abrupt as it gets.
#[derive(Debug)]
pub struct Plain<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for Plain<S> {
    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {}
}

impl<S: AsyncRead + Unpin> AsyncRead for Plain<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Plain<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A stream as one side of a copy.
#[derive(Debug)]
pub struct Socket<S> {
    stream: S,
    outbox: Outbox,
    unflushed: bool,
    /// Size of the next read.
    appetite: usize,
    buffer: BytesMut,
}

impl<S: Stream> Socket<S> {
    /// A side over `stream`, which nobody else reads or writes.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            outbox: Outbox::default(),
            unflushed: false,
            appetite: SCRATCH,
            buffer: BytesMut::new(),
        }
    }

    fn poll_read_small(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Bytes>> {
        SCRATCH_BUFFER.with_borrow_mut(|scratch| {
            let limit = room.min(scratch.len());
            let mut buf = ReadBuf::new(scratch.get_mut(..limit).unwrap_or_default());
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().len() == SCRATCH {
                self.appetite = SCRATCH * 2;
            }
            Poll::Ready(Ok(Bytes::copy_from_slice(buf.filled())))
        })
    }

    fn poll_read_large(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Bytes>> {
        // Reclaims the allocation when the other side has let go of all that was read into it.
        self.buffer.reserve(self.appetite);
        let limit = room.min(self.appetite);
        let mut space = (&mut self.buffer).limit(limit);
        let count = match poll_read_buf(Pin::new(&mut self.stream), cx, &mut space) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.buffer = BytesMut::new();
                return Poll::Pending;
            }
        };
        if count == self.appetite {
            self.appetite = LARGEST.min(self.appetite * 2);
        } else if count < self.appetite / 4 {
            self.appetite /= 2;
        }
        Poll::Ready(Ok(self.buffer.split().freeze()))
    }
}

impl<S: Stream> Leg for Socket<S> {
    const CREDITED: bool = false;

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.stream.poll_readable(cx)?.is_pending() {
            if self.buffer.capacity() > 0 {
                self.buffer = BytesMut::new();
            }
            return Poll::Pending;
        }
        Poll::Ready(Ok(self.appetite))
    }

    fn poll_take(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Bytes>> {
        if self.appetite <= SCRATCH { self.poll_read_small(cx, room) } else { self.poll_read_large(cx, room) }
    }

    fn credit(&mut self, _count: usize) {}

    fn poll_room(&mut self, _cx: &mut Context<'_>, wanted: usize, credited: bool) -> Poll<io::Result<usize>> {
        // Uncredited bytes are held back by not reading them; `poll_push` waits for the socket.
        if credited || self.outbox.len() == 0 { Poll::Ready(Ok(wanted)) } else { Poll::Pending }
    }

    fn decline_room(&mut self) {}

    fn give(&mut self, bytes: Bytes) -> io::Result<usize> {
        self.outbox.push(bytes);
        Ok(0)
    }

    fn backlog(&self) -> usize {
        self.outbox.len()
    }

    fn is_blocked(&self) -> bool {
        self.outbox.is_blocked()
    }

    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.outbox.len() > 0 {
            self.unflushed = true;
            return self.outbox.poll_write(&mut self.stream, cx);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(0))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.stream).poll_shutdown(cx)) {
            // The application had closed both directions already.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            done => Poll::Ready(done),
        }
    }

    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    fn fail(&mut self) {
        self.stream.reset();
    }
}
