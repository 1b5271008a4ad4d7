// SPDX-License-Identifier: Apache-2.0
//! What is known of one client's connection: who it is, what it asked for. And the connection itself: a tunnel whose first
//! bytes may have been read already.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use ::proxy::ends::End;
use arcstr::ArcStr;
use bytes::{Buf, Bytes};
use hbone::{Stream, Tunnel};
use mesh::SpiffeId;
use plan::waypoint::Addressed;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// Facts of a connection.
#[derive(Debug)]
pub struct Link {
    /// The client's address.
    pub peer: SocketAddr,
    /// The identity that it proved.
    pub identity: SpiffeId,
    /// Who this waypoint is to it.
    pub own: SpiffeId,
    /// The client as labels see it.
    pub source: End,
    /// What it asked for.
    pub addressed: Addressed,
    /// In its own words.
    pub authority: ArcStr,
    /// Its number in the logs of both proxies.
    pub trace: u128,
}

/// A client's connection inside its tunnel. If it is dropped before its end was said, the client sees a failure.
#[derive(Debug)]
pub struct Inner {
    unread: Bytes,
    tunnel: Tunnel,
    answered: Answered,
}

/// That the last that was to be said to a client has been said: what follows is an end, and no failure.
#[derive(Clone, Debug, Default)]
pub struct Answered(Arc<AtomicBool>);

impl Answered {
    /// It has.
    pub fn note(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Inner {
    /// Of a tunnel of which nothing was read.
    pub fn new(tunnel: Tunnel) -> Self {
        Self { unread: Bytes::new(), tunnel, answered: Answered::default() }
    }

    /// A handle for whoever says the last.
    pub fn answered(&self) -> Answered {
        self.answered.clone()
    }

    /// Gives bytes back that were read to look at them.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// Reads more into a buffer; says how many bytes. 0: there is no more.
    ///
    /// # Errors
    /// When the tunnel has failed.
    pub async fn look(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.tunnel.read_buf(buffer).await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.tunnel.ledger().finished {
            return;
        }
        if self.answered.0.load(Ordering::Relaxed) {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Ok(())) = Pin::new(&mut self.tunnel).poll_shutdown(&mut cx) {
                return;
            }
        }
        self.tunnel.reset();
    }
}

impl AsyncRead for Inner {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.tunnel).poll_read(cx, buf);
        }
        let count = self.unread.len().min(buf.remaining());
        buf.put_slice(self.unread.get(..count).unwrap_or_default());
        self.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Inner {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tunnel).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tunnel).poll_shutdown(cx)
    }
}

impl Stream for Inner {
    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn reset(&mut self) {
        self.tunnel.reset();
    }
}

/// A client's connection with what is known of it.
#[derive(Debug)]
pub struct Linked {
    /// The facts.
    pub link: Arc<Link>,
    /// The bytes.
    pub inner: Inner,
}
