// SPDX-License-Identifier: Apache-2.0
//! ZDS, the agent's end: every connected ztunnel is told which pods to serve. `roster` decides what to say, `link` says
//! it, `packet` moves it; here is the handle through which the rest of the agent announces and withdraws.

pub mod link;
pub mod packet;
pub mod roster;

use std::{error::Error, sync::Arc, time::Duration};

use parking_lot::Mutex;
use runtime::Tasks;
use tokio::sync::{Semaphore, watch};

use self::{
    packet::{Listener, Packets},
    roster::{LinkId, Roster, Standing, Workload},
};
use crate::{metrics, pod::Uid};

/// Connections at one time; two is an upgrade, more is a fault.
const MAX_LINKS: usize = 8;
/// Pause after an accept that failed for want of descriptors.
const PAUSE: Duration = Duration::from_secs(1);

/// Who should be served, shared by everybody who announces and every link that tells. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Announcements {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    roster: Mutex<Roster>,
    version: watch::Sender<u64>,
}

/// Why no ztunnel serves a pod yet. It stays announced: the next ztunnel, or the next attempt, may still do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unserved {
    /// Nobody to ask.
    #[error("no ztunnel connected")]
    NoZtunnel,
    /// Its answer.
    #[error("ztunnel refused the pod: {error}")]
    Refused {
        /// In ztunnel's words.
        error: String,
    },
    /// No answer so far.
    #[error("ztunnel has not answered")]
    Silent,
    /// Withdrawn meanwhile.
    #[error("the pod was withdrawn")]
    Withdrawn,
}

impl Announcements {
    /// An empty roster.
    pub fn new() -> Self {
        let shared = Shared { roster: Mutex::new(Roster::default()), version: watch::Sender::new(0) };
        Self { shared: Arc::new(shared) }
    }

    /// Announces a workload and waits until a ztunnel has answered, or for `patience` while none is connected.
    ///
    /// # Errors
    /// When no ztunnel serves it by then; it stays announced and is retried.
    pub async fn announce(&self, workload: Workload, patience: Duration) -> Result<(), Unserved> {
        let uid = workload.uid.clone();
        let mut changes = self.changes();
        self.change(|roster| roster.announce(workload));
        let answered = changes.wait_for(|_| {
            let standing = self.read(|roster| roster.standing(&uid));
            !matches!(standing, Standing::Waiting | Standing::NoZtunnel)
        });
        let timely = tokio::time::timeout(patience, answered).await;
        drop(timely);
        self.served(&uid)
    }

    /// Announces without waiting.
    pub fn announce_later(&self, workload: Workload) {
        self.change(|roster| roster.announce(workload));
    }

    /// Withdraws a pod and waits until every connected ztunnel has let go of it, at most for `patience`. A ztunnel that
    /// does not answer by then is cut off by its link's own deadline, and forgets the pod at its next snapshot.
    pub async fn withdraw(&self, uid: &Uid, patience: Duration) {
        let mut changes = self.changes();
        self.change(|roster| roster.withdraw(uid));
        let released = changes.wait_for(|_| !self.read(|roster| roster.is_told(uid)));
        if tokio::time::timeout(patience, released).await.is_err() {
            tracing::warn!(%uid, "ztunnel has not let go of the pod");
        }
    }

    /// Whether a ztunnel serves a pod now.
    ///
    /// # Errors
    /// Why not.
    pub fn served(&self, uid: &Uid) -> Result<(), Unserved> {
        match self.read(|roster| roster.standing(uid)) {
            Standing::Acknowledged => Ok(()),
            Standing::Refused(error) => Err(Unserved::Refused { error }),
            Standing::Waiting => Err(Unserved::Silent),
            Standing::NoZtunnel => Err(Unserved::NoZtunnel),
            Standing::Unknown => Err(Unserved::Withdrawn),
        }
    }

    /// A counter that moves with every change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    fn read<T>(&self, read: impl FnOnce(&Roster) -> T) -> T {
        read(&self.shared.roster.lock())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Roster) -> T) -> T {
        let result = change(&mut self.shared.roster.lock());
        self.shared.version.send_modify(|version| *version += 1);
        result
    }

    fn connect(&self) -> Presence {
        let link = self.change(Roster::connect);
        metrics::ztunnels(self.read(Roster::connected));
        Presence { link, announcements: self.clone() }
    }
}

/// A ztunnel is in the roster for as long as this lives, whatever ends its link.
struct Presence {
    link: LinkId,
    announcements: Announcements,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.announcements.change(|roster| roster.disconnect(self.link));
        metrics::ztunnels(self.announcements.read(Roster::connected));
    }
}

impl Default for Announcements {
    fn default() -> Self {
        Self::new()
    }
}

/// Accepts ztunnels until the group is asked to finish. (The accept loop of `runtime` is for byte streams; this one is
/// for packets.)
pub async fn serve(listener: Listener, announcements: Announcements, tasks: Tasks) {
    let shutdown = tasks.shutdown();
    let slots = Arc::new(Semaphore::new(MAX_LINKS));
    metrics::ztunnels(0);
    loop {
        let accepted = tokio::select! {
            () = shutdown.requested() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(packets) => match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => {
                    let link = link(packets, announcements.clone(), tasks.clone());
                    drop(tasks.spawn("zds link", async move {
                        let _slot = slot;
                        link.await;
                    }));
                }
                Err(_full) => {
                    tracing::warn!(limit = MAX_LINKS, "too many ztunnels connected, the new one is cut off")
                }
            },
            Err(error) => {
                tracing::warn!(%error, "cannot accept a ztunnel, waiting");
                tokio::select! {
                    () = shutdown.requested() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
}

async fn link(packets: Packets, announcements: Announcements, tasks: Tasks) {
    tracing::info!("ztunnel connected");
    match link::serve(packets, announcements, tasks.shutdown()).await {
        Ok(()) => tracing::info!("ztunnel link closed"),
        Err(error) => {
            tracing::warn!(%error, cause = error.source().map(tracing::field::display), "ztunnel disconnected")
        }
    }
}

#[cfg(test)]
mod tests;
