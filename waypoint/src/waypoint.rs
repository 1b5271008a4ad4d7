// SPDX-License-Identifier: Apache-2.0
//! What all threads of this process share, and what changes of the mesh mean for what is open.

use std::{
    path::Path,
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use ::proxy::{
    ask::{PATIENCE, ask_plain},
    open::{Entered, Open},
};
use hbone::{Abort, Cause, PoolSettings, Settings};
use identity::{Identities, Profile};
use mesh::{Moved, SpiffeId, Touched};
use parking_lot::{Mutex, RwLock};
use plan::{Answer, Failure, Local, Missing, What};
use runtime::Tasks;
use rustls::ServerConfig;
use tokio::sync::Semaphore;
use xds::Replica;

use crate::{
    app::VERSION,
    budget::Budgets,
    config::Config,
    endpoints::Endpoints,
    guard,
    jwt::keyring::Keyring,
    lineups::Lineups,
    metrics::Metrics,
    names::Names,
    observed::Observed,
    open::{ByServerName, Carried},
    outside::{self, Outsides},
    shard::Shard,
    spans::{Sender, export::Exporters},
    tap::Taps,
};

/// Tunnels whose destination's address belongs to somebody else now.
const MOVED: Cause = Cause("the address belongs to another identity now");
/// Where the DNS servers of this pod are named.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// TLS handshakes at a time: they are what costs most.
const HANDSHAKES: usize = 512;

/// See the module.
pub struct Waypoint {
    /// What was set from outside.
    pub config: Config,
    /// The mesh.
    pub replica: Replica,
    /// The own certificate.
    pub identities: Identities,
    /// How mutual TLS is done.
    pub profile: Profile,
    /// Counters.
    pub metrics: Metrics,
    /// What endpoints have shown so far.
    pub endpoints: Endpoints,
    /// Endpoints in the order of their turns.
    pub lineups: Lineups,
    /// Addresses of endpoints that are names.
    pub names: Names,
    /// TLS with servers outside the mesh.
    pub outsides: Outsides,
    /// Keys by which tokens are proven.
    pub keyring: Arc<Keyring>,
    /// Connections that are carried as bytes.
    pub open: Arc<Open<Carried>>,
    /// Whether its guards look at names in TLS handshakes.
    pub by_server_name: ByServerName,
    /// Requests under way by service.
    pub budgets: Budgets,
    /// What is to be observed of requests.
    pub observed: Observed,
    /// Who looks at requests.
    pub taps: Taps,
    /// What sends spans.
    pub exporters: Exporters,
    /// Of tunnels to others.
    pub pool: PoolSettings,
    /// Of tunnels from others.
    pub server: Settings,
    /// Room for TLS handshakes.
    pub handshakes: Semaphore,
    /// Of the server's side of handshakes; it follows the certificate's renewals.
    tls: Mutex<Option<(SpiffeId, Arc<ServerConfig>)>>,
    /// Before and after the first sync.
    locals: [Local; 2],
    shards: RwLock<Vec<Weak<Shard>>>,
    started: Instant,
}

/// What a waypoint is made of besides the configuration.
#[derive(Debug)]
pub struct Parts {
    /// The mesh.
    pub replica: Replica,
    /// The own certificate.
    pub identities: Identities,
    /// How mutual TLS is done.
    pub profile: Profile,
}

impl Waypoint {
    /// One that listens to nobody yet.
    pub fn new(config: Config, parts: Parts) -> Self {
        let local = |synced| Local {
            workload: config.own.clone(),
            network: config.proxy.network.clone(),
            cluster: config.proxy.cluster.as_str().into(),
            synced,
            preserve_source: false,
            tunnel_on_loopback: false,
        };
        Self {
            locals: [false, true].map(local),
            pool: PoolSettings {
                connection: config.proxy.tunnel.bound(Settings::client()).with_room_for_all(),
                idle_timeout: config.proxy.tunnel.idle,
                ..PoolSettings::default()
            },
            server: Settings {
                max_streams: Settings::server().max_streams,
                ..config.proxy.tunnel.bound(Settings::server())
            }
            .with_room_for_all(),
            metrics: Metrics::new(VERSION),
            endpoints: Endpoints::default(),
            lineups: Lineups::default(),
            names: Names::new(Path::new(RESOLV_CONF)),
            budgets: Budgets::default(),
            taps: Taps::default(),
            observed: Observed::new(config.tracing.clone()),
            exporters: Exporters::new(Sender {
                service: format!("{}.{}", config.own.service_account, config.own.namespace),
                pod: config.own.name.to_string(),
                namespace: config.own.namespace.to_string(),
                version: VERSION,
            }),
            outsides: Outsides::default(),
            keyring: Arc::default(),
            open: Arc::default(),
            by_server_name: ByServerName::default(),
            handshakes: Semaphore::new(HANDSHAKES),
            tls: Mutex::default(),
            shards: RwLock::default(),
            started: Instant::now(),
            replica: parts.replica,
            identities: parts.identities,
            profile: parts.profile,
            config,
        }
    }

    /// Whom decisions are made for.
    pub fn local(&self) -> &Local {
        let [before, after] = &self.locals;
        if self.replica.synced() { after } else { before }
    }

    /// Time since the start, which decisions about endpoints count by.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Who this pod is: what discovery says of it.
    ///
    /// # Errors
    /// When discovery does not say it in time.
    pub async fn identity(&self) -> Result<SpiffeId, Failure> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        ask_plain(&self.replica, deadline, |index| {
            let own = &self.config.own;
            match index.workloads_named(own).next() {
                Some(workload) => Answer::Ready(workload.identity()),
                None => Answer::Needs(Missing::Workload(own.clone())),
            }
        })
        .await
    }

    /// The same, however long it takes.
    pub async fn await_identity(&self) -> SpiffeId {
        loop {
            match self.identity().await {
                Ok(identity) => return identity,
                Err(failure) => tracing::warn!(error = %failure, "the own identity is not known"),
            }
        }
    }

    /// Made once: a handshake only reads it.
    ///
    /// # Errors
    /// When there is no certificate, or none in time.
    pub async fn server_config(&self) -> Result<Arc<ServerConfig>, Failure> {
        let identity = self.identity().await?;
        if self.identities.cached(&identity).is_none() {
            let fetched = self.identities.certificate(&identity).await;
            fetched.map_err(|error| ::proxy::dialling::identity_failure(&error))?;
        }
        let mut kept = self.tls.lock();
        if let Some((known, config)) = kept.as_ref()
            && *known == identity
        {
            return Ok(Arc::clone(config));
        }
        let config = self.profile.server_config(self.identities.follow(&identity));
        let config = config.map_err(|error| What::Tls(::proxy::chain(&error).to_string()))?;
        *kept = Some((identity, Arc::clone(&config)));
        Ok(config)
    }

    /// Notes a thread's part.
    pub fn enter(&self, shard: &Arc<Shard>) {
        self.shards.write().push(Arc::downgrade(shard));
    }

    /// Every thread's part.
    pub fn shards(&self) -> Vec<Arc<Shard>> {
        self.shards.read().iter().filter_map(Weak::upgrade).collect()
    }

    /// Reacts to changes until the group ends.
    pub async fn follow(self: Arc<Self>, tasks: Tasks) {
        let mut touches = self.replica.touches();
        let shutdown = tasks.shutdown();
        loop {
            let touched = tokio::select! {
                () = shutdown.requested() => return,
                touched = touches.next() => touched,
            };
            self.react(&touched);
        }
    }

    /// Enters a connection that is carried as bytes from now on.
    pub fn carry(&self, carried: Carried) -> (Entered<Carried>, Abort) {
        let (entered, abort) = self.open.enter(carried);
        // What changed since it was let in has asked those only who were there.
        if let Err(refused) = guard::carried(self, &entered.connection.known) {
            entered.connection.end(guard::changed(refused));
        }
        (entered, abort)
    }

    /// Asks the guards again about what is open.
    fn judge_again(&self) {
        let open = self.open.snapshot();
        let mut ended = 0;
        for connection in open {
            if let Err(refused) = guard::carried(self, &connection.known) {
                connection.end(guard::changed(refused));
                ended += 1;
            }
        }
        if ended > 0 {
            tracing::info!(ended, "connections ended: a policy refuses them from now on");
        }
    }

    /// An address that changed hands closes what leads there; an endpoint that is gone is forgotten.
    fn react(&self, touched: &Touched) {
        if touched.telemetry {
            self.observed.forget();
            self.exporters.retain(|provider| self.observed.is_named(self, provider));
        }
        if touched.workloads || touched.services {
            self.lineups.clear();
        }
        if touched.services {
            self.lineups.retain(|name| self.replica.read(|index| index.service(name).is_some()));
        }
        if touched.guards {
            self.replica.read(|index| self.by_server_name.follow(index));
            self.judge_again();
        }
        for shard in self.shards() {
            if !touched.moved.is_empty() {
                let moved = |ip, expected: &[SpiffeId]| self.has_moved(&touched.moved, ip, expected);
                let closed = shard.tunnels.close(MOVED, |key| moved(key.address.ip(), &key.expected));
                let plain = shard.http.close(|key| moved(key.next.ip(), &key.expected));
                if closed + plain > 0 {
                    tracing::info!(closed, plain, "connections closed: their address changed hands");
                }
            }
            if touched.workloads {
                shard.http.close(|key| {
                    key.endpoint
                        .as_ref()
                        .is_some_and(|uid| self.replica.read(|index| index.workload(uid).is_none()))
                });
            }
        }
        if touched.routes {
            self.follow_tls();
        }
        if touched.workloads {
            self.endpoints.retain(|uid| self.replica.read(|index| index.workload(uid).is_some()));
        }
    }

    /// What was opened under TLS that is said no more is used no more.
    fn follow_tls(&self) {
        let said = self.replica.read(outside::said);
        self.outsides.retain(&said);
        for shard in self.shards() {
            let closed = shard.http.close(|key| key.tls.as_ref().is_some_and(|tls| !said.contains(tls)));
            if closed > 0 {
                tracing::info!(closed, "connections closed: their TLS is said otherwise now");
            }
        }
    }

    fn has_moved(&self, moved: &[Moved], ip: std::net::IpAddr, expected: &[SpiffeId]) -> bool {
        moved.iter().any(|moved| {
            moved.address.ip == ip
                && moved.address.network == self.config.proxy.network
                && moved.now.as_ref().is_none_or(|now| !expected.contains(now))
        })
    }
}

impl std::fmt::Debug for Waypoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waypoint").field("own", &self.config.own).finish_non_exhaustive()
    }
}
