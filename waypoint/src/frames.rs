// SPDX-License-Identifier: Apache-2.0
//! The frames of a client of HTTP/2, seen from outside: those that cost the server something and carry nothing for it are
//! counted, and whoever sends too many of them is no client (CVE-2019-9512, -9513, -9515, -9518, CVE-2023-44487,
//! CVE-2024-27316). What is inside a frame is `h2`'s business. Heads that `h2` answers by itself, because they are too large, are
//! known by that: nobody else was given them.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::framing::TRAILERS;

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

/// Streams of one connection that are kept in mind until they are given out; a client has fewer, unless it does not care.
const WAITING: usize = 1024;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

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
    /// HEADERS after a body, larger than trailers may be in either version.
    Trailers,
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
            Self::Trailers => "trailers",
        }
    }
}

/// Streams that a client has begun and that nobody was given yet.
#[derive(Clone, Debug, Default)]
pub struct Waiting(Arc<Mutex<VecDeque<u32>>>);

impl Waiting {
    fn begin(&self, stream: u32) {
        let mut all = self.0.lock();
        if all.len() >= WAITING {
            all.pop_front();
        }
        all.push_back(stream);
    }

    /// A stream is given out: what is answered from here on is our word. Says whether it was waiting.
    pub fn give_out(&self, stream: u32) -> bool {
        let mut all = self.0.lock();
        let at = all.iter().position(|known| *known == stream);
        at.and_then(|at| all.remove(at)).is_some()
    }
}

/// Of a frame.
#[derive(Clone, Copy, Debug)]
struct Header {
    length: usize,
    sort: u8,
    flags: u8,
    stream: u32,
}

/// Bytes of one direction, cut into frames.
#[derive(Debug)]
struct Cut {
    /// Bytes to pass before the next frame.
    skip: usize,
    header: Vec<u8>,
}

impl Cut {
    fn new(skip: usize) -> Self {
        Self { skip, header: Vec::with_capacity(HEADER) }
    }

    /// The header that ends next, and what comes after it is left; none when the bytes are at an end.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Header> {
        let skipped = self.skip.min(bytes.len());
        self.skip -= skipped;
        *bytes = bytes.get(skipped..).unwrap_or_default();
        let wanted = (HEADER - self.header.len()).min(bytes.len());
        let (head, rest) = bytes.split_at_checked(wanted).unwrap_or_default();
        self.header.extend(head);
        *bytes = rest;
        let [one, two, three, sort, flags, four, five, six, seven] = self.header[..] else { return None };
        self.header.clear();
        self.skip = usize::from(one) << 16 | usize::from(two) << 8 | usize::from(three);
        let stream = u32::from_be_bytes([four & 0x7f, five, six, seven]);
        Some(Header { length: self.skip, sort, flags, stream })
    }
}

/// See the module.
#[derive(Debug)]
pub struct Frames {
    cut: Cut,
    continuations: u32,
    purse: f64,
    filled: Duration,
    waiting: Waiting,
    newest: u32,
    /// Bytes of trailers so far, if the block of fields is of some.
    trailers: Option<usize>,
}

impl Default for Frames {
    fn default() -> Self {
        Self {
            cut: Cut::new(PREFACE),
            continuations: 0,
            purse: AT_ONCE,
            filled: Duration::ZERO,
            waiting: Waiting::default(),
            newest: 0,
            trailers: None,
        }
    }
}

impl Frames {
    /// Looks at more bytes, at a time that never goes back.
    ///
    /// # Errors
    /// When it is too much.
    pub fn look(&mut self, mut bytes: &[u8], now: Duration) -> Result<(), Flood> {
        while let Some(header) = self.cut.next(&mut bytes) {
            self.frame(header, now)?;
        }
        Ok(())
    }

    /// So much was sent to the client.
    pub fn sent(&mut self, bytes: usize) {
        self.purse = (self.purse + bytes as f64 / BYTES).min(AT_ONCE);
    }

    fn frame(&mut self, header: Header, now: Duration) -> Result<(), Flood> {
        const FIRST_FLAG: u8 = 1;
        let flood = match header.sort {
            CONTINUATION => {
                self.continuations += 1;
                self.block(header.length)?;
                return if self.continuations > CONTINUATIONS { Err(Flood::Continuation) } else { Ok(()) };
            }
            HEADERS => {
                self.continuations = 0;
                let begins = header.stream > self.newest;
                if begins {
                    self.newest = header.stream;
                    self.waiting.begin(header.stream);
                }
                self.trailers = (!begins).then_some(0);
                return self.block(header.length);
            }
            PING if header.flags & FIRST_FLAG == 0 => Flood::Ping,
            SETTINGS if header.flags & FIRST_FLAG == 0 => Flood::Settings,
            PRIORITY => Flood::Priority,
            DATA if header.length == 0 && header.flags & FIRST_FLAG == 0 => Flood::Empty,
            10.. => Flood::Unknown,
            // RST_STREAM, GOAWAY, WINDOW_UPDATE, acknowledgements, DATA: bounded by what they are about.
            _ => {
                self.continuations = 0;
                return Ok(());
            }
        };
        let earned = now.saturating_sub(self.filled).as_secs_f64() * PER_SECOND;
        (self.purse, self.filled) = ((self.purse + earned).min(AT_ONCE) - 1.0, now);
        if self.purse < 0.0 { Err(flood) } else { Ok(()) }
    }

    /// More of a block of fields. Of trailers that are too large `h2` passes on what fits, as if it were all: they end here.
    fn block(&mut self, length: usize) -> Result<(), Flood> {
        let Some(taken) = &mut self.trailers else { return Ok(()) };
        *taken += length;
        if *taken > TRAILERS { Err(Flood::Trailers) } else { Ok(()) }
    }
}

/// A client's connection whose frames are counted; it ends at a flood.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    frames: Frames,
    answers: Cut,
    since: Instant,
}

impl<S> Watched<S> {
    /// Of a connection that begins; and what waits of it.
    pub fn new(stream: S) -> (Self, Waiting) {
        let frames = Frames::default();
        let waiting = frames.waiting.clone();
        (Self { stream, frames, answers: Cut::new(0), since: Instant::now() }, waiting)
    }

    /// Looks at what is sent to the client.
    fn sent(&mut self, mut bytes: &[u8]) {
        self.frames.sent(bytes.len());
        while let Some(header) = self.answers.next(&mut bytes) {
            let refused =
                matches!(header.sort, HEADERS | RESET) && self.frames.waiting.give_out(header.stream);
            // What is refused for another reason has no answer.
            if refused && header.sort == HEADERS {
                metrics::counter!("ambit_attacks_total", "kind" => "head_too_large").increment(1);
            }
        }
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
        self.sent(buf.get(..sent).unwrap_or_default());
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
        of_stream(1, sort, flags, payload)
    }

    fn of_stream(stream: u8, sort: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], sort, flags, 0, 0, 0, stream];
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
    fn trailers_are_bounded_however_they_are_cut_and_heads_are_not_measured_here() {
        for (sizes, expected) in [
            (vec![TRAILERS], Ok(())),
            (vec![TRAILERS + 1], Err(Flood::Trailers)),
            (vec![TRAILERS - 5, 5], Ok(())),
            (vec![TRAILERS - 5, 5, 1], Err(Flood::Trailers)),
        ] {
            let mut frames = after_preface();
            frames.look(&frame(HEADERS, 0, 60 << 10), Duration::ZERO).unwrap();
            frames.look(&frame(CONTINUATION, 4, 60 << 10), Duration::ZERO).unwrap();
            frames.look(&frame(DATA, 0, 10), Duration::ZERO).unwrap();
            let sorts = std::iter::once(HEADERS).chain(std::iter::repeat(CONTINUATION));
            let looked = sizes
                .iter()
                .zip(sorts)
                .try_for_each(|(size, sort)| frames.look(&frame(sort, 1, *size), Duration::ZERO));
            assert_eq!(looked, expected, "{sizes:?}");
            let next = frames.look(&of_stream(3, HEADERS, 5, 60 << 10), Duration::ZERO);
            assert_eq!(next, Ok(()), "the head of the next stream");
        }
    }

    #[test]
    fn what_is_answered_before_anybody_was_given_it_is_known() {
        let mut frames = after_preface();
        for stream in [1, 3, 5] {
            frames.look(&of_stream(stream, HEADERS, 5, 10), Duration::ZERO).unwrap();
        }
        frames.look(&of_stream(3, HEADERS, 5, 10), Duration::ZERO).unwrap();
        let told = [3, 3, 1, 7, 5, 5].map(|stream| frames.waiting.give_out(stream));
        assert_eq!(told, [true, false, true, false, true, false]);
        for stream in 0..WAITING as u32 * 2 {
            frames.waiting.begin(stream);
        }
        assert_eq!(frames.waiting.0.lock().len(), WAITING);
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
