// SPDX-License-Identifier: Apache-2.0
//! One climb at a time per pod: a place with a turn to wait for. It knows pods only by uid and namespace.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};

use super::steps::Held;
use crate::pod::Uid;

/// All places. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    by_uid: Arc<Mutex<BTreeMap<Uid, Arc<Place>>>>,
    version: watch::Sender<u64>,
}

/// One pod's place: whoever works on it has the turn, everybody may look.
#[derive(Debug, Default)]
struct Place {
    turn: Arc<tokio::sync::Mutex<()>>,
    held: Mutex<Option<Held>>,
}

/// The exclusive right to change one pod. Dropped, it passes to the next; a place where nothing is left goes away.
#[derive(Debug)]
pub(super) struct Occupied {
    places: Places,
    place: Arc<Place>,
    uid: Uid,
    changed: AtomicBool,
    _turn: OwnedMutexGuard<()>,
}

impl Places {
    /// Waits for the turn of a pod. Cancel-safe.
    pub(super) async fn occupy(&self, uid: &Uid) -> Occupied {
        loop {
            let place = Arc::clone(self.by_uid.lock().entry(uid.clone()).or_default());
            let turn = Arc::clone(&place.turn).lock_owned().await;
            // Whoever had the turn before may have cleared the place away; then another one counts.
            if self.by_uid.lock().get(uid).is_some_and(|current| Arc::ptr_eq(current, &place)) {
                let (places, uid) = (self.clone(), uid.clone());
                return Occupied { places, place, uid, changed: AtomicBool::new(false), _turn: turn };
            }
        }
    }

    /// A counter that moves with every turn that has changed something.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Everything held, by uid.
    pub(super) fn list(&self) -> Vec<Held> {
        self.by_uid.lock().values().filter_map(|place| place.held.lock().clone()).collect()
    }
}

impl Occupied {
    /// What is held here.
    pub(super) fn held(&self) -> Option<Held> {
        self.place.held.lock().clone()
    }

    /// Notes what is held here now.
    pub(super) fn set(&self, held: Held) {
        self.put(Some(held));
    }

    /// Notes that nothing is left.
    pub(super) fn clear(&self) {
        self.put(None);
    }

    fn put(&self, held: Option<Held>) {
        *self.place.held.lock() = held;
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Notes what is held here now, unless another pod holds the same namespace: then its uid.
    pub(super) fn reserve(&self, held: Held) -> Result<(), Uid> {
        let places = self.places.by_uid.lock();
        let others = places.iter().filter(|(uid, _)| **uid != self.uid);
        for (uid, place) in others {
            // The namespace of a pod that left is not kept open, so its number may have gone to another.
            if place.held.lock().as_ref().is_some_and(|other| other.id == held.id && !other.left) {
                return Err(uid.clone());
            }
        }
        self.set(held);
        Ok(())
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        let mut places = self.places.by_uid.lock();
        if self.place.held.lock().is_none() {
            places.remove(&self.uid);
        }
        drop(places);
        if *self.changed.get_mut() {
            self.places.version.send_modify(|version| *version += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::{
        netns::Netns,
        pod::{Pod, Treatment},
    };

    fn uid(text: &str) -> Uid {
        Uid::parse(text).unwrap()
    }

    fn held(uid: &Uid) -> Held {
        let pod = Pod {
            uid: uid.clone(),
            name: "client".to_owned(),
            namespace: "default".to_owned(),
            service_account: "default".to_owned(),
            netns: "/run/netns/client".into(),
            ips: vec!["10.20.1.2".parse().unwrap()],
            treatment: Treatment::default(),
            sandbox: None,
        };
        Held::new(pod, Netns::adopt(File::open("/proc/self/ns/net").unwrap()).unwrap())
    }

    #[tokio::test]
    async fn one_pod_has_one_turn_and_others_do_not_wait() {
        let places = Places::default();
        let first = places.occupy(&uid("a")).await;
        let same = uid("a");
        let second = places.occupy(&same);
        tokio::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        places.occupy(&uid("b")).await;
        first.set(held(&uid("a")));
        drop(first);
        assert!(second.await.held().is_some());
    }

    #[tokio::test]
    async fn whoever_waited_for_a_place_that_went_away_gets_the_current_one() {
        let places = Places::default();
        let first = places.occupy(&uid("a")).await;
        let same = uid("a");
        let second = places.occupy(&same);
        tokio::pin!(second);
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        drop(first);
        assert!(places.by_uid.lock().is_empty());
        let second = second.await;
        assert!(places.by_uid.lock().get(&uid("a")).is_some_and(|place| Arc::ptr_eq(place, &second.place)));
    }

    #[tokio::test]
    async fn a_turn_is_told_of_when_it_is_over_and_has_changed_something() {
        let places = Places::default();
        let mut changes = places.changes();
        let idle = places.occupy(&uid("a")).await;
        idle.held();
        drop(idle);
        assert!(!changes.has_changed().unwrap());
        let busy = places.occupy(&uid("a")).await;
        busy.set(held(&uid("a")));
        assert!(!changes.has_changed().unwrap());
        drop(busy);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        places.occupy(&uid("a")).await.clear();
        assert!(changes.has_changed().unwrap());
    }

    #[tokio::test]
    async fn a_namespace_belongs_to_one_pod() {
        let places = Places::default();
        let first = places.occupy(&uid("a")).await;
        first.reserve(held(&uid("a"))).unwrap();
        first.reserve(held(&uid("a"))).unwrap();
        let second = places.occupy(&uid("b")).await;
        assert_eq!(second.reserve(held(&uid("b"))).unwrap_err(), uid("a"));
        first.set(Held { left: true, ..held(&uid("a")) });
        second.reserve(held(&uid("b"))).unwrap();
    }
}
