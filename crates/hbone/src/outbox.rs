// SPDX-License-Identifier: Apache-2.0
//! Bytes on their way into a socket that may not take them yet, in as few writes and as little memory as possible.

use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Slices given to one vectored write.
const SLICES: usize = 32;

/// While the socket does not take more, chunks up to this size are copied together. A received chunk is a slice of the
/// connection's read buffer: kept as it is, a byte could hold on to a thousand times its size.
const SMALL: usize = 8 * 1024;

/// Small chunks are gathered into pieces of this size.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: VecDeque<Bytes>,
    /// Behind the queue: small chunks copied together.
    tail: BytesMut,
    len: usize,
    blocked: bool,
}

impl Outbox {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether the last write had to wait.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.len += bytes.len();
        if self.blocked && bytes.len() <= SMALL {
            self.tail.extend_from_slice(&bytes);
            if self.tail.len() >= PIECE {
                self.seal();
            }
        } else {
            self.seal();
            self.queue.push_back(bytes);
        }
    }

    fn seal(&mut self) {
        if !self.tail.is_empty() {
            self.queue.push_back(std::mem::take(&mut self.tail).freeze());
        }
    }

    /// One write; says how many bytes the socket took. Pending registers for the socket to become writable.
    pub(crate) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.queue.is_empty() {
            self.seal();
        }
        self.blocked = true;
        let count = ready!(self.poll_write_queue(socket, cx))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.blocked = false;
        self.advance(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_queue<W: AsyncWrite + Unpin>(
        &self,
        socket: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let socket = Pin::new(socket);
        match self.queue.front() {
            Some(only) if self.queue.len() == 1 => socket.poll_write(cx, only),
            _ => {
                let mut slices = [IoSlice::new(&[]); SLICES];
                for (slice, bytes) in slices.iter_mut().zip(&self.queue) {
                    *slice = IoSlice::new(bytes);
                }
                let used = slices.get(..self.queue.len()).unwrap_or(&slices);
                socket.poll_write_vectored(cx, used)
            }
        }
    }

    fn advance(&mut self, mut count: usize) {
        self.len -= count;
        while count > 0 {
            let Some(front) = self.queue.front_mut() else { return };
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.queue.pop_front();
        }
        if self.queue.capacity() > SLICES && self.queue.is_empty() {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, DuplexStream, duplex};

    fn write(outbox: &mut Outbox, socket: &mut DuplexStream) -> Poll<usize> {
        let mut cx = Context::from_waker(futures_util::task::noop_waker_ref());
        outbox.poll_write(socket, &mut cx).map(Result::unwrap)
    }

    #[tokio::test]
    async fn bytes_leave_in_order_whatever_their_sizes_and_however_much_the_socket_takes() {
        let mut outbox = Outbox::default();
        let (mut expected, mut received) = (Vec::new(), Vec::new());
        let (mut socket, mut reader) = duplex(1000);
        for round in 0..400 {
            let len = [1, 7, 300, SMALL, SMALL + 1, PIECE][round % 6];
            let bytes = vec![u8::try_from(round % 251).unwrap(); len];
            expected.extend_from_slice(&bytes);
            outbox.push(bytes.into());
            assert_eq!(write(&mut outbox, &mut socket).is_pending(), outbox.is_blocked());
            let mut some = [0; 700];
            let count = reader.read(&mut some).await.unwrap();
            received.extend_from_slice(&some[..count]);
        }
        let rest = async move {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await.unwrap();
            rest
        };
        let all = async {
            while outbox.len() > 0 {
                std::future::poll_fn(|cx| outbox.poll_write(&mut socket, cx)).await.unwrap();
            }
            drop(socket);
        };
        let (rest, ()) = tokio::join!(rest, all);
        received.extend(rest);
        assert!(received == expected, "{} bytes of {}", received.len(), expected.len());
    }

    #[test]
    fn small_chunks_behind_a_blocked_socket_do_not_hold_on_to_their_buffers() {
        let mut outbox = Outbox::default();
        let (mut socket, _reader) = duplex(1);
        outbox.push(Bytes::from_static(b"ab"));
        assert_eq!(write(&mut outbox, &mut socket), Poll::Ready(1));
        assert_eq!(write(&mut outbox, &mut socket), Poll::Pending);
        let shared = Bytes::from(vec![1; 1024 * 1024]);
        for start in 0..10_000 {
            outbox.push(shared.slice(start..=start));
        }
        assert!(shared.is_unique());
        assert_eq!(outbox.len(), 10_001);
        assert!(outbox.queue.len() <= 2);
    }
}
