// SPDX-License-Identifier: Apache-2.0
//! How something that runs is ended from outside, and the reason it is given. The reason is a fixed text of the caller,
//! which turns it into its own log and labels.

use futures_util::task::AtomicWaker;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

/// Why we ended something ourselves: a fixed text, compared by content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cause(pub &'static str);

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

#[derive(Debug, Default)]
struct Signal {
    cause: OnceLock<Cause>,
    waiting: AtomicWaker,
}

/// The sending side: ends what holds the [`Abort`]. Any number of clones; the first cause counts.
#[derive(Clone, Debug)]
pub struct Aborter(Arc<Signal>);

/// The receiving side. Without an [`Aborter`] left it never fires.
#[derive(Debug)]
pub struct Abort(Arc<Signal>);

/// A fresh pair.
pub fn abort_pair() -> (Aborter, Abort) {
    let signal = Arc::new(Signal::default());
    (Aborter(Arc::clone(&signal)), Abort(signal))
}

impl Aborter {
    /// Ends it, unless it was ended before; says whether this call did.
    pub fn abort(&self, cause: Cause) -> bool {
        let first = self.0.cause.set(cause).is_ok();
        self.0.waiting.wake();
        first
    }
}

impl Abort {
    /// The cause, once there is one.
    pub fn cause(&self) -> Option<Cause> {
        self.0.cause.get().copied()
    }

    /// Waits for the cause. One waiter at a time.
    pub fn poll_aborted(&mut self, cx: &mut Context<'_>) -> Poll<Cause> {
        if let Some(cause) = self.cause() {
            return Poll::Ready(cause);
        }
        self.0.waiting.register(cx.waker());
        self.cause().map_or(Poll::Pending, Poll::Ready)
    }

    /// Waits for the cause. Cancel-safe.
    pub async fn aborted(&mut self) -> Cause {
        std::future::poll_fn(|cx| self.poll_aborted(cx)).await
    }
}
