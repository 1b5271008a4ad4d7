// SPDX-License-Identifier: Apache-2.0
//! Which pods this process serves: what the node agent says over ZDS, kept true.
//!
//! A pod that cannot be served yet (a port is taken) stays pending and is tried again; while one is, or while the agent
//! is away, the process is not ready. Pods keep running while the agent is away.

use std::{
    collections::{HashMap, HashSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use mesh::WorkloadKey;
use plan::What;
use proto::zds::AddWorkload;
use runtime::{Shutdown, Tasks, readiness::Gate};

use crate::{
    netns::Netns,
    node::Node,
    pod::{Pod, Shard},
    record::chain,
    zds::{Connection, Request, ZdsError},
};

/// Pauses between attempts to reach the agent: first and longest, doubling.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(15));
/// How often pending pods are tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Connections that were ended have so long to be recorded.
pub const LAST_WORDS: Duration = Duration::from_millis(500);
/// A pod that was deleted gets no time: nobody is left to read.
const DELETED: Duration = Duration::ZERO;

struct Running {
    netns: Netns,
    key: WorkloadKey,
    tasks: Tasks,
    shards: Vec<Arc<Shard>>,
}

struct Pending {
    add: AddWorkload,
    netns: Netns,
}

/// See the module.
pub struct Pods {
    node: Arc<Node>,
    tasks: Tasks,
    running: HashMap<String, Running>,
    pending: HashMap<String, Pending>,
    /// Named since the connection was made; `None` once the snapshot is complete.
    snapshot: Option<HashSet<String>>,
    gate: Gate,
}

impl Pods {
    /// Without any pod.
    pub fn new(node: Arc<Node>, tasks: Tasks, gate: Gate) -> Self {
        Self { node, tasks, running: HashMap::new(), pending: HashMap::new(), snapshot: None, gate }
    }

    /// Follows the node agent until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) {
        let mut pause = RECONNECT.0;
        loop {
            let outcome = tokio::select! {
                biased;
                () = shutdown.requested() => return,
                outcome = self.follow(&mut pause) => outcome,
            };
            self.gate.pending();
            tracing::warn!(error = %chain(&outcome), pause = ?pause, "node agent is away");
            tokio::select! {
                biased;
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// One connection, to its end.
    async fn follow(&mut self, pause: &mut Duration) -> ZdsError {
        let connection = match Connection::open(&self.node.config.zds).await {
            Ok(connection) => connection,
            Err(error) => return error,
        };
        *pause = RECONNECT.0;
        self.snapshot = Some(HashSet::new());
        tracing::info!("connected to the node agent");
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let request = tokio::select! {
                biased;
                request = connection.receive() => request,
                _ = retry.tick() => {
                    self.retry_pending();
                    continue;
                }
            };
            let error = match request {
                Ok(request) => match self.apply(request).await {
                    Ok(error) => error,
                    Err(error) => return error,
                },
                Err(error) => return error,
            };
            self.tell_readiness();
            if let Err(error) = connection.acknowledge(error).await {
                return error;
            }
        }
    }

    /// The text of the acknowledgement: empty when all is well.
    async fn apply(&mut self, request: Request) -> Result<String, ZdsError> {
        match request {
            Request::Add(add, netns) => {
                self.mention(&add.uid);
                Ok(self.add(add, netns).await)
            }
            Request::Keep(uid) => {
                if self.snapshot.is_none() {
                    return Err(ZdsError::Protocol("KeepWorkload after the snapshot"));
                }
                self.mention(&uid);
                Ok(String::new())
            }
            Request::Del(uid) => {
                self.pending.remove(&uid);
                self.stop(&uid, DELETED);
                Ok(String::new())
            }
            Request::SnapshotSent => {
                let Some(mentioned) = self.snapshot.take() else {
                    return Err(ZdsError::Protocol("a second snapshot"));
                };
                self.pending.retain(|uid, _pending| mentioned.contains(uid));
                let gone: Vec<_> =
                    self.running.keys().filter(|uid| !mentioned.contains(*uid)).cloned().collect();
                for uid in gone {
                    self.stop(&uid, self.node.config.proxy.drain);
                }
                Ok(String::new())
            }
        }
    }

    fn mention(&mut self, uid: &str) {
        if let Some(mentioned) = &mut self.snapshot {
            mentioned.insert(uid.to_owned());
        }
    }

    async fn add(&mut self, add: AddWorkload, netns: OwnedFd) -> String {
        let netns = match Netns::new(netns) {
            Ok(netns) => netns,
            Err(error) => return format!("cannot examine the network namespace: {error}"),
        };
        let uid = add.uid.clone();
        if let Some(running) = self.running.get(&uid) {
            if running.netns.id() == netns.id() && running.key == key(&add) {
                return String::new();
            }
            self.stop(&uid, DELETED);
        }
        let pending = Pending { add, netns };
        match self.start(&uid, &pending) {
            Ok(()) => String::new(),
            Err(error) => {
                self.pending.insert(uid, pending);
                error
            }
        }
    }

    fn start(&mut self, uid: &str, pending: &Pending) -> Result<(), String> {
        let key = key(&pending.add);
        let tasks = self.tasks.group(format!("pod {}/{}", key.namespace, key.name));
        let shards = match Pod::start(&self.node, uid, key.clone(), pending.netns.clone(), &tasks) {
            Ok(shards) => shards,
            Err(error) => {
                tracing::warn!(pod = %key, error = %chain(&error), "cannot serve a pod yet");
                return Err(chain(&error).to_string());
            }
        };
        tracing::info!(pod = %key, netns = pending.netns.id().inode(), "serving a pod");
        metrics::counter!("istio_proxies_started_total").increment(1);
        self.running.insert(uid.to_owned(), Running { netns: pending.netns.clone(), key, tasks, shards });
        self.pending.remove(uid);
        Ok(())
    }

    fn stop(&mut self, uid: &str, deadline: Duration) {
        let Some(running) = self.running.remove(uid) else { return };
        tracing::info!(pod = %running.key, "no longer serving a pod");
        metrics::counter!("istio_proxies_stopped_total").increment(1);
        drop(self.tasks.spawn("stop pod", async move {
            let drain = running.tasks.drain(deadline + LAST_WORDS);
            tokio::pin!(drain);
            if tokio::time::timeout(deadline, &mut drain).await.is_err() {
                cut_off(&running.shards);
                drain.await;
            }
        }));
    }

    fn retry_pending(&mut self) {
        let pending: Vec<_> = self.pending.drain().collect();
        for (uid, waiting) in pending {
            if self.start(&uid, &waiting).is_err() {
                self.pending.insert(uid, waiting);
            }
        }
        self.tell_readiness();
    }

    fn tell_readiness(&mut self) {
        metrics::gauge!("istio_active_proxy_count").set(count(self.running.len()));
        metrics::gauge!("istio_pending_proxy_count").set(count(self.pending.len()));
        if self.snapshot.is_none() && self.pending.is_empty() {
            self.gate.ready();
        } else {
            self.gate.pending();
        }
    }
}

/// Ends what has outlived its drain; how many connections that are.
pub fn cut_off(shards: &[Arc<Shard>]) -> usize {
    let closed = shards.iter().map(|shard| shard.live.end_all(&What::Drained.into())).sum();
    crate::metrics::cut_off(closed);
    closed
}

fn key(add: &AddWorkload) -> WorkloadKey {
    let known = add.workload_info.clone().unwrap_or_default();
    WorkloadKey {
        name: known.name.into(),
        namespace: known.namespace.into(),
        service_account: known.service_account.into(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "there are fewer pods than 2^52")]
fn count(pods: usize) -> f64 {
    pods as f64
}
