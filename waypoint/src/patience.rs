// SPDX-License-Identifier: Apache-2.0
//! How long a client of HTTP/1 is waited for: long before it begins a head, not long from its first byte to its last. So a
//! connection may rest, but none is held by a head that comes drop by drop (slow loris). And what of its bytes is let through: from
//! a flaw in them on, nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::framing::Framing;

/// What follows a flaw: the end of a head, because a head that came in pieces is looked at only when it is whole.
const END: &[u8] = b"\r\n\r\n";

/// When the first byte of the head came that is waited for.
#[derive(Clone, Debug, Default)]
struct FirstByte(Arc<Mutex<Option<Instant>>>);

/// What hyper measures a head with: its deadline is the end of the rest, the head's own is `head` after its first byte.
#[derive(Clone, Debug)]
pub struct Patience {
    first: FirstByte,
    head: Duration,
}

/// A stream that notes when something comes.
#[derive(Debug)]
pub struct Noted<S> {
    stream: S,
    first: FirstByte,
    framing: Framing,
    /// After a flaw: what is still to be read instead of the client's bytes.
    instead: Option<&'static [u8]>,
}

/// A stream, and the timer that belongs to it.
pub fn patience<S>(stream: S, head: Duration) -> (Noted<S>, Patience) {
    let first = FirstByte::default();
    let noted = Noted { stream, first: first.clone(), framing: Framing::default(), instead: None };
    (noted, Patience { first, head })
}

impl Patience {
    /// Whether something came since the last head was whole: a connection whose time is over without that has only rested.
    pub fn has_begun(&self) -> bool {
        self.first.0.lock().is_some()
    }
}

struct Waiting {
    first: FirstByte,
    head: Duration,
    sleep: Pin<Box<tokio::time::Sleep>>,
    begun: bool,
}

impl Timer for Patience {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(Instant::now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        *self.first.0.lock() = None;
        let sleep = Box::pin(tokio::time::sleep_until(deadline.into()));
        Box::pin(Waiting { first: self.first.clone(), head: self.head, sleep, begun: false })
    }
}

impl Future for Waiting {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let first = if self.begun { None } else { *self.first.0.lock() };
        if let Some(first) = first {
            self.begun = true;
            let deadline = (first + self.head).into();
            self.sleep.as_mut().reset(deadline);
        }
        self.sleep.as_mut().poll(cx)
    }
}

impl Sleep for Waiting {}

impl<S> Noted<S> {
    /// Looks at what came after `before`. A byte that no request may have takes the place of a flaw, so that whoever reads
    /// answers 400 as to any other broken request, and nothing of the client's comes after it.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let came = buf.filled().get(before..).unwrap_or_default();
        let looked = self.framing.look(came);
        let Err((at, flaw)) = looked else { return };
        metrics::counter!("ambit_attacks_total", "kind" => flaw.as_str()).increment(1);
        tracing::debug!(flaw = flaw.as_str(), "a client's request could be read in two ways");
        self.instead = Some(END);
        if let Some(byte) = buf.filled_mut().get_mut(before + at) {
            *byte = 0;
        }
        buf.set_filled(before + at + 1);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(rest) = self.instead {
            let (now, later) = rest.split_at(rest.len().min(buf.remaining()));
            buf.put_slice(now);
            self.instead = Some(later);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            return Poll::Ready(Ok(()));
        }
        self.first.0.lock().get_or_insert_with(Instant::now);
        self.check(buf, before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.framing.answered(buf);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
