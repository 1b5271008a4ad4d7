// SPDX-License-Identifier: Apache-2.0
//! Puts the process together, runs it and takes it down in order.
//!
//! One thread for everything that is not payload (discovery, certificates, admin, metrics), and the data-plane threads,
//! so that a scrape never delays a request. Readiness is answered by a data-plane thread: it says that those run.

use std::{sync::Arc, thread};

use ::proxy::{
    control::Plane,
    ends::IDLE,
    shown::{Addresses, serve_readiness},
};
use anyhow::Context as _;
use identity::{Compliance, Priority, Profile, Trust, ca::Subject};
use runtime::{Tasks, log, metrics::MetricsSettings, readiness::Readiness, signals};
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;
use xds::Writer;

use crate::{
    admin::{self, Admin},
    config::Config,
    jwt::fetch::Fetcher,
    metrics::buckets,
    shard::{LAST_WORDS, Shard},
    waypoint::{Parts, Waypoint},
};

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Runs until it is told to end.
///
/// # Errors
/// When the environment cannot be used, or something that everything needs cannot be had.
pub fn run(variables: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<()> {
    let config = Config::new(variables)?;
    let log = log::init(config.log.clone())?;
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("another TLS provider was installed first");
    }
    let stop = CancellationToken::new();
    let workers = (0..config.workers).map(|number| worker(number, &stop)).collect::<Result<Vec<_>, _>>()?;
    let control =
        Builder::new_current_thread().enable_all().build().context("starting the control runtime")?;
    let outcome = control.block_on(supervise(config, log, workers));
    stop.cancel();
    outcome
}

/// A thread with a runtime of its own, so that connections and their tunnels never change threads.
fn worker(number: usize, stop: &CancellationToken) -> anyhow::Result<Handle> {
    let runtime =
        Builder::new_current_thread().enable_all().build().context("starting a data-plane runtime")?;
    let handle = runtime.handle().clone();
    let stop = stop.clone();
    thread::Builder::new()
        .name(format!("waypoint-{number}"))
        .spawn(move || runtime.block_on(stop.cancelled()))
        .context("starting a data-plane thread")?;
    Ok(handle)
}

async fn supervise(config: Config, log: log::LogControl, workers: Vec<Handle>) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let data = tasks.group("clients");
    let servers = tasks.group("servers");
    let readiness = Readiness::new();
    let settings = MetricsSettings { buckets: buckets(), idle: Some(IDLE) };
    let exported = runtime::metrics::install(settings, &tasks)?;
    let quit = Arc::new(Notify::new());

    let writer = Writer::new();
    let replica = writer.replica();
    let profile = profile(&config);
    let plane = plane(&config, &profile);
    let discovery = plane.discovery(writer)?;
    let stats = discovery.stats();
    let (identities, renewal) = plane.identities(Subject::Caller)?;
    let mut certificate_gate = readiness.gate("certificate");

    drop(tasks.spawn_vital("discovery", discovery.run(requested(&tasks))));
    drop(tasks.spawn_vital("certificates", renewal.run(requested(&tasks))));
    let addresses = Addresses { admin: config.admin, metrics: config.metrics, readiness: config.readiness };
    let first = workers.first().cloned().context("there are no data-plane threads")?;
    serve_readiness(&tasks.on(first), addresses, &readiness)?;

    let waypoint = Arc::new(Waypoint::new(config, Parts { replica, identities, profile }));
    waypoint.exporters.start(&tasks.on(Handle::current()));
    let shown = Admin { waypoint: Arc::clone(&waypoint), log, exported, stats, quit: Arc::clone(&quit) };
    admin::serve(&tasks, addresses, shown)?;
    for worker in workers {
        Shard::start(&waypoint, &data.on(worker.clone()), &servers.on(worker))?;
    }
    let keyring = Arc::clone(&waypoint.keyring);
    let fetcher = Fetcher::new(waypoint.outsides.machine.roots());
    let tending = keyring.tend(waypoint.replica.clone(), fetcher, tasks.clone(), tasks.shutdown());
    drop(tasks.spawn_vital("keyring", tending));
    drop(tasks.spawn_vital("follow", Arc::clone(&waypoint).follow(tasks.clone())));
    let ready = Arc::clone(&waypoint);
    drop(tasks.spawn("ready", async move {
        ready.replica.wait_synced().await;
        let identity = ready.await_identity().await;
        ready.identities.prefetch(&identity, Priority::RealTime);
        let mut current = ready.identities.follow(&identity);
        while current.certificate().is_none() && current.changed().await {}
        tracing::info!(%identity, "the mesh and the own certificate are known");
        certificate_gate.ready();
    }));
    tracing::info!(version = VERSION, "started");
    wait_for_the_end(&tasks, &quit).await?;
    drain(&waypoint, &tasks, &data).await;
    Ok(())
}

fn requested(tasks: &Tasks) -> impl Future<Output = ()> + Send + 'static {
    let shutdown = tasks.shutdown();
    async move { shutdown.requested().await }
}

async fn wait_for_the_end(tasks: &Tasks, quit: &Notify) -> anyhow::Result<()> {
    tokio::select! {
        signal = signals::terminated() => {
            tracing::info!(signal = ?signal.context("catching signals")?, "asked to end");
        }
        () = quit.notified() => tracing::info!("asked to end by the admin interface"),
        failed = tasks.failed() => anyhow::bail!(failed),
    }
    Ok(())
}

/// Listeners close at once, clients are told to go elsewhere (GOAWAY); requests have until the deadline, and a moment to
/// be recorded. Certificates and the mesh stay current meanwhile.
async fn drain(waypoint: &Waypoint, tasks: &Tasks, data: &Tasks) {
    let left = data.drain(waypoint.config.drain).await;
    if !left.forced.is_empty() {
        tracing::info!(tasks = ?left.forced, "dropped at the end");
    }
    tasks.drain(LAST_WORDS).await;
    tracing::info!("ended");
}

fn profile(config: &Config) -> Profile {
    let compliance = if config.post_quantum_only { Compliance::PostQuantum } else { Compliance::Preferred };
    Profile::new(compliance, Trust { aliases: config.trust_domain_aliases.clone(), bundles: Vec::new() })
}

fn plane(config: &Config, profile: &Profile) -> Plane {
    Plane {
        xds: config.xds.clone(),
        ca: config.ca.clone(),
        token: config.token.clone(),
        cluster: config.cluster.clone(),
        node_id: config.node_id.clone(),
        kinds: &xds::Kind::ALL,
        certificate_life: config.certificate_life,
        profile: profile.clone(),
    }
}
