// SPDX-License-Identifier: Apache-2.0
//! Between HTTP/2 and the stream below: gathers the frames of one turn of the driver into one write. `h2` flushes after
//! every DATA frame of 1 KiB or more; each flush would be a TLS record and a system call.

use crate::link::Link;
use parking_lot::Mutex;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: the payload of one TLS record. More goes straight through.
const GATHER: usize = 16 * 1024;

#[derive(Debug)]
struct Line<S> {
    stream: S,
    gathered: Vec<u8>,
    written: usize,
    unflushed: bool,
    link: Arc<Link>,
}

/// The end given to `h2`.
#[derive(Debug)]
pub(crate) struct Wire<S>(Arc<Mutex<Line<S>>>);

/// The end of the driver, which decides when gathered frames leave. One task uses both, so the lock is never waited for.
#[derive(Debug)]
pub(crate) struct Flusher<S>(Arc<Mutex<Line<S>>>);

pub(crate) fn wire<S>(stream: S, link: Arc<Link>) -> (Wire<S>, Flusher<S>) {
    let line = Line { stream, gathered: Vec::new(), written: 0, unflushed: false, link };
    let line = Arc::new(Mutex::new(line));
    (Wire(Arc::clone(&line)), Flusher(line))
}

impl<S: AsyncWrite + Unpin> Line<S> {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.gathered.len() - self.written;
            if waiting + bytes.len() <= GATHER {
                self.gathered.extend_from_slice(bytes);
                return Poll::Ready(Ok(bytes.len()));
            }
            self.unflushed = true;
            let stream = Pin::new(&mut self.stream);
            if waiting == 0 {
                let count = ready!(stream.poll_write(cx, bytes))?;
                self.link.add_moved(count);
                return Poll::Ready(Ok(count));
            }
            let ahead = self.gathered.get(self.written..).unwrap_or_default();
            let both = [IoSlice::new(ahead), IoSlice::new(bytes)];
            let count = ready!(stream.poll_write_vectored(cx, &both))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.link.add_moved(count);
            self.advance(count.min(waiting));
            if count > waiting {
                return Poll::Ready(Ok(count - waiting));
            }
        }
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        if self.written >= self.gathered.len() {
            self.gathered.clear();
            self.written = 0;
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(waiting) = self.gathered.get(self.written..).filter(|waiting| !waiting.is_empty()) {
            self.unflushed = true;
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, waiting))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.link.add_moved(count);
            self.advance(count);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        if self.gathered.capacity() > 0 && self.link.streams() == 0 {
            self.gathered = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Flusher<S> {
    /// Sends what was gathered. Pending registers for the stream to become writable.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut line = self.0.lock();
        let before = buf.filled().len();
        ready!(Pin::new(&mut line.stream).poll_read(cx, buf))?;
        line.link.add_moved(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

// Not vectored for `h2`: it then encodes frames of less than 1 KiB into its own buffer, many per write.
impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, buf)
    }

    /// Does nothing: the driver flushes at the end of its turn.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut line = self.0.lock();
        ready!(line.poll_flush(cx))?;
        Pin::new(&mut line.stream).poll_shutdown(cx)
    }
}
