// SPDX-License-Identifier: Apache-2.0
//! Who should be served, and what each connected ztunnel has been told: a pure table from which the next message to a
//! link follows. It compares what is with what should be, so a lost link, a refusal or an upgrade needs no case of
//! its own. It knows no socket and no clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{netns::Netns, pod::Uid};

/// First wait after a refusal; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_millis(5);
const LONGEST_RETRY: Duration = Duration::from_secs(15);

/// A pod as ztunnel gets to know it.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Identity of the pod.
    pub uid: Uid,
    /// Name of the pod.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Service account of the pod.
    pub service_account: String,
    /// Its network namespace; none where it cannot be opened although the pod must be kept.
    pub netns: Option<Netns>,
}

/// One connected ztunnel. The larger is the newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(u64);

/// What to say next on a link.
#[derive(Clone, Debug)]
pub enum Message {
    /// Serve this workload; the number tells this announcement from a later one of the same pod.
    Add(Workload, u64),
    /// It is still there.
    Keep(Uid),
    /// Serve it no longer.
    Del(Uid),
    /// Everything that was there at connect has been said.
    SnapshotSent,
}

/// What a link should do now.
#[derive(Debug)]
pub enum Next {
    /// Say this and wait for the answer.
    Send(Message),
    /// Nothing before the table changes, or before this time.
    Idle(Option<Instant>),
}

/// How a pod stands with the ztunnels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A connected ztunnel serves it.
    Acknowledged,
    /// The newest ztunnel refused; it is asked again.
    Refused(String),
    /// A ztunnel is connected and has not answered yet.
    Waiting,
    /// Nobody is there to serve it.
    NoZtunnel,
    /// It was never announced, or withdrawn.
    Unknown,
}

/// The table.
#[derive(Debug, Default)]
pub struct Roster {
    pods: BTreeMap<Uid, Entry>,
    links: BTreeMap<LinkId, Link>,
    announcements: u64,
    connections: u64,
}

#[derive(Debug)]
struct Entry {
    workload: Workload,
    announcement: u64,
}

#[derive(Debug, Default)]
struct Link {
    snapshot_sent: bool,
    told: BTreeMap<Uid, Told>,
}

#[derive(Debug)]
struct Told {
    announcement: u64,
    refusal: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    error: String,
    times: u32,
    again: Instant,
}

impl Roster {
    /// Wants a workload served. Announcing the same one again asks again.
    pub fn announce(&mut self, workload: Workload) {
        self.announcements += 1;
        let entry = Entry { announcement: self.announcements, workload };
        self.pods.insert(entry.workload.uid.clone(), entry);
    }

    /// Wants a pod served no longer.
    pub fn withdraw(&mut self, uid: &Uid) {
        self.pods.remove(uid);
    }

    /// A ztunnel came, and said hello.
    pub fn connect(&mut self) -> LinkId {
        self.connections += 1;
        let link = LinkId(self.connections);
        self.links.insert(link, Link::default());
        link
    }

    /// A ztunnel went.
    pub fn disconnect(&mut self, link: LinkId) {
        self.links.remove(&link);
    }

    /// How many ztunnels are connected.
    pub fn connected(&self) -> usize {
        self.links.len()
    }

    /// How a pod stands.
    pub fn standing(&self, uid: &Uid) -> Standing {
        let Some(entry) = self.pods.get(uid) else { return Standing::Unknown };
        let mut standing = Standing::NoZtunnel;
        // From the oldest to the newest: the newest one's opinion counts, unless somebody already serves the pod.
        for link in self.links.values() {
            standing = match link.told.get(uid).filter(|told| told.announcement == entry.announcement) {
                None => Standing::Waiting,
                Some(Told { refusal: None, .. }) => return Standing::Acknowledged,
                Some(Told { refusal: Some(refusal), .. }) => Standing::Refused(refusal.error.clone()),
            };
        }
        standing
    }

    /// Whether any connected ztunnel may still serve a pod.
    pub fn is_told(&self, uid: &Uid) -> bool {
        self.links.values().any(|link| link.told.contains_key(uid))
    }

    /// What to say next on a link.
    pub fn next(&self, id: LinkId, now: Instant) -> Next {
        let Some(link) = self.links.get(&id) else { return Next::Idle(None) };
        if !link.snapshot_sent {
            let untold = self.pods.values().find(|entry| !link.told.contains_key(&entry.workload.uid));
            return Next::Send(untold.map_or(Message::SnapshotSent, Entry::message));
        }
        if let Some(uid) = link.told.keys().find(|uid| !self.pods.contains_key(uid)) {
            return Next::Send(Message::Del(uid.clone()));
        }
        let is_newest = self.links.last_key_value().is_some_and(|(newest, _)| *newest == id);
        if is_newest { self.next_add(link, now) } else { Next::Idle(None) }
    }

    /// A link's answer to a message: an empty error means done.
    pub fn answered(&mut self, id: LinkId, message: &Message, error: &str, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match message {
            Message::SnapshotSent => link.snapshot_sent = true,
            // A refused deletion is the deletion of something unknown there: no reason to ask again.
            Message::Del(uid) => drop(link.told.remove(uid)),
            Message::Keep(uid) => {
                drop(link.told.insert(uid.clone(), Told { announcement: 0, refusal: None }))
            }
            Message::Add(workload, announcement) => {
                let before = link.told.get(&workload.uid).and_then(|told| told.refusal.as_ref());
                let times = before.map_or(0, |refusal| refusal.times);
                let refusal = (!error.is_empty()).then(|| Refusal {
                    error: error.to_owned(),
                    times: times.saturating_add(1),
                    again: now + backoff(times),
                });
                link.told.insert(workload.uid.clone(), Told { announcement: *announcement, refusal });
            }
        }
    }

    fn next_add(&self, link: &Link, now: Instant) -> Next {
        let mut wake: Option<Instant> = None;
        for entry in self.pods.values().filter(|entry| entry.workload.netns.is_some()) {
            let told = link.told.get(&entry.workload.uid);
            let told = told.filter(|told| told.announcement == entry.announcement);
            match told.map(|told| told.refusal.as_ref().map(|refusal| refusal.again)) {
                None => return Next::Send(entry.message()),
                Some(Some(again)) if again <= now => return Next::Send(entry.message()),
                Some(Some(again)) => wake = Some(wake.map_or(again, |wake| wake.min(again))),
                Some(None) => {}
            }
        }
        Next::Idle(wake)
    }
}

impl Entry {
    fn message(&self) -> Message {
        match self.workload.netns {
            Some(_) => Message::Add(self.workload.clone(), self.announcement),
            None => Message::Keep(self.workload.uid.clone()),
        }
    }
}

fn backoff(times: u32) -> Duration {
    FIRST_RETRY.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_RETRY)
}

#[cfg(test)]
mod tests;
