// SPDX-License-Identifier: Apache-2.0
//! The roots in a ConfigMap of every namespace, where pods find what to believe in. The leader writes it, and again when
//! somebody has changed or removed it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kubernetes::{Api, Event, Happened, Leadership, Resource, Watch, Within, json};
use runtime::Shutdown;
use serde::Deserialize;
use serde_json::{Value, json as object};
use tokio::sync::mpsc;

use super::FIELD_MANAGER;
use crate::{ca::Signer, live::Live};

const MAPS: Resource = Resource::core("configmaps");
const ROOTS: &str = "root-cert.pem";
/// What was refused is tried again after so long.
const RETRY: Duration = Duration::from_secs(10);
/// Says that istiod writes it.
const ISTIO: &str = "istio.io/config";
const OURS: (&str, &str) = ("app.kubernetes.io/managed-by", "ambit");

/// Publishes the roots.
#[derive(Debug)]
pub(crate) struct Bundle {
    pub(crate) api: Api,
    pub(crate) name: String,
    pub(crate) live: Arc<Live>,
    pub(crate) signer: Signer,
    pub(crate) leadership: Leadership,
}

/// A ConfigMap, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Map {
    metadata: MapMetadata,
    #[serde(default)]
    data: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct MapMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Bundle {
    /// Writes where it is missing or old, until the process is asked to finish.
    pub(crate) async fn publish(self, shutdown: Shutdown) {
        let (events, heard) = mpsc::channel(256);
        let watch = Watch { fields: Some(format!("metadata.name={}", self.name)), ..Watch::new((), [MAPS]) };
        let watching = watch.run(self.api.clone(), json::<Map>, events);
        tokio::select! {
            () = watching => {}
            () = self.follow(heard) => {}
            () = shutdown.requested() => {}
        }
    }

    async fn follow(mut self, mut heard: mpsc::Receiver<Happened<(), Map>>) {
        let mut maps: BTreeMap<String, Map> = BTreeMap::new();
        let mut synced = false;
        let mut changes = self.live.changes();
        let mut roots = self.signer.changes();
        loop {
            let all_written =
                if synced && self.leadership.is_mine() { self.write(&maps).await } else { true };
            tokio::select! {
                happened = heard.recv() => match happened.map(|happened| happened.event) {
                    Some(Event::Applied(map)) => drop(maps.insert(map.metadata.namespace.clone(), map)),
                    Some(Event::Deleted(name) | Event::Broken { name, .. }) => drop(maps.remove(&name.namespace)),
                    Some(Event::Synced) => synced = true,
                    Some(Event::Absent) => {}
                    None => return,
                },
                _ = changes.changed() => {}
                _ = roots.changed() => {}
                () = self.leadership.changed() => {}
                () = tokio::time::sleep(RETRY), if !all_written => {}
            }
        }
    }

    /// Writes what is wrong; says whether nothing is left to be tried again.
    async fn write(&self, maps: &BTreeMap<String, Map>) -> bool {
        let bundle = self.signer.root().bundle().to_owned();
        let namespaces: Vec<_> = self.live.read(|world| world.objects().namespaces().cloned().collect());
        let mut all_written = true;
        for namespace in namespaces {
            let found = maps.get(namespace.as_str());
            if found.is_some_and(|map| map.is_good(&bundle) || map.is_foreign()) {
                continue;
            }
            let path = MAPS.object(&namespace, &self.name);
            match self.api.apply(&path, FIELD_MANAGER, &self.map(&namespace, &bundle)).await {
                Ok(_) => tracing::info!(%namespace, configmap = %self.name, "roots published"),
                // The namespace is about to go, or gone.
                Err(error) if error.is_absent() || error.is_terminating() => {}
                Err(error) => {
                    all_written = false;
                    tracing::warn!(%namespace, configmap = %self.name, %error, retry = ?RETRY, "roots not published");
                }
            }
        }
        all_written
    }

    fn map(&self, namespace: &str, bundle: &str) -> Value {
        object!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": namespace, "labels": {OURS.0: OURS.1}},
            "data": {ROOTS: bundle},
        })
    }
}

/// The path by which all of this name are listed.
pub(super) fn list(name: &str) -> String {
    format!("{}?fieldSelector=metadata.name%3D{name}", MAPS.path(&Within::Cluster))
}

/// Whether control has written it.
pub(super) fn is_ours(map: &Value) -> bool {
    let labels = map.pointer("/metadata/labels");
    labels.and_then(|labels| labels.get(OURS.0)).and_then(Value::as_str) == Some(OURS.1)
}

/// Where a listed one is.
pub(super) fn path(map: &Value) -> Option<String> {
    let text = |pointer| map.pointer(pointer).and_then(Value::as_str);
    Some(MAPS.object(text("/metadata/namespace")?, text("/metadata/name")?))
}

impl Map {
    fn is_good(&self, bundle: &str) -> bool {
        self.data.get(ROOTS).is_some_and(|text| text == bundle)
    }

    /// Whether an istiod writes it, which would write it again.
    fn is_foreign(&self) -> bool {
        let label = |key: &str| self.metadata.labels.get(key).map(String::as_str);
        label(ISTIO) == Some("true") && label(OURS.0) != Some(OURS.1)
    }
}
