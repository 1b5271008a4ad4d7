// SPDX-License-Identifier: Apache-2.0
//! The ConfigMaps that policies name: read one by one, from time to time. To watch all of a cluster's would be to hold most
//! of what is in it, for a few certificates.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use kubernetes::{Api, Resource};
use runtime::Shutdown;
use tokio::time::Instant;

use crate::{
    live::Live,
    objects::{ConfigMap, Kind, Object, ObjectKey},
    world::{Event, Name},
};

const MAPS: Resource = Resource::core("configmaps");
/// Those that are known are read again after so long.
const LOOK: Duration = Duration::from_secs(15);
/// Between two rounds: what changes again and again is looked at once.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads them into the World.
#[derive(Clone, Debug)]
pub(super) struct Maps {
    pub(super) api: Api,
    pub(super) live: Arc<Live>,
    /// Without the right to read any, none is asked for.
    pub(super) may_read: bool,
}

impl Maps {
    /// Reads all that are named, and lets go of the others.
    pub(super) async fn look(&self) {
        let (known, named) = self.live.read(|world| world.objects().config_maps());
        self.read(&named).await;
        let gone: Vec<Event> = known.difference(&named).map(|name| Event::Deleted(key(name))).collect();
        if !gone.is_empty() {
            self.live.apply(gone);
        }
    }

    async fn read(&self, names: &BTreeSet<Name>) {
        if !self.may_read {
            return;
        }
        for name in names {
            let event = match self.api.find::<ConfigMap>(&MAPS.object(&name.0, &name.1)).await {
                Ok(Some(map)) => Event::Applied(Box::new(Object::ConfigMap(map))),
                Ok(None) => Event::Deleted(key(name)),
                // What was read stays.
                Err(error) => {
                    let (namespace, name) = name;
                    tracing::warn!(%namespace, %name, %error, retry = ?LOOK, "a ConfigMap of a policy is not read");
                    continue;
                }
            };
            if self.live.read(|world| is_news(world.objects().config_map(name), &event)) {
                self.live.apply([event]);
            }
        }
    }

    /// Reads what is named anew at once, and all of it from time to time, until asked to finish.
    pub(super) async fn follow(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.keep() => {}
            () = shutdown.requested() => {}
        }
    }

    async fn keep(&self) {
        let mut changes = self.live.changes();
        let mut asked = BTreeSet::new();
        let mut look = Instant::now() + LOOK;
        loop {
            let (_, named) = self.live.read(|world| world.objects().config_maps());
            if Instant::now() >= look {
                look = Instant::now() + LOOK;
                self.look().await;
            } else {
                self.read(&named.difference(&asked).cloned().collect()).await;
            }
            asked = named;
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(look) => {}
            }
        }
    }
}

fn is_news(known: Option<&ConfigMap>, event: &Event) -> bool {
    match event {
        Event::Applied(object) => match object.as_ref() {
            Object::ConfigMap(map) => known != Some(map),
            _ => true,
        },
        Event::Deleted(_) => known.is_some(),
        Event::Noted(..) | Event::Broken(..) => true,
    }
}

fn key((namespace, name): &Name) -> ObjectKey {
    ObjectKey { kind: Kind::ConfigMap, namespace: namespace.clone(), name: name.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_told() {
        let map = |text: &str| serde_json::from_str::<ConfigMap>(text).unwrap();
        let applied = |map: &ConfigMap| Event::Applied(Box::new(Object::ConfigMap(map.clone())));
        let one = map(r#"{"metadata":{"name":"ca","namespace":"shop"},"data":{"ca.crt":"x","other":"y"}}"#);
        let other = map(r#"{"metadata":{"name":"ca","namespace":"shop"},"binaryData":{"a":"eA=="}}"#);
        assert_eq!(other.data, None);
        let gone = Event::Deleted(key(&("shop".into(), "ca".into())));
        for (known, event, expected) in [
            (None, applied(&one), true),
            (Some(&one), applied(&one), false),
            (Some(&one), applied(&other), true),
            (Some(&one), gone.clone(), true),
            (None, gone, false),
        ] {
            assert_eq!(is_news(known, &event), expected, "{known:?} {event:?}");
        }
    }
}
