// SPDX-License-Identifier: Apache-2.0
//! One leader among replicas, by a `Lease`: for work that only one may do. Who leads may be wrong for a moment (a clock that
//! stands still); what is written must bear that.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tokio::{sync::watch, time::Instant};

use crate::{
    api::Api,
    backoff::{Backoff, jitter},
    error::ApiError,
    resource::{Resource, Within},
};

const LEASES: Resource = Resource::new("coordination.k8s.io", "v1", "leases");
/// How often it is tried to give a lease back.
const RELEASES: usize = 5;

/// Which lease, and who we are.
#[derive(Clone, Debug)]
pub struct LeaseSettings {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Ours, of no other replica.
    pub identity: String,
    /// After so long without a renewal somebody else may take it.
    pub duration: Duration,
}

/// Whether we lead; cheap to clone.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Whether we lead now.
    pub fn is_mine(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until that changes; for ever once nobody tries any more.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until we lead.
    pub async fn won(&mut self) {
        if self.0.wait_for(|leads| *leads).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Tries to lead until `stop`, then gives the lease back.
pub fn lead(
    api: Api,
    settings: LeaseSettings,
    stop: impl Future<Output = ()> + Send,
) -> (Leadership, impl Future<Output = ()> + Send) {
    let (sender, receiver) = watch::channel(false);
    let candidate = Candidate { api, settings, leads: sender, held: None, seen: None };
    (Leadership(receiver), candidate.run(stop))
}

struct Candidate {
    api: Api,
    settings: LeaseSettings,
    leads: watch::Sender<bool>,
    /// When we last wrote that it is ours.
    held: Option<Instant>,
    /// The lease of another as it was last seen to change, and when that was: clocks of others are not compared with
    /// ours.
    seen: Option<(Option<String>, Instant)>,
}

impl Candidate {
    async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let pause = self.settings.duration / 5;
        loop {
            // No longer than until it would be lost, so that nobody leads who cannot say so.
            let attempt = tokio::time::timeout(self.settings.duration / 3, self.attempt());
            let attempted = tokio::select! {
                attempted = attempt => attempted,
                () = &mut stop => break,
            };
            match attempted {
                Ok(Ok(holds)) => self.set(holds),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "lease not renewed");
                    self.doubt();
                }
                Err(_elapsed) => self.doubt(),
            }
            tokio::select! {
                () = tokio::time::sleep(jitter(pause)) => {}
                () = &mut stop => break,
            }
        }
        self.release().await;
    }

    fn set(&mut self, holds: bool) {
        self.held = holds.then(Instant::now);
        let changed = self.leads.send_if_modified(|leads| std::mem::replace(leads, holds) != holds);
        if changed {
            let (lease, identity) = (&self.settings.name, &self.settings.identity);
            tracing::info!(%lease, %identity, leads = holds, "leadership changed");
        }
    }

    /// We do not know. Who wrote it long enough ago steps down before another can have it.
    fn doubt(&mut self) {
        let limit = self.settings.duration * 2 / 3;
        if self.held.is_none_or(|held| held.elapsed() >= limit) {
            self.set(false);
        }
    }

    /// Takes, renews or looks at the lease; whether it is ours.
    async fn attempt(&mut self) -> Result<bool, ApiError> {
        let path = LEASES.object(&self.settings.namespace, &self.settings.name);
        let written = match self.api.find::<Lease>(&path).await? {
            None => {
                let lease = self.lease(None, 0);
                let folder = LEASES.path(&Within::Namespace(self.settings.namespace.clone()));
                self.api.create(&folder, &lease).await
            }
            Some(found) if self.may_take(&found) => {
                let spec = found.spec.as_ref();
                let ours = spec.and_then(|spec| spec.holder_identity.as_deref());
                let transitions = spec.and_then(|spec| spec.lease_transitions).unwrap_or_default();
                let transitions = transitions + i32::from(ours != Some(&self.settings.identity));
                let lease = self.lease(Some(found), transitions);
                self.api.replace(&path, &lease).await
            }
            Some(_) => return Ok(false),
        };
        match written {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn may_take(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder.is_empty() || holder == self.settings.identity {
            return true;
        }
        let version = lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                let now = Instant::now();
                self.seen = Some((version, now));
                now
            }
        };
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        since.elapsed() > Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
    }

    fn lease(&self, before: Option<Lease>, transitions: i32) -> Lease {
        let now = Timestamp::now();
        let metadata = before.as_ref().map_or_else(
            || ObjectMeta {
                name: Some(self.settings.name.clone()),
                namespace: Some(self.settings.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata.clone(),
        );
        let spec = before.and_then(|lease| lease.spec).unwrap_or_default();
        let is_ours = spec.holder_identity.as_deref() == Some(&self.settings.identity);
        let acquired = if is_ours { spec.acquire_time } else { None };
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.settings.identity.clone()),
                lease_duration_seconds: i32::try_from(self.settings.duration.as_secs()).ok(),
                acquire_time: acquired.or(Some(MicroTime(now))),
                renew_time: Some(MicroTime(now)),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Nobody has to wait for a lease that is not used any more. That is worth some attempts: our last renewal, of which we
    /// did not wait for the end, may still be on its way and get there between our look and our word.
    async fn release(&mut self) {
        if !*self.leads.borrow() {
            return;
        }
        self.set(false);
        // A connection that is dead without a word must not take all of the time.
        let (whole, each) = (self.settings.duration / 5, self.settings.duration / 10);
        let attempts = async {
            let mut backoff = Backoff::new();
            for _ in 1..RELEASES {
                match tokio::time::timeout(each, self.give_back()).await {
                    Ok(Err(error)) if !error.is_conflict() && !error.is_outage() => return Err(error),
                    Ok(Ok(())) => return Ok(()),
                    Ok(Err(_)) | Err(_) => tokio::time::sleep(backoff.wait()).await,
                }
            }
            self.give_back().await
        };
        let lease = &self.settings.name;
        match tokio::time::timeout(whole, attempts).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%lease, %error, "lease not released, the next one waits for its end")
            }
            Err(_elapsed) => {
                tracing::warn!(%lease, after = ?whole, "lease not released, the next one waits for its end");
            }
        }
    }

    /// Writes that the lease is nobody's, if it is ours.
    async fn give_back(&self) -> Result<(), ApiError> {
        let path = LEASES.object(&self.settings.namespace, &self.settings.name);
        let Some(mut lease) = self.api.find::<Lease>(&path).await? else { return Ok(()) };
        let Some(spec) = lease.spec.as_mut() else { return Ok(()) };
        if spec.holder_identity.as_deref() != Some(&self.settings.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        spec.renew_time = None;
        self.api.replace(&path, &lease).await.map(drop)
    }
}
