// SPDX-License-Identifier: Apache-2.0
//! A signal that is raised once, for a group and all below it. Every task of the data path waits for one at each of its
//! turns: asking again must not take the locks of a cancellation token, which all threads share.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
};

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

#[derive(Clone, Debug)]
pub(super) struct Signal {
    /// Wakes.
    token: CancellationToken,
    /// Answers.
    flag: Arc<Flag>,
}

#[derive(Debug)]
struct Flag {
    raised: AtomicBool,
    parent: Option<Arc<Self>>,
}

impl Signal {
    pub(super) fn new() -> Self {
        Self { token: CancellationToken::new(), flag: Arc::new(Flag::below(None)) }
    }

    /// Raised when this one is, or by itself.
    pub(super) fn child(&self) -> Self {
        let flag = Flag::below(Some(Arc::clone(&self.flag)));
        Self { token: self.token.child_token(), flag: Arc::new(flag) }
    }

    pub(super) fn raise(&self) {
        // Before the token wakes anybody, who then looks at the flag.
        self.flag.raised.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.flag.is_raised()
    }

    /// Wakes whoever has polled it last when it is raised.
    pub(super) fn wake_up(&self) -> WaitForCancellationFutureOwned {
        self.token.clone().cancelled_owned()
    }

    /// Resolves when it is raised. Cancel-safe.
    pub(super) async fn raised(&self) {
        let mut cancelled = pin!(self.token.cancelled());
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            if self.is_raised() {
                return Poll::Ready(());
            }
            if registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
            registered = Some(cx.waker().clone());
            cancelled.as_mut().poll(cx)
        })
        .await;
    }
}

impl Flag {
    fn below(parent: Option<Arc<Self>>) -> Self {
        Self { raised: AtomicBool::new(false), parent }
    }

    fn is_raised(&self) -> bool {
        let mut lineage = std::iter::successors(Some(self), |flag| flag.parent.as_deref());
        lineage.any(|flag| flag.raised.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;

    use futures_util::task::noop_waker_ref;
    use tokio::task::JoinSet;

    use super::*;

    #[tokio::test]
    async fn whoever_waits_is_woken_also_when_a_signal_above_is_raised() {
        let top = Signal::new();
        let below = top.child().child();
        let mut waiting = JoinSet::new();
        let waiter = below.clone();
        waiting.spawn(async move { waiter.raised().await });
        // It registers at its first turn.
        tokio::task::yield_now().await;
        assert!(waiting.try_join_next().is_none() && !below.is_raised());
        top.raise();
        waiting.join_next().await.unwrap().unwrap();
        assert!(below.is_raised());
    }

    #[tokio::test]
    async fn a_signal_says_nothing_to_those_above_and_beside_it() {
        let top = Signal::new();
        let (one, other) = (top.child(), top.child());
        one.raise();
        one.raised().await;
        assert!(one.is_raised() && !top.is_raised() && !other.is_raised());
    }

    #[tokio::test]
    async fn a_wait_that_moves_to_another_task_wakes_that_one() {
        let signal = Signal::new();
        let waiter = signal.clone();
        let mut waiting = Box::pin(async move { waiter.raised().await });
        let mut nobody = Context::from_waker(noop_waker_ref());
        assert!(waiting.as_mut().poll(&mut nobody).is_pending());
        let mut moved = JoinSet::new();
        moved.spawn(waiting);
        tokio::task::yield_now().await;
        signal.raise();
        moved.join_next().await.unwrap().unwrap();
    }
}
