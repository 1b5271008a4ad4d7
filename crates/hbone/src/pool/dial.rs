// SPDX-License-Identifier: Apache-2.0
//! A dial under way: one task makes the connection, any number of callers wait for it.

use super::OpenError;
use crate::client::HandshakeError;
use crate::end::{Abort, Aborter, Cause, abort_pair};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Of a connection whose dial nobody remembers.
pub(super) const FORGOTTEN: Cause = Cause("dial superseded");

/// A dial's failure, for everyone who waited.
#[derive(Debug)]
pub(super) enum DialFailure<E> {
    Dial(Arc<E>),
    TimedOut(Duration),
    Handshake(Arc<HandshakeError>),
    Closed(Cause),
}

// Not derived: that would ask `E: Clone`.
impl<E> Clone for DialFailure<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Dial(source) => Self::Dial(Arc::clone(source)),
            Self::TimedOut(after) => Self::TimedOut(*after),
            Self::Handshake(source) => Self::Handshake(Arc::clone(source)),
            Self::Closed(cause) => Self::Closed(*cause),
        }
    }
}

impl<E: Error + 'static> From<DialFailure<E>> for OpenError<E> {
    fn from(failure: DialFailure<E>) -> Self {
        match failure {
            DialFailure::Dial(source) => Self::Dial { source },
            DialFailure::TimedOut(after) => Self::DialTimedOut { after },
            DialFailure::Handshake(source) => Self::Handshake { source },
            DialFailure::Closed(cause) => Self::Closed { cause },
        }
    }
}

type Outcome<E> = Option<Result<(), DialFailure<E>>>;

/// What the pool remembers of a dial.
#[derive(Debug)]
pub(super) struct Dial<E> {
    aborter: Aborter,
    outcome: watch::Receiver<Outcome<E>>,
    /// One reference each: this one, the dialling task's, and every waiting caller's.
    waiting: Arc<()>,
}

/// The dialling task's part.
#[derive(Debug)]
pub(super) struct Begun<E> {
    pub(super) abort: Abort,
    outcome: watch::Sender<Outcome<E>>,
    waiting: Arc<()>,
}

/// A waiting caller's part.
#[derive(Debug)]
pub(super) struct Waiting<E> {
    outcome: watch::Receiver<Outcome<E>>,
    /// Held to be counted.
    _place: Arc<()>,
}

impl<E> Dial<E> {
    pub(super) fn begin() -> (Self, Begun<E>) {
        let (aborter, abort) = abort_pair();
        let (sender, outcome) = watch::channel(None);
        let waiting = Arc::new(());
        let begun = Begun { abort, outcome: sender, waiting: Arc::clone(&waiting) };
        (Self { aborter, outcome, waiting }, begun)
    }

    pub(super) fn join(&self) -> Waiting<E> {
        Waiting { outcome: self.outcome.clone(), _place: Arc::clone(&self.waiting) }
    }

    /// Callers waiting for it.
    pub(super) fn waiting(&self) -> usize {
        Arc::strong_count(&self.waiting).saturating_sub(2)
    }

    pub(super) fn is(&self, begun: &Begun<E>) -> bool {
        Arc::ptr_eq(&self.waiting, &begun.waiting)
    }

    /// False when its task was dropped before it had an outcome.
    pub(super) fn is_alive(&self) -> bool {
        self.outcome.has_changed().is_ok()
    }

    pub(super) fn abort(&self, cause: Cause) {
        self.aborter.abort(cause);
    }
}

impl<E> Begun<E> {
    pub(super) fn announce(self, outcome: Result<(), DialFailure<E>>) {
        self.outcome.send_replace(Some(outcome));
    }
}

impl<E: Error + 'static> Waiting<E> {
    pub(super) async fn done(mut self) -> Result<(), OpenError<E>> {
        let outcome = self.outcome.wait_for(Option::is_some).await;
        match outcome.as_deref() {
            Ok(Some(outcome)) => Ok(outcome.clone()?),
            Ok(None) | Err(_) => Err(OpenError::Abandoned),
        }
    }
}
