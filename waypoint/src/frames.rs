// SPDX-License-Identifier: Apache-2.0
//! The frames of a client of HTTP/2, seen from outside: those that cost the server something and carry nothing for it are
//! counted, and whoever sends too many of them is no client (CVE-2019-9512, -9513, -9515, -9518, CVE-2023-44487,
//! CVE-2024-27316). What is inside a frame is `h2`'s business.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Frames of one sort that may come at once …
const AT_ONCE: f64 = 400.0;
/// … and how many more each second …
const PER_SECOND: f64 = 50.0;
/// … and for each so many bytes that are sent to the client: gRPC pings with what it receives, to learn how much is on the way.
/// An acknowledgement alone is less than that.
const BYTES: f64 = 32.0;
/// CONTINUATION frames of one block of fields; the largest that is let in needs 4.
const CONTINUATIONS: u32 = 16;
/// Of a frame before its payload.
const HEADER: usize = 9;
/// Length of what a client sends before its first frame.
const PREFACE: usize = 24;

/// What a client does too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// PING.
    Ping,
    /// SETTINGS.
    Settings,
    /// PRIORITY.
    Priority,
    /// DATA without payload that ends nothing.
    Empty,
    /// CONTINUATION.
    Continuation,
    /// Of a sort that nobody knows.
    Unknown,
}

impl Flood {
    /// For the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping_flood",
            Self::Settings => "settings_flood",
            Self::Priority => "priority_flood",
            Self::Empty => "empty_frame_flood",
            Self::Continuation => "continuation_flood",
            Self::Unknown => "unknown_frame_flood",
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Frames {
    /// Bytes to pass before the next frame.
    skip: usize,
    header: Vec<u8>,
    continuations: u32,
    purse: f64,
    filled: Duration,
}

impl Default for Frames {
    fn default() -> Self {
        let header = Vec::with_capacity(HEADER);
        Self { skip: PREFACE, header, continuations: 0, purse: AT_ONCE, filled: Duration::ZERO }
    }
}

impl Frames {
    /// Looks at more bytes, at a time that never goes back.
    ///
    /// # Errors
    /// When it is too much.
    pub fn look(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Flood> {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = (HEADER - self.header.len()).min(bytes.len());
            let (head, rest) = bytes.split_at_checked(wanted).unwrap_or_default();
            self.header.extend(head);
            bytes = rest;
            if let [one, two, three, sort, flags, ..] = self.header[..]
                && self.header.len() == HEADER
            {
                self.skip = usize::from(one) << 16 | usize::from(two) << 8 | usize::from(three);
                self.header.clear();
                self.frame(sort, flags, now)?;
            }
        }
        Ok(())
    }

    /// So much was sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.purse = (self.purse + bytes as f64 / BYTES).min(AT_ONCE);
    }

    fn frame(&mut self, sort: u8, flags: u8, now: Duration) -> Result<(), Flood> {
        const DATA: u8 = 0;
        const PRIORITY: u8 = 2;
        const SETTINGS: u8 = 4;
        const PING: u8 = 6;
        const CONTINUATION: u8 = 9;
        const FIRST_FLAG: u8 = 1;
        let flood = match sort {
            CONTINUATION => {
                self.continuations += 1;
                return if self.continuations > CONTINUATIONS { Err(Flood::Continuation) } else { Ok(()) };
            }
            PING if flags & FIRST_FLAG == 0 => Flood::Ping,
            SETTINGS if flags & FIRST_FLAG == 0 => Flood::Settings,
            PRIORITY => Flood::Priority,
            DATA if self.skip == 0 && flags & FIRST_FLAG == 0 => Flood::Empty,
            10.. => Flood::Unknown,
            // HEADERS, RST_STREAM, GOAWAY, WINDOW_UPDATE, acknowledgements, DATA: bounded by what they are about.
            _ => {
                self.continuations = 0;
                return Ok(());
            }
        };
        let earned = now.saturating_sub(self.filled).as_secs_f64() * PER_SECOND;
        (self.purse, self.filled) = ((self.purse + earned).min(AT_ONCE) - 1.0, now);
        if self.purse < 0.0 { Err(flood) } else { Ok(()) }
    }
}

/// A client's connection whose frames are counted; it ends at a flood.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    frames: Frames,
    since: Instant,
}

impl<S> Watched<S> {
    /// Of a connection that begins.
    pub fn new(stream: S) -> Self {
        Self { stream, frames: Frames::default(), since: Instant::now() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let now = self.since.elapsed();
        let came = buf.filled().get(before..).unwrap_or_default();
        if let Err(flood) = self.frames.look(came, now) {
            metrics::counter!("ambit_attacks_total", "kind" => flood.as_str()).increment(1);
            return Poll::Ready(Err(io::Error::other(flood.as_str())));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.frames.sent(sent);
        Poll::Ready(Ok(sent))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(sort: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], sort, flags, 0, 0, 0, 1];
        bytes.resize(HEADER + payload, 7);
        bytes
    }

    fn after_preface() -> Frames {
        let mut frames = Frames::default();
        frames.look(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Duration::ZERO).unwrap();
        frames
    }

    /// How many of a frame are let in at once.
    fn let_in(frame: &[u8]) -> (u32, Flood) {
        let mut frames = after_preface();
        for number in 0..10_000 {
            if let Err(flood) = frames.look(frame, Duration::ZERO) {
                return (number, flood);
            }
        }
        panic!("10,000 are let in");
    }

    #[test]
    fn floods_are_told_by_their_frames() {
        for (bytes, flood) in [
            (frame(6, 0, 8), Flood::Ping),
            (frame(4, 0, 6), Flood::Settings),
            (frame(2, 0, 5), Flood::Priority),
            (frame(0, 0, 0), Flood::Empty),
            (frame(77, 0, 3), Flood::Unknown),
        ] {
            assert_eq!(let_in(&bytes), (400, flood));
        }
        assert_eq!(let_in(&frame(9, 0, 100)), (16, Flood::Continuation));
    }

    #[test]
    fn a_client_that_pings_with_what_it_receives_is_no_flood_and_one_that_only_pings_is() {
        let ping = frame(6, 0, 8);
        let let_in = |sent: usize| {
            let mut frames = after_preface();
            let mut ping = |_| {
                frames.sent(sent);
                frames.look(&ping, Duration::ZERO).is_ok()
            };
            (0..10_000).all(&mut ping)
        };
        let (acknowledgement, message) = (17, 9 + 5 + 10);
        assert!(let_in(acknowledgement + message));
        assert!(!let_in(acknowledgement));
    }

    #[test]
    fn ordinary_traffic_is_never_too_much() {
        let mut frames = after_preface();
        let mut all = Vec::new();
        for _ in 0..20_000 {
            for bytes in [frame(1, 4, 40), frame(0, 0, 100), frame(0, 1, 0), frame(8, 0, 4), frame(3, 0, 4)] {
                all.extend(bytes);
            }
            all.extend(frame(6, 1, 8));
        }
        for piece in all.chunks(977) {
            frames.look(piece, Duration::ZERO).unwrap();
        }
        for second in 0..1000 {
            for _ in 0..40 {
                frames.look(&frame(6, 0, 8), Duration::from_secs(second)).unwrap();
            }
        }
    }
}
