// SPDX-License-Identifier: Apache-2.0
//! Facts about one pod for the CNI plugin. The API server is asked, not the watch: a pod may start before the watch has
//! told of it, or of the label that its namespace got just before. Only while the API server does not answer is the
//! watch's last word taken.

use std::{sync::Arc, time::Duration};

use kubernetes::{Api, ApiError, Resource};
use parking_lot::Mutex;

use crate::{
    admission::{Directory, Entry, Unknown},
    ledger::Ledger,
    objects::{NamespaceJson, PodJson, PodObject},
};

/// How long a pod's start waits for the API server before the watch's word is taken.
const PATIENCE: Duration = Duration::from_secs(4);
const PODS: Resource = Resource::core("pods");
const NAMESPACES: Resource = Resource::core("namespaces");

/// The API server, and what its watches have told.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The API server.
    pub api: Api,
    /// Shared with the watcher.
    pub ledger: Arc<Mutex<Ledger>>,
}

impl Directory for Cluster {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Entry, Unknown> {
        let full = format!("{namespace}/{name}");
        let unanswered = |source: Box<dyn std::error::Error + Send + Sync>| Unknown::Unanswered {
            name: full.clone(),
            source,
        };
        let asked = tokio::time::timeout(PATIENCE, self.ask(namespace, name));
        let (pod, json) = match asked.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) if !error.is_outage() => return Err(unanswered(error.into())),
            outage => {
                let ledger = self.ledger.lock();
                if let Some((pod, namespace)) = ledger.find(namespace, name) {
                    tracing::warn!(
                        pod = full,
                        "the API server does not answer, what the watch told is taken"
                    );
                    return Ok(Entry { pod: pod.clone(), namespace: namespace.clone() });
                }
                return Err(match outage {
                    Ok(Err(error)) => unanswered(error.into()),
                    _ => unanswered(format!("the API server did not answer within {PATIENCE:?}").into()),
                });
            }
        };
        let pod = pod.ok_or_else(|| Unknown::Absent { what: "pod", name: full.clone() })?;
        let json = json.ok_or_else(|| Unknown::Absent { what: "namespace", name: namespace.to_owned() })?;
        let pod = PodObject::try_from(pod).map_err(|error| unanswered(error.into()))?;
        Ok(Entry { pod, namespace: json.parse().1 })
    }
}

impl Cluster {
    async fn ask(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<(Option<PodJson>, Option<NamespaceJson>), ApiError> {
        let (pod, home) = (PODS.object(namespace, name), NAMESPACES.object("", namespace));
        tokio::try_join!(self.api.find(&pod), self.api.find(&home))
    }
}
