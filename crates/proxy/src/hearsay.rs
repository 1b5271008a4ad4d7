// SPDX-License-Identifier: Apache-2.0
//! What peers say of themselves in `baggage` where discovery does not know them, for instance on another network: good
//! for labels and log lines, never a reason to let anybody in.
//!
//! Anybody with a certificate can say anything, so what is believed is bounded in length and in number.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Instant,
};

use arcstr::ArcStr;
use parking_lot::Mutex;
use plan::baggage::Baggage;

use crate::ends::IDLE;

/// Longest value; no name in Kubernetes is longer.
const LONGEST: usize = 253;
/// Different peers that are believed at a time; what others say is as if they had said nothing.
const CAPACITY: usize = 4096;

/// What one peer said; empty where it said nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hearsay {
    /// Its cluster.
    pub cluster: ArcStr,
    /// Its namespace.
    pub namespace: ArcStr,
    /// What owns it.
    pub workload: ArcStr,
    /// Its canonical service.
    pub service: ArcStr,
    /// The revision of that.
    pub version: ArcStr,
    /// Where it runs.
    pub region: ArcStr,
    /// See `region`.
    pub zone: ArcStr,
}

impl Hearsay {
    /// `None` when nothing was said that can be used.
    fn new(told: &Baggage<'_>) -> Option<Self> {
        let text = |value: Option<&str>| {
            value.filter(|text| text.len() <= LONGEST).map_or_else(ArcStr::new, ArcStr::from)
        };
        let hearsay = Self {
            cluster: text(told.cluster),
            namespace: text(told.namespace),
            workload: text(told.workload),
            service: text(told.service),
            version: text(told.version),
            region: text(told.region),
            zone: text(told.zone),
        };
        (hearsay != Self::default()).then_some(hearsay)
    }
}

/// All that was heard lately.
#[derive(Debug, Default)]
pub struct Heard {
    known: Mutex<HashMap<Arc<Hearsay>, Instant>>,
}

impl Heard {
    /// What somebody says; the same words are one value. `None` when they are of no use, or too many say different ones.
    pub fn note(&self, told: &Baggage<'_>, now: Instant) -> Option<Arc<Hearsay>> {
        let hearsay = Arc::new(Hearsay::new(told)?);
        let mut known = self.known.lock();
        if known.len() >= CAPACITY && !known.contains_key(&hearsay) {
            known.retain(|_hearsay, last| now.saturating_duration_since(*last) < IDLE);
            if known.len() >= CAPACITY {
                return None;
            }
        }
        match known.entry(hearsay) {
            Entry::Occupied(mut entry) => {
                entry.insert(now);
                Some(Arc::clone(entry.key()))
            }
            Entry::Vacant(entry) => {
                let hearsay = Arc::clone(entry.key());
                entry.insert(now);
                Some(hearsay)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use plan::baggage;

    use super::*;

    #[test]
    fn the_same_words_are_one_value() {
        let (heard, now) = (Heard::default(), Instant::now());
        let note = |text: &str| heard.note(&baggage::parse(text), now);
        let told = note("k8s.namespace.name=shop,k8s.deployment.name=web").unwrap();
        assert!(Arc::ptr_eq(&told, &note("k8s.deployment.name=web,k8s.namespace.name=shop").unwrap()));
        assert_eq!(
            (told.namespace.as_str(), told.workload.as_str(), told.zone.as_str()),
            ("shop", "web", "")
        );
        assert_eq!(note("nothing=useful"), None);
        assert_eq!(note(&format!("service.name={}", "x".repeat(LONGEST + 1))), None);
    }

    #[test]
    fn no_more_peers_are_believed_than_there_is_room_for_until_some_fell_silent() {
        let (heard, start) = (Heard::default(), Instant::now());
        let note =
            |number: usize, at| heard.note(&baggage::parse(&format!("service.name={number}")), at).is_some();
        assert!((0..CAPACITY).all(|number| note(number, start)));
        assert!(!note(CAPACITY, start));
        assert!(note(0, start + IDLE / 2), "who was heard before is still believed");
        assert!(note(CAPACITY, start + IDLE));
        assert_eq!(heard.known.lock().len(), 2);
    }
}
