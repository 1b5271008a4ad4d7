// SPDX-License-Identifier: Apache-2.0
//! What all pods of this process share.

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use hbone::{Cause, PoolSettings, Settings};
use identity::{Identities, Profile};
use mesh::{Touched, WorkloadKey};
use parking_lot::RwLock;
use plan::{Answer, Local, baggage};
use proxy::open::Connection;
use runtime::Tasks;
use tokio::runtime::Handle;
use xds::Replica;

use crate::{
    aside::Aside,
    ask::{PATIENCE, ask_plain},
    config::Config,
    hearsay::Hearsay,
    live::Flow,
    metrics::{Metrics, Reporter},
    netns::Netns,
    pod::Shard,
    resolver::Resolver,
    socket::{Capture, SocketOptions},
};

/// Tunnels whose destination's address belongs to somebody else now.
const MOVED: Cause = Cause("the address belongs to another identity now");

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// What was set from outside.
    pub config: Config,
    /// The mesh.
    pub replica: Replica,
    /// Certificates.
    pub identities: Identities,
    /// How mutual TLS is done.
    pub profile: Profile,
    /// Counters.
    pub metrics: Metrics,
    /// Endpoints that failed lately.
    pub aside: Aside,
    /// Upstream DNS.
    pub resolver: Resolver,
    /// How questions of the mesh are answered.
    pub dns: plan::dns::Settings,
    /// The namespace of this process.
    pub home: Netns,
    /// What sockets get.
    pub options: Arc<SocketOptions>,
    /// Who captures.
    pub capture: Capture,
    /// Data-plane threads, each a runtime of its own.
    pub workers: Vec<Handle>,
    /// Of tunnels to others.
    pub pool: PoolSettings,
    /// Of tunnels from others.
    pub server: Settings,
    /// Every shard of every pod.
    pub shards: RwLock<Vec<Weak<Shard>>>,
}

impl Node {
    /// Whom decisions about a pod are made for.
    pub fn local(&self, workload: WorkloadKey, synced: bool) -> Local {
        Local {
            workload,
            network: self.config.proxy.network.clone(),
            cluster: self.config.proxy.cluster.as_str().into(),
            synced,
            preserve_source: self.config.preserve_source,
            tunnel_on_loopback: true,
        }
    }

    /// What a peer says of itself in its `baggage`, where that is listened to; see [`Heard::note`].
    ///
    /// [`Heard::note`]: crate::hearsay::Heard::note
    pub fn hear(&self, words: &str) -> Option<Arc<Hearsay>> {
        if !self.config.proxy.tunnel.response_baggage {
            return None;
        }
        self.metrics.hear(&baggage::parse(words), Instant::now())
    }

    /// Makes a shard known to what concerns all of them.
    pub fn add_shard(&self, shard: &Arc<Shard>) {
        let mut shards = self.shards.write();
        shards.retain(|shard| shard.strong_count() > 0);
        shards.push(Arc::downgrade(shard));
    }

    /// Every shard that is served.
    pub fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Follows the mesh: closes tunnels to addresses that changed hands, asks again about open connections when a
    /// policy changed, and keeps certificates of this node's workloads at hand.
    pub async fn follow(self: Arc<Self>, tasks: Tasks) {
        let mut touches = self.replica.touches();
        self.prefetch();
        loop {
            let touched = touches.next().await;
            self.close_moved(&touched);
            if touched.nodes.iter().any(|node| *node == self.config.node) {
                self.prefetch();
            }
            if touched.policies || !touched.selections.is_empty() {
                self.judge_again(&touched, &tasks);
            }
        }
    }

    fn close_moved(&self, touched: &Touched) {
        if touched.moved.is_empty() {
            return;
        }
        for shard in self.shards() {
            let closed = shard.pool.close(MOVED, |key| {
                touched.moved.iter().any(|moved| {
                    moved.address.ip == key.address.ip()
                        && moved.address.network == self.config.proxy.network
                        && moved.now.as_ref().is_none_or(|now| !key.expected.contains(now))
                })
            });
            if closed > 0 {
                tracing::info!(pod = shard.pod.uid, closed, "tunnels closed: their address changed hands");
            }
        }
    }

    /// A policy concerns every pod, another selection of policies only the pod that it is for.
    fn judge_again(&self, touched: &Touched, tasks: &Tasks) {
        let concerned =
            |shard: &Arc<Shard>| touched.policies || touched.selections.contains(&shard.pod.local().workload);
        for shard in self.shards().into_iter().filter(concerned) {
            for connection in shard.live.snapshot() {
                self.judge_one(&shard, connection, tasks);
            }
        }
    }

    fn judge_one(&self, shard: &Arc<Shard>, connection: Arc<Connection<Flow>>, tasks: &Tasks) {
        let (Reporter::Destination, Some(subject)) = (connection.known.reporter, &connection.known.subject)
        else {
            return;
        };
        let local = shard.pod.local();
        match self.replica.read(|index| plan::inbound::still_allowed(index, local, subject)) {
            Answer::Ready(Ok(())) => {}
            Answer::Ready(Err(failure)) => connection.end(failure),
            Answer::Needs(_missing) => {
                let (shard, replica) = (Arc::clone(shard), self.replica.clone());
                drop(tasks.spawn("judge again", async move {
                    let deadline = tokio::time::Instant::now() + PATIENCE;
                    let Some(subject) = &connection.known.subject else { return };
                    let local = shard.pod.local();
                    let asked = ask_plain(&replica, deadline, |index| {
                        plan::inbound::still_allowed(index, local, subject)
                    });
                    if let Ok(Err(failure)) | Err(failure) = asked.await {
                        connection.end(failure);
                    }
                }));
            }
        }
    }

    /// Certificates of this node's workloads are there before the first connection asks, and go when the last workload
    /// of an identity does.
    fn prefetch(&self) {
        let wanted: std::collections::HashSet<_> =
            self.replica.read(|index| index.identities_on(&self.config.node).cloned().collect());
        for identity in &wanted {
            self.identities.prefetch(identity, identity::Priority::Warmup);
        }
        let served: std::collections::HashSet<_> = self
            .shards()
            .iter()
            .map(|shard| {
                let key = &shard.pod.local().workload;
                (key.namespace.clone(), key.service_account.clone())
            })
            .collect();
        for (identity, _state) in self.identities.states() {
            let in_use = served.contains(&(identity.namespace().clone(), identity.service_account().clone()));
            if !wanted.contains(&identity) && !in_use {
                self.identities.forget(&identity);
            }
        }
    }
}

#[cfg(test)]
mod tests;
