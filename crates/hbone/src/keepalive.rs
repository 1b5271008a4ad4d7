// SPDX-License-Identifier: Apache-2.0
//! Asks the peer for a sign of life and says when it stays silent.

use crate::settings::Keepalive;
use h2::{Ping, PingPong};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep};

/// The peer did not answer a PING in time.
#[derive(Debug)]
pub(crate) struct Silent;

#[derive(Debug)]
pub(crate) struct Heartbeat {
    pings: Option<PingPong>,
    rhythm: Keepalive,
    timer: Pin<Box<Sleep>>,
    asked: bool,
}

impl Heartbeat {
    pub(crate) fn new(pings: Option<PingPong>, rhythm: Keepalive) -> Self {
        Self { pings, rhythm, timer: Box::pin(tokio::time::sleep(rhythm.first)), asked: false }
    }

    /// Ready only when the peer is silent. A connection that is closing answers no PING; its own end tells.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Silent> {
        loop {
            let Some(pings) = &mut self.pings else { return Poll::Pending };
            if self.asked {
                match pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => self.wait(false, self.rhythm.interval),
                    Poll::Ready(Err(_)) => self.pings = None,
                    Poll::Pending => {
                        ready!(self.timer.as_mut().poll(cx));
                        return Poll::Ready(Silent);
                    }
                }
            } else {
                ready!(self.timer.as_mut().poll(cx));
                match pings.send_ping(Ping::opaque()) {
                    Ok(()) => self.wait(true, self.rhythm.timeout),
                    Err(_) => self.pings = None,
                }
            }
        }
    }

    fn wait(&mut self, asked: bool, span: std::time::Duration) {
        self.asked = asked;
        self.timer.as_mut().reset(Instant::now() + span);
    }
}
