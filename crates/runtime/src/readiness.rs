// SPDX-License-Identifier: Apache-2.0
//! Answers whether the process is ready, and what it still waits for.

use std::{collections::BTreeMap, sync::Arc};

use ::http::StatusCode;
use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::http::{Response, respond};

/// The list of things that must have happened; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    pending: Arc<RwLock<BTreeMap<&'static str, usize>>>,
    reached: Arc<Notify>,
}

/// One thing to wait for. It may go back and forth; dropped while pending it stays pending.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
    open: bool,
}

impl Readiness {
    /// Ready at once, until something is named that is not.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names something that is pending from now on. Several gates may share a name: all of them must be ready.
    pub fn gate(&self, name: &'static str) -> Gate {
        *self.pending.write().entry(name).or_insert(0) += 1;
        Gate { name, readiness: self.clone(), open: false }
    }

    /// Whether nothing is pending.
    pub fn is_ready(&self) -> bool {
        self.pending.read().is_empty()
    }

    /// Resolves when nothing is pending. Cancel-safe.
    pub async fn reached(&self) {
        loop {
            let reached = self.reached.notified();
            tokio::pin!(reached);
            // Registered before the list is read, or the last gate could open in between.
            reached.as_mut().enable();
            if self.is_ready() {
                return;
            }
            reached.await;
        }
    }

    /// Names of what is pending, sorted.
    pub fn pending(&self) -> Vec<&'static str> {
        self.pending.read().keys().copied().collect()
    }

    /// The answer to a probe: 200, or 500 with the pending names.
    pub fn respond(&self) -> Response {
        let pending = self.pending();
        if pending.is_empty() {
            return respond::text(StatusCode::OK, "ready\n");
        }
        let body = format!("not ready, pending: {}\n", pending.join(", "));
        respond::text(StatusCode::INTERNAL_SERVER_ERROR, body)
    }
}

impl Gate {
    /// It has happened.
    pub fn ready(&mut self) {
        if !std::mem::replace(&mut self.open, true) {
            self.readiness.release(self.name);
        }
    }

    /// It is no longer so.
    pub fn pending(&mut self) {
        if std::mem::replace(&mut self.open, false) {
            *self.readiness.pending.write().entry(self.name).or_insert(0) += 1;
        }
    }
}

impl Readiness {
    fn release(&self, name: &'static str) {
        let mut pending = self.pending.write();
        if let Some(count) = pending.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                pending.remove(name);
            }
            if pending.is_empty() {
                self.reached.notify_waiters();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_gate_is() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let mut first = readiness.gate("state");
        let mut second = readiness.gate("state");
        let mut proxy = readiness.gate("proxy");
        assert_eq!(readiness.pending(), ["proxy", "state"]);
        first.ready();
        first.ready();
        proxy.ready();
        assert_eq!(readiness.pending(), ["state"], "two gates of one name are two gates");
        second.ready();
        assert!(readiness.is_ready());
        proxy.pending();
        assert_eq!(readiness.respond().status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert!(String::from_utf8_lossy(readiness.respond().body()).contains("pending: proxy"));
        proxy.ready();
        assert_eq!(readiness.respond().status(), StatusCode::OK);
    }

    #[test]
    fn a_gate_that_is_lost_before_it_opened_keeps_the_process_unready() {
        let readiness = Readiness::new();
        drop(readiness.gate("proxy"));
        assert_eq!(readiness.pending(), ["proxy"]);
    }

    #[tokio::test]
    async fn whoever_waits_is_told_when_the_last_gate_opens() {
        let readiness = Readiness::new();
        readiness.reached().await;
        let (mut first, mut second) = (readiness.gate("state"), readiness.gate("proxy"));
        let mut waiting = tokio::task::JoinSet::new();
        let waiter = readiness.clone();
        waiting.spawn(async move { waiter.reached().await });
        first.ready();
        tokio::task::yield_now().await;
        assert!(waiting.try_join_next().is_none());
        second.ready();
        waiting.join_next().await.unwrap().unwrap();
    }
}
