// SPDX-License-Identifier: Apache-2.0
//! From watches to the World: a lone change at once, a burst together.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kubernetes::{Api, Event as Heard, Happened, Name, Problem, Watch};
use runtime::{Tasks, readiness::Gate};
use tokio::{sync::mpsc, time::Instant};

use super::{
    kinds::{resources, watched},
    maps::Maps,
    read::{Read, read},
    stated::{StatedObjects, has_conditions, stated},
    view::ClusterView,
};
use crate::{
    live::Live,
    objects::{Kind, ObjectKey},
    report::{Report, Severity},
    world::Event,
};

/// Events on their way; a full queue slows the watches.
const QUEUE: usize = 4096;
/// After a push the next changes are gathered for so long.
const GATHER: Duration = Duration::from_millis(50);
/// More than this is not gathered.
const MOST: usize = 20_000;

type Arrived = Happened<Kind, Read>;

/// Follows every kind and keeps the World as the API server says, until the group is asked to finish. The gate opens when
/// everything that was there at the start is in force.
pub(crate) fn follow(
    api: &Api,
    gate: Gate,
    (maps, live): (Maps, Arc<Live>),
    stated: &StatedObjects,
    tasks: &Tasks,
) -> ClusterView {
    let view = ClusterView::new();
    let (events, arriving) = mpsc::channel(QUEUE);
    for kind in watched() {
        let watch = Watch { view: view.of(kind), ..Watch::new(kind, resources(kind)) };
        let running = watch.run(api.clone(), move |text| read(kind, text), events.clone());
        let shutdown = tasks.shutdown();
        drop(tasks.spawn_vital("watch", async move {
            tokio::select! {
                () = running => {}
                () = shutdown.requested() => {}
            }
        }));
    }
    let source = Source {
        live,
        gate,
        maps,
        missing: watched().collect(),
        first: Vec::new(),
        noted: BTreeSet::new(),
        stated: stated.clone(),
    };
    let shutdown = tasks.shutdown();
    drop(tasks.spawn_vital("objects", async move {
        tokio::select! {
            () = source.run(arriving) => {}
            () = shutdown.requested() => {}
        }
    }));
    view
}

struct Source {
    live: Arc<Live>,
    gate: Gate,
    /// What policies name: part of what there is at the start.
    maps: Maps,
    /// Kinds whose first list is not complete.
    missing: BTreeSet<Kind>,
    /// What has come so far, until every list is complete.
    first: Vec<Event>,
    /// Objects about which something is said.
    noted: BTreeSet<ObjectKey>,
    stated: StatedObjects,
}

impl Source {
    async fn run(mut self, mut arriving: mpsc::Receiver<Arrived>) {
        let mut last: Option<Instant> = None;
        loop {
            let mut batch = Vec::new();
            if arriving.recv_many(&mut batch, QUEUE).await == 0 {
                return;
            }
            if let Some(last) = last {
                gather(&mut arriving, &mut batch, last + GATHER).await;
            }
            let was_complete = self.missing.is_empty();
            let mut events: Vec<Event> = Vec::with_capacity(batch.len());
            for arrived in batch {
                self.take(arrived, &mut events);
            }
            self.first.append(&mut events);
            if self.missing.is_empty() && self.apply(was_complete).await {
                last = Some(Instant::now());
            }
        }
    }

    /// Says whether something was published. Translating much takes long: not where others wait for their turn.
    async fn apply(&mut self, was_complete: bool) -> bool {
        let (live, events) = (Arc::clone(&self.live), std::mem::take(&mut self.first));
        if events.is_empty() && was_complete {
            return false;
        }
        let applied = tokio::task::spawn_blocking(move || live.apply(events));
        match applied.await {
            Ok(published) if was_complete => published,
            Ok(_) => {
                self.maps.look().await;
                self.complete().await
            }
            // Panicked: what is served must not fall behind unseen, so this task fails too.
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
                false
            }
        }
    }

    /// From here on proxies are answered.
    async fn complete(&mut self) -> bool {
        let live = Arc::clone(&self.live);
        let completed = tokio::task::spawn_blocking(move || live.complete());
        if let Err(error) = completed.await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
        self.gate.ready();
        true
    }

    fn take(&mut self, arrived: Arrived, events: &mut Vec<Event>) {
        let kind = arrived.of;
        match arrived.event {
            Heard::Applied(Read { object, notes, stated, .. }) => {
                let key = object.key();
                if let Some(stated) = stated {
                    self.stated.set(key.clone(), stated);
                }
                events.push(Event::Applied(Box::new(object)));
                self.note(key, notes, Severity::Warning, events);
            }
            Heard::Broken { name, problems, json } => {
                let key = key(kind, name);
                if has_conditions(kind) {
                    self.stated.set(key.clone(), stated(&json));
                }
                self.note(key, problems, Severity::Error, events);
            }
            Heard::Deleted(name) => {
                let key = key(kind, name);
                self.noted.remove(&key);
                self.stated.remove(&key);
                events.push(Event::Deleted(key));
            }
            Heard::Synced | Heard::Absent => {
                if self.missing.remove(&kind) {
                    let missing: Vec<&str> = self.missing.iter().map(|kind| kind.as_str()).collect();
                    tracing::debug!(%kind, ?missing, "first list is complete");
                }
            }
        }
    }

    fn note(&mut self, key: ObjectKey, said: Vec<Problem>, severity: Severity, events: &mut Vec<Event>) {
        if said.is_empty() {
            if self.noted.remove(&key) {
                events.push(Event::Noted(key, Vec::new()));
            }
            return;
        }
        let report = |Problem { field, message }| Report { object: key.clone(), field, severity, message };
        let reports = said.into_iter().map(report).collect();
        self.noted.insert(key.clone());
        events.push(match severity {
            Severity::Error => Event::Broken(key, reports),
            Severity::Warning | Severity::Info => Event::Noted(key, reports),
        });
    }
}

/// Adds what comes until a moment.
async fn gather(arriving: &mut mpsc::Receiver<Arrived>, batch: &mut Vec<Arrived>, until: Instant) {
    while batch.len() < MOST {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            taken = arriving.recv_many(batch, QUEUE) => {
                if taken == 0 {
                    return;
                }
            }
        }
    }
}

fn key(kind: Kind, name: Name) -> ObjectKey {
    ObjectKey { kind, namespace: name.namespace.into(), name: name.name.into() }
}
