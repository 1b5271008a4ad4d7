// SPDX-License-Identifier: Apache-2.0
//! One data-plane thread: a listener of its own, its tunnels and connections to servers, and the tasks on it.
//!
//! The kernel spreads connections over the threads (`SO_REUSEPORT`). What comes in on one of them goes out on it, so that
//! no byte on its way wakes another one.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use ::proxy::{chain, dialling::DialError};
use anyhow::Context as _;
use hbone::{Pool, Spawner};
use mesh::SpiffeId;
use runtime::{Tasks, accept};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::Semaphore;

use crate::{inbound, pools::Pools, waypoint::Waypoint};

/// Connections of one thread at a time; more wait in the kernel's backlog.
const CONNECTIONS: usize = 16_384;
const BACKLOG: i32 = 1024;
/// Between the last request and the end of the process.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// Which tunnels are interchangeable.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// Where to.
    pub address: SocketAddr,
    /// Whom to expect there: any of these.
    pub expected: Arc<[SpiffeId]>,
}

/// See the module.
#[derive(Debug)]
pub struct Shard {
    /// What all threads share.
    pub waypoint: Arc<Waypoint>,
    /// Tunnels to other nodes.
    pub tunnels: Pool<TunnelKey, DialError>,
    /// HTTP connections to servers.
    pub http: Pools,
    /// Room for requests.
    pub requests: Arc<Semaphore>,
    /// Owns what is done for clients.
    pub tasks: Tasks,
    /// The same for `hbone`.
    pub spawner: Spawner,
    /// Owns connections to servers, which outlive requests.
    pub servers: Tasks,
}

impl Shard {
    /// One that does not listen.
    pub fn new(waypoint: &Arc<Waypoint>, tasks: Tasks, servers: Tasks) -> Arc<Self> {
        let spawner = |owner: Tasks| Spawner::new(move |name, task| drop(owner.spawn(name, task)));
        let shard = Arc::new(Self {
            waypoint: Arc::clone(waypoint),
            tunnels: Pool::new(waypoint.pool.clone(), spawner(servers.clone())),
            http: Pools::new(),
            requests: Arc::new(Semaphore::new(waypoint.config.bounds.requests)),
            spawner: spawner(tasks.clone()),
            tasks,
            servers,
        });
        waypoint.enter(&shard);
        shard
    }

    /// Listens on the port of tunnels, on the thread that `tasks` spawns on.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn start(waypoint: &Arc<Waypoint>, tasks: &Tasks, servers: &Tasks) -> anyhow::Result<()> {
        let address = waypoint.config.hbone;
        let socket = listen(address).with_context(|| format!("listening on {address}"))?;
        let shard = Self::new(waypoint, tasks.clone(), servers.clone());
        let (group, tended) = (tasks.clone(), Arc::clone(&shard));
        drop(tasks.spawn("listener", async move {
            let limits = accept::Limits { name: "connection", connections: CONNECTIONS };
            let served = match accept::adopt(socket.into()) {
                Ok(listener) => {
                    let handle = |stream, peer| inbound::handle(Arc::clone(&shard), stream, peer);
                    accept::serve(listener, &group, limits, handle).await
                }
                Err(source) => Err(accept::AcceptError { name: "connection", source }),
            };
            if let Err(error) = served {
                tracing::error!(error = %chain(&error), "a listener failed");
            }
        }));
        let shutdown = servers.shutdown();
        drop(servers.spawn("idle connections", async move {
            while tokio::time::timeout(crate::pools::TENDED, shutdown.requested()).await.is_err() {
                tended.http.tend(std::time::Instant::now());
            }
        }));
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}
