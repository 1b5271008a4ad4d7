// SPDX-License-Identifier: Apache-2.0
//! The body of a request that may have to be sent again: what passes is kept, up to a bound. What is beyond it passes too,
//! but then the request is sent once only. It is kept as long as the rule of the route may have it sent again, or only until
//! an answer begins: from then on the server has looked at the request.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use crate::body::{Body, BodyError};

/// Bytes that are kept of one request.
const KEPT: usize = 64 * 1024;

/// The original, of which [`Replay`]s are made.
#[derive(Clone, Debug)]
pub struct Original(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    source: Body,
    kept: Vec<Bytes>,
    trailers: Option<http::HeaderMap>,
    bytes: usize,
    /// Pieces of those kept that the newest copy has passed on.
    passed: usize,
    /// The whole body was seen.
    ended: bool,
    /// It was too long, or broke, or need not be kept any more.
    lost: bool,
    /// How long it is kept.
    until: Until,
    /// Only the newest copy may take more.
    copies: u64,
}

/// How long a body is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// As long as there is somebody who can ask for a copy.
    Dropped,
    /// Until an answer begins.
    Answered,
}

/// One sending of the body.
#[derive(Debug)]
pub struct Replay {
    original: Original,
    number: u64,
    ended: bool,
}

impl Original {
    /// Of a body of which nothing was taken.
    pub fn new(source: Body) -> Self {
        Self::kept(source, Until::Dropped)
    }

    /// The same, kept until an answer begins.
    pub fn until_answered(source: Body) -> Self {
        Self::kept(source, Until::Answered)
    }

    fn kept(source: Body, until: Until) -> Self {
        let ended = source.is_end_stream();
        let (kept, trailers) = (Vec::new(), None);
        let (bytes, passed, copies) = (0, 0, 0);
        let state = State { source, kept, trailers, bytes, passed, ended, lost: false, until, copies };
        Self(Arc::new(Mutex::new(state)))
    }

    /// An answer has begun.
    pub fn answered(&self) {
        let mut state = self.0.lock();
        if state.until == Until::Answered {
            state.lost = true;
            state.let_go();
        }
    }

    /// Whether all of it can be sent (again).
    pub fn is_whole(&self) -> bool {
        !self.0.lock().lost
    }

    /// The body from its beginning. Copies that were made before get no more.
    pub fn copy(&self) -> Replay {
        let mut state = self.0.lock();
        state.copies += 1;
        state.passed = 0;
        let ended = state.ended && state.kept.is_empty() && state.trailers.is_none();
        Replay { original: self.clone(), number: state.copies, ended }
    }
}

impl State {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if let Some(bytes) = frame.data_ref() {
            self.bytes += bytes.len();
            if self.bytes > KEPT {
                self.lost = true;
                self.kept = Vec::new();
            } else if !self.lost {
                self.kept.push(bytes.clone());
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
        }
        self.ended |= self.source.is_end_stream();
        self.passed = self.kept.len();
    }

    /// Of what nobody will ask for again, the rest is still to be passed on.
    fn let_go(&mut self) {
        if self.lost && self.passed == self.kept.len() {
            self.kept = Vec::new();
            self.passed = 0;
        }
    }
}

impl Replay {
    /// What it is a copy of.
    pub fn original(&self) -> &Original {
        &self.original
    }

    /// The next piece.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let mut state = self.original.0.lock();
        if state.copies != self.number {
            return Poll::Ready(Some(Err(BodyError::Unwanted)));
        }
        if let Some(bytes) = state.kept.get(state.passed) {
            let bytes = bytes.clone();
            state.passed += 1;
            self.ended = state.ended && state.trailers.is_none() && state.passed == state.kept.len();
            state.let_go();
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        if state.ended {
            self.ended = true;
            return Poll::Ready(state.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        match Pin::new(&mut state.source).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                state.ended = true;
                self.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                state.lost = true;
                Poll::Ready(Some(Err(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                state.keep(&frame);
                self.ended = state.ended && (frame.is_trailers() || state.trailers.is_none());
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    /// Whether nothing follows.
    pub fn is_end_stream(&self) -> bool {
        self.ended
    }

    /// What is known of its length.
    pub fn size_hint(&self) -> SizeHint {
        let state = self.original.0.lock();
        let (rest, before) = (state.source.size_hint(), state.bytes as u64);
        if self.ended {
            return SizeHint::with_exact(0);
        }
        if state.passed > 0 {
            return SizeHint::default();
        }
        match rest.exact() {
            Some(exact) => SizeHint::with_exact(exact + before),
            None if state.ended => SizeHint::with_exact(before),
            None => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn read(mut replay: Replay) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(frame) = poll_fn(|cx| replay.poll(cx)).await {
            all.extend(frame.unwrap().into_data().unwrap());
        }
        all
    }

    #[tokio::test]
    async fn a_short_body_is_sent_as_often_as_it_takes() {
        let original = Original::new(Body::whole(Bytes::from_static(b"hello")));
        assert_eq!(original.copy().size_hint().exact(), Some(5));
        for _ in 0..3 {
            assert_eq!(read(original.copy()).await, b"hello");
            assert!(original.is_whole());
        }
    }

    #[tokio::test]
    async fn a_long_body_passes_once() {
        let long = vec![7; KEPT + 1];
        let original = Original::new(Body::whole(Bytes::from(long.clone())));
        assert_eq!(read(original.copy()).await, long);
        assert!(!original.is_whole());
    }

    #[tokio::test]
    async fn an_answer_ends_what_is_kept_for_a_server_that_has_not_looked() {
        for (original, kept) in [
            (Original::until_answered(Body::whole(Bytes::from_static(b"hello"))), false),
            (Original::new(Body::whole(Bytes::from_static(b"hello"))), true),
        ] {
            read(original.copy()).await;
            // Nothing of this copy has passed when the answer begins.
            let again = original.copy();
            original.answered();
            assert_eq!(original.is_whole(), kept);
            assert_eq!(read(again).await, b"hello");
            assert_eq!(original.0.lock().kept.is_empty(), !kept, "it is let go");
        }
    }

    #[tokio::test]
    async fn an_older_copy_gets_no_more() {
        let original = Original::new(Body::whole(Bytes::from_static(b"hello")));
        let mut older = original.copy();
        let _newer = original.copy();
        assert!(matches!(poll_fn(|cx| older.poll(cx)).await, Some(Err(BodyError::Unwanted))));
    }
}
