// SPDX-License-Identifier: Apache-2.0
//! `GET /status`: what is in force, what is broken, who listens and what they refuse. It decides nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use arcstr::ArcStr;
use jiff::Timestamp;
use kubernetes::{Lack, Leadership};
use parking_lot::RwLock;
use runtime::{Shutdown, readiness::Readiness};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use xds::{Kind as ResourceKind, server::Rejection};

use crate::{
    authenticate::{Authenticate, Discovery},
    ca::Signer,
    cluster::{ClusterView, Lacks, ShownWatch},
    live::Live,
    manifests::{FileStatus, FolderStatus, FolderView},
    metrics,
    objects::Kind,
    report::Report,
};

/// Rejections that are shown; older ones are in the log.
const SHOWN_REJECTIONS: usize = 100;

/// Everything that status is made of; cheap to clone.
#[derive(Debug)]
pub(crate) struct Status<A> {
    pub(crate) source: SourceView,
    pub(crate) live: Arc<Live>,
    pub(crate) server: xds::Server<Discovery<A>>,
    pub(crate) signer: Signer,
    pub(crate) readiness: Readiness,
    pub(crate) rejections: Rejections,
}

/// Where the objects come from; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) enum SourceView {
    /// A folder.
    Folder { manifests: PathBuf, folder: FolderView },
    /// A cluster.
    Cluster { watches: ClusterView, leadership: Leadership, lacks: Lacks },
}

/// The latest rejections; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rejections(Arc<RwLock<VecDeque<ShownRejection>>>);

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    ready: bool,
    pending: Vec<&'static str>,
    root_expires: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifests: Option<ShownManifests<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ShownCluster>,
    objects: BTreeMap<&'static str, usize>,
    resources: BTreeMap<String, usize>,
    reports: Vec<Report>,
    proxies: Vec<ShownProxy>,
    rejections: Vec<ShownRejection>,
}

#[derive(Debug, Serialize)]
struct ShownManifests<'a> {
    folder: &'a std::path::Path,
    failures: Vec<String>,
    files: Vec<FileStatus>,
}

#[derive(Debug, Serialize)]
struct ShownCluster {
    /// Whether this replica writes what only one may write.
    leads: bool,
    /// Kinds whose picture is old, because the API server is out of reach.
    stale: Vec<&'static str>,
    /// What our roles do not allow, and what does not work for it.
    lacks: Vec<Lack>,
    watches: Vec<ShownWatch>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProxy {
    node: ArcStr,
    caller: String,
    peer: Option<String>,
    connected_seconds: u64,
    types: BTreeMap<String, ShownProgress>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownProgress {
    /// Whether it has acknowledged everything.
    synced: bool,
    /// Resources that it refused, with its words.
    refused: BTreeMap<ArcStr, String>,
}

#[derive(Clone, Debug, Serialize)]
struct ShownRejection {
    time: String,
    node: ArcStr,
    #[serde(rename = "type")]
    kind: String,
    names: Vec<ArcStr>,
    message: String,
}

impl<A: Authenticate> Status<A> {
    /// As JSON.
    pub(crate) fn json(&self) -> String {
        let (manifests, cluster) = self.source.shown();
        let catalogue = self.live.catalogue();
        let (objects, reports) = self.live.read(|world| {
            let count = |kind: Kind| (kind.as_str(), world.objects().count(kind));
            (Kind::ALL.into_iter().map(count).collect(), world.reports().cloned().collect())
        });
        let shown = Shown {
            ready: self.readiness.is_ready(),
            pending: self.readiness.pending(),
            root_expires: Timestamp::try_from(self.signer.root().not_after())
                .unwrap_or(Timestamp::MAX)
                .to_string(),
            manifests,
            cluster,
            objects,
            resources: ResourceKind::ALL
                .into_iter()
                .map(|kind| (kind.to_string(), catalogue.len(kind)))
                .collect(),
            reports,
            proxies: self.proxies(),
            rejections: self.rejections.0.read().iter().cloned().collect(),
        };
        serde_json::to_string_pretty(&shown)
            .unwrap_or_else(|error| format!("{{\"error\":{:?}}}", error.to_string()))
    }

    /// Sets the gauges that are only looked at.
    pub(crate) fn measure(&self) {
        metrics::root_expires(self.signer.root().not_after());
        self.source.measure();
        metrics::proxies(self.server.proxies().len());
        self.live.read(|world| {
            for kind in Kind::ALL {
                metrics::objects(kind.as_str(), world.objects().count(kind));
            }
        });
        let catalogue = self.live.catalogue();
        metrics::resources("address", catalogue.len(ResourceKind::Address));
        metrics::resources("authorization", catalogue.len(ResourceKind::Authorization));
        metrics::resources("route", catalogue.len(ResourceKind::Route));
        metrics::resources("telemetry", catalogue.len(ResourceKind::Telemetry));
        metrics::resources("traffic", catalogue.len(ResourceKind::Traffic));
        metrics::resources("guard", catalogue.len(ResourceKind::Guard));
        metrics::resources("authentication", catalogue.len(ResourceKind::Authentication));
    }

    fn proxies(&self) -> Vec<ShownProxy> {
        let catalogue = self.live.catalogue();
        let proxies = self.server.proxies().into_iter();
        proxies
            .map(|proxy| {
                let types = ResourceKind::ALL.into_iter().filter_map(|kind| {
                    let progress = proxy.progress.of(kind).clone()?;
                    let synced = progress.acked >= catalogue.position(kind) && progress.refused.is_empty();
                    Some((kind.to_string(), ShownProgress { synced, refused: progress.refused }))
                });
                ShownProxy {
                    types: types.collect(),
                    node: proxy.node,
                    caller: proxy.caller.to_string(),
                    peer: proxy.peer.map(|peer| peer.to_string()),
                    connected_seconds: proxy.since.elapsed().as_secs(),
                }
            })
            .collect()
    }
}

impl SourceView {
    fn shown(&self) -> (Option<ShownManifests<'_>>, Option<ShownCluster>) {
        match self {
            Self::Folder { manifests, folder } => {
                let FolderStatus { files, failures } = folder.status();
                (Some(ShownManifests { folder: manifests, failures, files }), None)
            }
            Self::Cluster { watches, leadership, lacks } => {
                let (leads, stale) = (leadership.is_mine(), watches.stale());
                let lacks = lacks.now();
                (None, Some(ShownCluster { leads, stale, lacks, watches: watches.shown() }))
            }
        }
    }

    fn measure(&self) {
        match self {
            Self::Folder { .. } => {}
            Self::Cluster { watches, leadership, .. } => {
                metrics::stale_kinds(watches.stale().len());
                metrics::leader(leadership.is_mine());
            }
        }
    }
}

impl<A> Clone for Status<A> {
    fn clone(&self) -> Self {
        Self {
            source: self.source.clone(),
            live: Arc::clone(&self.live),
            server: self.server.clone(),
            signer: self.signer.clone(),
            readiness: self.readiness.clone(),
            rejections: self.rejections.clone(),
        }
    }
}

impl Rejections {
    /// Collects what proxies refuse until the process is asked to finish.
    pub(crate) async fn collect(
        self,
        mut refused: tokio::sync::broadcast::Receiver<Rejection>,
        shutdown: Shutdown,
    ) {
        loop {
            let rejection = tokio::select! {
                () = shutdown.requested() => return,
                rejection = refused.recv() => rejection,
            };
            match rejection {
                Ok(rejection) => self.add(rejection),
                // Each proxy still lists what it refuses now.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn add(&self, rejection: Rejection) {
        metrics::rejected();
        let Rejection { node, kind, names, message } = rejection;
        let mut shown = self.0.write();
        if shown.len() == SHOWN_REJECTIONS {
            shown.pop_front();
        }
        shown.push_back(ShownRejection {
            time: Timestamp::now().to_string(),
            node,
            kind: kind.to_string(),
            names,
            message,
        });
    }
}

#[cfg(test)]
mod tests {
    use runtime::Tasks;
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn the_latest_rejections_are_shown_and_older_ones_make_room() {
        let (sender, receiver) = broadcast::channel(2 * SHOWN_REJECTIONS);
        let rejections = Rejections::default();
        for number in 0..=SHOWN_REJECTIONS {
            let (node, message) = ("ztunnel~1".into(), number.to_string());
            let rejection = Rejection { node, kind: ResourceKind::Address, names: vec!["a".into()], message };
            sender.send(rejection).unwrap();
        }
        drop(sender);
        rejections.clone().collect(receiver, Tasks::new().shutdown()).await;
        let shown = serde_json::to_value(&*rejections.0.read()).unwrap();
        assert_eq!(shown.as_array().unwrap().len(), SHOWN_REJECTIONS);
        assert_eq!(shown[0]["message"], "1", "the oldest is gone");
        assert_eq!(shown[0]["type"], "Address");
    }
}
