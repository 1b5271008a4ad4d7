// SPDX-License-Identifier: Apache-2.0
//! Copies bytes both ways between two sides until both have ended, one has failed, or it is told to stop. One task does
//! both directions; its whole state is the plain data of [`Copying`]. What the bytes mean, it refuses to know.

use crate::end::{Abort, Cause};
use crate::tunnel::TunnelError;
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// Bytes gathered before a write to a socket that takes them.
const GATHER: usize = 64 * 1024;

/// Bytes moved in one direction before other tasks of the thread get a turn.
const TURN: usize = 1024 * 1024;

/// One side of a copy: a [`Tunnel`](crate::Tunnel) or a [`Socket`](crate::Socket).
pub trait Leg: Unpin + Send {
    /// Whether the peer sends no more than it was given credit for. Such bytes are taken even while the other side
    /// takes none, because they are bounded, and because unread frames cost more memory than their bytes.
    const CREDITED: bool;

    /// Ready when [`Self::poll_take`] is worth a try, with the most it would take.
    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// The next bytes from the peer, at most `room` of them if that can be chosen; empty at the end.
    fn poll_take(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<Bytes>>;

    /// Bytes taken from this side that reached the other one.
    fn credit(&mut self, count: usize);

    /// How many of the `wanted` bytes may be given; `credited` as in [`Self::CREDITED`] of the other side. Pending
    /// registers for more, unless [`Self::poll_push`] would.
    fn poll_room(&mut self, cx: &mut Context<'_>, wanted: usize, credited: bool) -> Poll<io::Result<usize>>;

    /// The room is not needed for now.
    fn decline_room(&mut self);

    /// Bytes for the peer; says how many are as good as sent.
    ///
    /// # Errors
    /// When the peer can take no more.
    fn give(&mut self, bytes: Bytes) -> io::Result<usize>;

    /// Bytes given that [`Self::poll_push`] still has to move.
    fn backlog(&self) -> usize;

    /// Whether the last push had to wait.
    fn is_blocked(&self) -> bool;

    /// Moves some of what was given; says how much. Pending registers for more.
    fn poll_push(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>>;

    /// Says to the peer that nothing more comes.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Ready when giving more is pointless, although reading did not say so.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;

    /// Ends both directions so that the peer sees a failure.
    fn fail(&mut self);
}

/// Byte counts of a copy, readable while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    /// Bytes from near to far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Bytes from far to near.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// A side of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The first one: who opened the connection.
    Near,
    /// The second one.
    Far,
}

/// How a copy ended.
#[derive(Debug)]
pub enum End {
    /// Both directions, in order.
    Finished,
    /// We ended it: by its [`Abort`], or by closing its tunnel's connection.
    Aborted(Cause),
    /// One side failed.
    Failed {
        /// Which.
        side: Side,
        /// Of its reading or writing.
        source: io::Error,
    },
}

/// What a copy did.
#[derive(Debug)]
pub struct Copied {
    /// Bytes from near to far.
    pub sent: u64,
    /// Bytes from far to near.
    pub received: u64,
    /// How it ended.
    pub end: End,
}

impl Copied {
    /// Whether any byte of payload reached the other side.
    pub fn delivered(&self) -> bool {
        self.sent > 0 || self.received > 0
    }
}

/// Copies between `near` (who opened the connection) and `far`. The counters may be read, and the abort fired, meanwhile.
/// When it ends otherwise than in order, both sides see a failure, never an orderly end.
pub fn copy<N: Leg, F: Leg>(near: N, far: F, counters: Arc<Counters>, abort: Abort) -> Copying<N, F> {
    Copying { near, far, counters, abort, outward: Progress::Open, inward: Progress::Open }
}

/// A copy under way. Dropping it ends both sides.
#[derive(Debug)]
#[must_use = "nothing is copied unless it is polled"]
pub struct Copying<N, F> {
    near: N,
    far: F,
    counters: Arc<Counters>,
    abort: Abort,
    outward: Progress,
    inward: Progress,
}

/// How far one direction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Open,
    /// The source has ended; what was taken is still on its way.
    Ended,
    /// The sink knows.
    Finished,
}

/// Why a direction stopped.
enum Broken {
    Source(io::Error),
    Sink(io::Error),
}

impl<N: Leg, F: Leg> Future for Copying<N, F> {
    type Output = Copied;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Copied> {
        let end = ready!(self.poll_end(cx));
        if !matches!(end, End::Finished) {
            self.near.fail();
            self.far.fail();
        }
        Poll::Ready(Copied { sent: self.counters.sent(), received: self.counters.received(), end })
    }
}

impl<N: Leg, F: Leg> Copying<N, F> {
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Poll::Ready(cause) = self.abort.poll_aborted(cx) {
            return Poll::Ready(End::Aborted(cause));
        }
        loop {
            let before = (self.outward, self.inward);
            let Self { near, far, counters, outward, inward, .. } = self;
            let mut pass = Pass { source: near, sink: far, moved: &counters.sent, turn: TURN };
            if let Poll::Ready(Err(broken)) = pass.poll(outward, cx) {
                return Poll::Ready(broken.seen_from(Side::Near, Side::Far));
            }
            let mut pass = Pass { source: far, sink: near, moved: &counters.received, turn: TURN };
            if let Poll::Ready(Err(broken)) = pass.poll(inward, cx) {
                return Poll::Ready(broken.seen_from(Side::Far, Side::Near));
            }
            match (*outward, *inward) {
                (Progress::Finished, Progress::Finished) => return Poll::Ready(End::Finished),
                now if now == before => return Poll::Pending,
                // What one direction waits for may depend on whether the other one has ended.
                _ => {}
            }
        }
    }
}

impl Broken {
    fn seen_from(self, source_side: Side, sink_side: Side) -> End {
        let (side, source) = match self {
            Self::Source(source) => (source_side, source),
            Self::Sink(source) => (sink_side, source),
        };
        match TunnelError::of(&source) {
            Some(TunnelError::Closed { cause }) => End::Aborted(*cause),
            _ => End::Failed { side, source },
        }
    }
}

/// Why taking from the source stopped.
#[derive(PartialEq, Eq)]
enum Supply {
    /// There may be more.
    More,
    /// There is none at present, or no room for it.
    Waiting,
    Ended,
}

/// One turn of one direction.
struct Pass<'a, S, T> {
    source: &'a mut S,
    sink: &'a mut T,
    moved: &'a AtomicU64,
    turn: usize,
}

impl<S: Leg, T: Leg> Pass<'_, S, T> {
    fn poll(&mut self, progress: &mut Progress, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while *progress != Progress::Finished {
            let supply = match progress {
                Progress::Open => match self.fill(cx) {
                    Err(Broken::Sink(error)) if is_enough(&error) => {
                        *progress = Progress::Finished;
                        break;
                    }
                    supply => supply?,
                },
                Progress::Ended | Progress::Finished => Supply::Ended,
            };
            if supply == Supply::Ended {
                *progress = Progress::Ended;
            }
            match self.sink.poll_push(cx).map_err(Broken::Sink)? {
                Poll::Ready(0) => match supply {
                    Supply::Ended => {
                        ready!(self.sink.poll_finish(cx)).or_else(unless_enough)?;
                        *progress = Progress::Finished;
                    }
                    Supply::Waiting => return self.poll_gone(progress, cx),
                    Supply::More => {}
                },
                Poll::Ready(count) => self.account(count),
                // Once more, now that the sink is known to be blocked: everything that is there is taken.
                Poll::Pending if supply == Supply::More => {}
                Poll::Pending => return Poll::Pending,
            }
            if self.turn == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Takes what is there, as long as the sink has room for it or is still to be given a first write.
    fn fill(&mut self, cx: &mut Context<'_>) -> Result<Supply, Broken> {
        let mut has_room = false;
        let supply = loop {
            if self.turn == 0 || (self.sink.backlog() >= GATHER && !self.sink.is_blocked()) {
                break Supply::More;
            }
            let Poll::Ready(wanted) = self.source.poll_source(cx).map_err(Broken::Source)? else {
                break Supply::Waiting;
            };
            let room = self.sink.poll_room(cx, wanted, S::CREDITED).map_err(Broken::Sink)?;
            let Poll::Ready(room) = room else { return Ok(Supply::Waiting) };
            has_room = true;
            let Poll::Ready(bytes) = self.source.poll_take(cx, room).map_err(Broken::Source)? else {
                break Supply::Waiting;
            };
            if bytes.is_empty() {
                break Supply::Ended;
            }
            let count = self.sink.give(bytes).map_err(Broken::Sink)?;
            self.account(count);
        };
        if has_room {
            self.sink.decline_room();
        }
        Ok(supply)
    }

    fn account(&mut self, count: usize) {
        if count > 0 {
            self.source.credit(count);
            self.turn = self.turn.saturating_sub(count);
            // Only this task writes: a plain store spares the locked instruction.
            let moved = self.moved.load(Ordering::Relaxed) + count as u64;
            self.moved.store(moved, Ordering::Relaxed);
        }
    }

    fn poll_gone(&mut self, progress: &mut Progress, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let error = ready!(self.sink.poll_gone(cx));
        unless_enough(error)?;
        *progress = Progress::Finished;
        Poll::Ready(Ok(()))
    }
}

fn is_enough(error: &io::Error) -> bool {
    TunnelError::of(error).is_some_and(TunnelError::is_enough)
}

fn unless_enough(error: io::Error) -> Result<(), Broken> {
    if is_enough(&error) { Ok(()) } else { Err(Broken::Sink(error)) }
}
