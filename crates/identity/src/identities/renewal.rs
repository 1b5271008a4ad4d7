// SPDX-License-Identifier: Apache-2.0
//! Carries out the schedule: asks the authority, checks the answer, publishes it, and sleeps until something is due.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{FetchError, Shared, State, Unavailable, schedule::Attempt};
use crate::{Certificate, PrivateKey, SigningRequest};

/// Longest sleep: the clock on the wall may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// The work behind [`super::Identities`]; somebody has to run it.
pub struct Renewal {
    shared: Arc<Shared>,
}

impl Renewal {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Fetches and renews until `shutdown` resolves. Afterwards there are no new certificates, the ones that are there
    /// stay in use.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        let mut attempts = FuturesUnordered::new();
        loop {
            let pause = {
                let mut book = self.shared.book.write();
                let now = self.shared.clock.now();
                while attempts.len() < self.shared.settings.concurrency.max(1)
                    && let Some(attempt) = book.schedule.start(now)
                {
                    attempts.push(self.fetch(attempt));
                }
                book.schedule.next(now).unwrap_or(LONGEST_SLEEP).min(LONGEST_SLEEP)
            };
            let full = attempts.len() >= self.shared.settings.concurrency.max(1);
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                Some((attempt, outcome)) = attempts.next() => self.settle(&attempt, outcome),
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep(pause), if !full => {}
            }
        }
    }

    async fn fetch(&self, attempt: Attempt) -> (Attempt, Result<Certificate, FetchError>) {
        let deadline = self.shared.settings.deadline;
        let fetched = tokio::time::timeout(deadline, self.certificate(&attempt)).await;
        (attempt, fetched.unwrap_or(Err(FetchError::Deadline(deadline))))
    }

    async fn certificate(&self, attempt: &Attempt) -> Result<Certificate, FetchError> {
        let identity = &attempt.identity;
        let key = PrivateKey::generate().map_err(FetchError::Key)?;
        let csr = key.csr(identity).map_err(FetchError::Key)?;
        let request =
            SigningRequest { csr, identity: identity.clone(), validity: self.shared.settings.validity };
        let chain = self.shared.authority.sign(request).await.map_err(FetchError::Authority)?;
        Certificate::issued(identity, &key, &chain, self.shared.clock.now()).map_err(FetchError::Certificate)
    }

    fn settle(&self, attempt: &Attempt, outcome: Result<Certificate, FetchError>) {
        let now = self.shared.clock.now();
        let identity = &attempt.identity;
        let mut book = self.shared.book.write();
        let Some(sender) = book.states.get(identity).cloned() else { return };
        match outcome {
            Ok(certificate) => {
                let life = (certificate.not_before(), certificate.not_after());
                if book.schedule.succeeded(attempt, life, now) {
                    tracing::info!(%identity, valid_for = ?certificate.remaining(now), "certificate issued");
                    sender.send_replace(State::Available(Arc::new(certificate)));
                }
            }
            Err(error) => {
                let in_use = super::valid(&sender.borrow(), now);
                let expiry = in_use.as_ref().map(|certificate| certificate.not_after());
                if !book.schedule.failed(attempt, expiry, rand::random_range(-1.0..=1.0), now) {
                    return;
                }
                let unavailable = Unavailable { identity: identity.clone(), cause: Arc::new(error) };
                let failed = State::Unavailable(unavailable);
                match in_use {
                    Some(certificate) => {
                        let left = certificate.remaining(now);
                        tracing::warn!(%identity, state = %failed, ?left, "certificate not renewed, the old one stays");
                    }
                    None => {
                        tracing::warn!(%identity, state = %failed, "no certificate");
                        sender.send_replace(failed);
                    }
                }
            }
        }
    }
}

impl std::fmt::Debug for Renewal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewal").finish_non_exhaustive()
    }
}
