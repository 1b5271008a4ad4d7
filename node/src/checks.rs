// SPDX-License-Identifier: Apache-2.0
//! What only a node can tell of itself: its kernel, what this process may do, control groups, the CNI chain, its roles, and programs
//! of others that change a connection before capture sees it. Looked at each minute for the metric and the log, and anew
//! for whoever asks (`GET /checks`).

mod dial;
mod groups;
mod network;
mod rights;
mod sockets;

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use ebpf_loader::Mode;
use finding::{Finding, Grade};
use kubernetes::Api;
use nix::sched::{CloneFlags, setns};
use runtime::Shutdown;
use tokio::{sync::Mutex, time::Instant};

use crate::{
    config::{ClusterConfig, Config},
    metrics, probes, rights as permissions,
};

/// How often the node is looked at without being asked.
const LOOK: Duration = Duration::from_secs(60);
/// How old an answer may be.
const MOMENT: Duration = Duration::from_secs(1);
const PROC: &str = "/proc";

/// Everything that is looked at. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Checks {
    settings: Arc<Settings>,
    api: Option<Api>,
    last: Arc<Mutex<Option<Look>>>,
}

/// One look.
#[derive(Debug)]
struct Look {
    taken: Instant,
    found: Vec<Finding>,
}

#[derive(Debug)]
struct Settings {
    mode: Mode,
    cluster: Option<ClusterConfig>,
}

impl Checks {
    /// Of a node with these settings, in the cluster of this API server.
    pub fn new(config: &Config, api: Option<Api>) -> Self {
        let settings = Settings { mode: config.mode, cluster: config.cluster.clone() };
        Self { settings: Arc::new(settings), api, last: Arc::default() }
    }

    /// What is so now, or was a moment ago. However many ask, one looks, and the others wait for it: whoever reaches the
    /// port may ask, and a look costs a network namespace and a question to the API server.
    pub async fn look(&self) -> Vec<Finding> {
        let mut last = self.last.lock().await;
        if let Some(Look { found, .. }) = last.as_ref().filter(|look| look.taken.elapsed() < MOMENT) {
            return found.clone();
        }
        let found = self.look_now().await;
        count(&found);
        *last = Some(Look { taken: Instant::now(), found: found.clone() });
        found
    }

    async fn look_now(&self) -> Vec<Finding> {
        let settings = Arc::clone(&self.settings);
        // A thread of its own: it changes how it sees the control groups, and does not come back.
        let (tell, told) = tokio::sync::oneshot::channel();
        let looking = move || drop(tell.send(settings.look()));
        let started = std::thread::Builder::new().name("checks".to_owned()).spawn(looking);
        let found = match started {
            Ok(_thread) => told.await.ok(),
            Err(_no_thread) => None,
        };
        let mut found = found.unwrap_or_else(|| {
            vec![Finding::warning("looking", "the checks of this node died", "see the log of its agent")]
        });
        if let (Some(api), Some(cluster)) = (&self.api, &self.settings.cluster) {
            found.extend(permissions::check(api, cluster).await);
        }
        found
    }

    /// Keeps the metric, and logs what is new, until asked to finish.
    pub async fn keep(self, shutdown: Shutdown) {
        let mut last = Vec::new();
        loop {
            let found = self.look().await;
            for Finding { check, grade, found, fix } in
                found.iter().filter(|finding| !last.contains(*finding))
            {
                match grade {
                    Grade::Failure => {
                        tracing::error!(%check, found, fix, "the node is not as the mesh needs it")
                    }
                    Grade::Warning => tracing::warn!(%check, found, fix, "the node is to be looked at"),
                    Grade::Ok => tracing::debug!(%check, found, "the node is as it should be"),
                }
            }
            last = found;
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

/// One number for every check and grade: those that are gone are none.
fn count(findings: &[Finding]) {
    let mut numbers: BTreeMap<(&str, Grade), usize> = BTreeMap::new();
    let fixed = [groups::CGROUP2, groups::KUBELET, permissions::CHECK];
    for check in rights::CHECKS.into_iter().chain(fixed).chain(network::CHECKS) {
        for grade in Grade::ALL {
            numbers.insert((check, grade), 0);
        }
    }
    for finding in findings {
        *numbers.entry((&finding.check, finding.grade)).or_default() += 1;
    }
    for ((check, grade), number) in numbers {
        metrics::findings(check, grade, number);
    }
}

impl Settings {
    fn look(&self) -> Vec<Finding> {
        let proc = Path::new(PROC);
        see_all_groups(proc);
        let mut findings = rights::kernel(self.mode);
        findings.push(rights::capabilities(proc));
        let root = self.cluster.as_ref().and_then(|cluster| cluster.cgroup_root.as_deref());
        let (groups, found) = groups::look(proc, root);
        findings.push(found);
        let Some(cluster) = &self.cluster else { return findings };
        findings.push(groups::kubelet(probes::look(root)));
        if let Some(groups) = groups {
            findings.extend(sockets::look(&groups, cluster.service));
        }
        if let Some(installation) = &cluster.installation {
            findings.extend(network::look(installation, cluster.rules.revision.as_deref()));
        }
        findings
    }
}

/// Paths of control groups are shown from where a process is itself; init's place is the node's root. Where that is not
/// allowed, they are as they are, and the check of cgroup2 says so.
fn see_all_groups(proc: &Path) {
    if let Ok(namespace) = std::fs::File::open(proc.join("1/ns/cgroup")) {
        setns(namespace, CloneFlags::CLONE_NEWCGROUP).unwrap_or_default();
    }
}
