// SPDX-License-Identifier: Apache-2.0
//! Puts the process together, runs it and takes it down in order. Readiness is answered by a data-plane thread: it says
//! that those run.

use std::sync::Arc;

use ::proxy::{
    control::{self, Followed},
    ends::IDLE,
    process,
    shown::serve_readiness,
};
use anyhow::Context as _;
use identity::{Priority, ca::Subject};
use runtime::{Tasks, log, metrics::MetricsSettings, readiness::Readiness};
use tokio::{runtime::Handle, sync::Notify};

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
    let log = log::init(config.proxy.log.clone())?;
    process::run("waypoint", config.workers, |workers| supervise(config, log, workers))
}

async fn supervise(config: Config, log: log::LogControl, workers: Vec<Handle>) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let data = tasks.group("clients");
    let servers = tasks.group("servers");
    let readiness = Readiness::new();
    let settings = MetricsSettings { buckets: buckets(), idle: Some(IDLE) };
    let exported = runtime::metrics::install(settings, &tasks)?;
    let quit = Arc::new(Notify::new());

    let Followed { replica, stats, identities, profile } =
        control::follow(&config.proxy, &xds::Kind::ALL, Subject::Caller, &tasks)?;
    let mut certificate_gate = readiness.gate("certificate");

    let addresses = config.proxy.addresses;
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
    process::asked_to_end(&tasks, &quit).await?;
    drain(&waypoint, &tasks, &data).await;
    Ok(())
}

/// Listeners close at once, clients are told to go elsewhere (GOAWAY); requests have until the deadline, and a moment to
/// be recorded. Certificates and the mesh stay current meanwhile.
async fn drain(waypoint: &Waypoint, tasks: &Tasks, data: &Tasks) {
    let left = data.drain(waypoint.config.proxy.drain).await;
    if !left.forced.is_empty() {
        tracing::info!(tasks = ?left.forced, "dropped at the end");
    }
    tasks.drain(LAST_WORDS).await;
    tracing::info!("ended");
}
