// SPDX-License-Identifier: Apache-2.0
//! A client that asks before it sends a body (`expect: 100-continue`): the body is not touched before the server has said
//! that it wants it, for touching it is what tells the client to send it. A server that says nothing gets it after a while
//! (RFC 9110 §10.1.1).

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use http::{HeaderMap, Request, StatusCode, header::EXPECT};
use hyper::ext::on_informational;
use tokio::time::Sleep;

use crate::body::Body;

/// A server that does not answer the question by then is taken to want the body.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Word {
    said: AtomicBool,
    waiting: AtomicWaker,
}

/// What a body waits for.
#[derive(Debug)]
pub struct Wanted {
    word: Arc<Word>,
    sleep: Pin<Box<Sleep>>,
}

/// Whether the client waits to be told.
pub fn is_expected(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Has the body of a request to a server of HTTP/1 wait for the server's word.
pub fn wait(request: &mut Request<Body>) {
    if !is_expected(request.headers()) {
        return;
    }
    let word = Arc::new(Word::default());
    let said = Arc::clone(&word);
    on_informational(request, move |told| {
        if told.status() == StatusCode::CONTINUE {
            said.said.store(true, Ordering::Release);
            said.waiting.wake();
        }
    });
    request.body_mut().wait_for(Wanted { word, sleep: Box::pin(tokio::time::sleep(PATIENCE)) });
}

impl Wanted {
    /// Ready when the body is wanted.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.word.waiting.register(cx.waker());
        if self.word.said.load(Ordering::Acquire) {
            return Poll::Ready(());
        }
        self.sleep.as_mut().poll(cx)
    }
}
