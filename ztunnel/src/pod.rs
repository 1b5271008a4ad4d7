// SPDX-License-Identifier: Apache-2.0
//! One pod as this process serves it: its sockets, and on each data-plane thread a shard of its own with listeners, a
//! pool of tunnels and the connections that are open.
//!
//! The kernel spreads a pod's connections over the shards (`SO_REUSEPORT`). A shard's connections, tunnels and copies
//! stay on one thread, so that no byte on its way wakes another one.

use std::{io, net::SocketAddr, sync::Arc};

use hbone::{Pool, Spawner};
use mesh::{SpiffeId, WorkloadKey};
use parking_lot::Mutex;
use plan::Local;
use proxy::open::Open;
use runtime::{Tasks, accept};
use rustls::ServerConfig;
use tokio::{net::TcpListener, runtime::Handle, sync::Semaphore};

use crate::{
    dial::DialError, dns, inbound, live::Flow, netns::Netns, node::Node, outbound, passthrough,
    socket::Sockets,
};

/// Captured connections of the applications.
pub const OUTBOUND: u16 = 15001;
/// Captured plaintext connections to the applications.
pub const INBOUND: u16 = 15006;
/// Tunnels.
pub const HBONE: u16 = plan::HBONE_PORT;
/// DNS questions of the applications.
pub const DNS: u16 = 15053;

/// Connections of one kind that one shard of a pod carries at a time; more wait in the kernel's backlog, so that one
/// pod cannot take the node's descriptors.
const CONNECTIONS: usize = 16_384;
/// TLS handshakes of one pod at a time: they are what costs most.
const HANDSHAKES: usize = 256;

/// Which tunnels are interchangeable. The source's identity and address are the pod's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Where to.
    pub address: SocketAddr,
    /// Whom to expect there: any of these.
    pub expected: Arc<[SpiffeId]>,
}

/// What the shards of a pod share.
#[derive(Debug)]
pub struct Pod {
    /// The pod's uid (ZDS).
    pub uid: String,
    /// What all pods share.
    pub node: Arc<Node>,
    /// Makes sockets in its namespace.
    pub sockets: Sockets,
    /// Room for TLS handshakes.
    pub handshakes: Semaphore,
    /// Of the server's side of handshakes, under the identity that the pod has; it follows the certificate's renewals.
    pub tls: Mutex<Option<(SpiffeId, Arc<ServerConfig>)>>,
    /// Before and after the first sync.
    locals: [Local; 2],
}

/// A pod on one data-plane thread.
#[derive(Debug)]
pub struct Shard {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Tunnels to other nodes.
    pub pool: Pool<TunnelKey, DialError>,
    /// Connections that are open.
    pub live: Arc<Open<Flow>>,
    /// Owns every task of the shard.
    pub tasks: Tasks,
    /// The same for `hbone`.
    pub spawner: Spawner,
}

/// Why a pod cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on port {port} in the pod")]
pub struct StartError {
    port: u16,
    #[source]
    source: io::Error,
}

struct Listeners {
    worker: Handle,
    outbound: TcpListener,
    inbound: TcpListener,
    hbone: TcpListener,
}

impl Pod {
    /// A pod that is not served yet.
    pub fn new(node: &Arc<Node>, uid: &str, key: &WorkloadKey, netns: Netns) -> Self {
        Self {
            uid: uid.to_owned(),
            node: Arc::clone(node),
            sockets: Sockets::new(netns, node.home.clone(), Arc::clone(&node.options)),
            handshakes: Semaphore::new(HANDSHAKES),
            tls: Mutex::new(None),
            locals: [false, true].map(|synced| node.local(key.clone(), synced)),
        }
    }

    /// Starts to serve a pod. All listeners are there when this returns, or none.
    ///
    /// # Errors
    /// When a port is taken in the pod.
    pub fn start(
        node: &Arc<Node>,
        uid: &str,
        key: WorkloadKey,
        netns: Netns,
        tasks: &Tasks,
    ) -> Result<Vec<Arc<Shard>>, StartError> {
        let pod = Arc::new(Self::new(node, uid, &key, netns));
        let workers = if node.options.port_reuse {
            node.workers.as_slice()
        } else {
            node.workers.get(..1).unwrap_or(&[])
        };
        let listeners: Vec<_> = workers.iter().map(|worker| pod.listen(worker)).collect::<Result<_, _>>()?;
        let dns = if node.config.dns { pod.listen_dns(workers)? } else { None };
        let shards: Vec<_> = listeners.into_iter().map(|listeners| pod.serve(listeners, tasks)).collect();
        if let (Some(sockets), Some(shard)) = (dns, shards.first()) {
            dns::serve(Arc::clone(shard), sockets);
        }
        Ok(shards)
    }

    /// Whom decisions about this pod are made for.
    pub fn local(&self) -> &Local {
        let [before, after] = &self.locals;
        if self.node.replica.synced() { after } else { before }
    }

    fn listen(&self, worker: &Handle) -> Result<Listeners, StartError> {
        let _context = worker.enter();
        let listen = |port| self.sockets.listen(port).map_err(|source| StartError { port, source });
        Ok(Listeners {
            worker: worker.clone(),
            outbound: listen(OUTBOUND)?,
            inbound: listen(INBOUND)?,
            hbone: listen(HBONE)?,
        })
    }

    fn listen_dns(&self, workers: &[Handle]) -> Result<Option<dns::Listeners>, StartError> {
        let Some(worker) = workers.first() else { return Ok(None) };
        let _context = worker.enter();
        let failed = |source| StartError { port: DNS, source };
        let tcp = self.sockets.listen(DNS).map_err(failed)?;
        let udp = self.sockets.listen_udp(DNS).map_err(failed)?;
        Ok(Some(dns::Listeners { tcp, udp }))
    }

    fn serve(self: &Arc<Self>, listeners: Listeners, tasks: &Tasks) -> Arc<Shard> {
        let shard = Shard::new(self, tasks.on(listeners.worker));
        accept_on(&shard, "outbound", listeners.outbound, outbound::handle);
        accept_on(&shard, "inbound plaintext", listeners.inbound, passthrough::handle);
        accept_on(&shard, "inbound", listeners.hbone, inbound::handle);
        shard
    }
}

impl Shard {
    /// A shard without listeners, whose tasks run where `tasks` says.
    pub fn new(pod: &Arc<Pod>, tasks: Tasks) -> Arc<Self> {
        let spawner = {
            let tasks = tasks.clone();
            Spawner::new(move |name, task| drop(tasks.spawn(name, task)))
        };
        let shard = Arc::new(Self {
            pod: Arc::clone(pod),
            pool: Pool::new(pod.node.pool.clone(), spawner.clone()),
            live: Arc::default(),
            tasks,
            spawner,
        });
        pod.node.add_shard(&shard);
        shard
    }
}

fn accept_on<H, F>(shard: &Arc<Shard>, name: &'static str, listener: TcpListener, handle: H)
where
    H: Fn(Arc<Shard>, tokio::net::TcpStream, SocketAddr) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let shard = Arc::clone(shard);
    let tasks = shard.tasks.clone();
    drop(shard.tasks.clone().spawn(name, async move {
        let limits = accept::Limits { name, connections: CONNECTIONS };
        let served = accept::serve(listener, &tasks, limits, |stream: tokio::net::TcpStream, peer| {
            // Moved by value through the futures around it, it would take its size four times per connection.
            Box::pin(handle(Arc::clone(&shard), stream, peer))
        });
        if let Err(error) = served.await {
            tracing::error!(error = %crate::record::chain(&error), "a listener failed");
        }
    }));
}
