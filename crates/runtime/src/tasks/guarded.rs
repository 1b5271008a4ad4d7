// SPDX-License-Identifier: Apache-2.0
//! What every task of a group is wrapped in: it counts the task, catches its panic and ends it by force. Written by hand
//! because each connection pays for its size; an `async` block keeps several copies of what moves through it.

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::{FutureExt, future::CatchUnwind};
use pin_project_lite::pin_project;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Live, TaskError, panic_message};

pin_project! {
    /// A task of a group. It is the whole of what the runtime polls, so its waker never changes.
    pub(super) struct Guarded<F> {
        #[pin]
        work: CatchUnwind<AssertUnwindSafe<F>>,
        #[pin]
        wake_up: WaitForCancellationFutureOwned,
        registered: bool,
        // Last: the task is counted until its work is dropped.
        live: Live,
    }
}

impl<F: Future> Guarded<F> {
    pub(super) fn new(live: Live, future: F) -> Self {
        let wake_up = live.group.signals.forced.wake_up();
        Self { work: AssertUnwindSafe(future).catch_unwind(), wake_up, registered: false, live }
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = Result<F::Output, TaskError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let name = this.live.name;
        let mut forced = this.live.group.signals.forced.is_raised();
        if !*this.registered {
            *this.registered = true;
            forced |= this.wake_up.poll(cx).is_ready();
        }
        if forced {
            return Poll::Ready(Err(TaskError::Stopped { name }));
        }
        Poll::Ready(ready!(this.work.poll(cx)).map_err(|panic| {
            let message = panic_message(panic.as_ref());
            tracing::error!(owner = %this.live.group.owner, task = name, %message, "task panicked");
            TaskError::Panicked { name, message }
        }))
    }
}
