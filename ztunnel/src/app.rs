// SPDX-License-Identifier: Apache-2.0
//! Puts the process together, runs it and takes it down in order. Readiness is answered by a data-plane thread: it says
//! that those run.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use ebpf_claim::Claims;
use hbone::{PoolSettings, Settings};
use identity::{Identities, Profile, ca::Subject};
use proxy::{
    control::{self, Followed},
    process,
    shown::serve_readiness,
};
use runtime::{Tasks, log, metrics::MetricsSettings, readiness::Readiness, signals};
use tokio::{runtime::Handle, sync::Notify};

use crate::{
    admin::{self, Admin},
    aside::Aside,
    config::Config,
    metrics::{IDLE, Metrics},
    netns::Netns,
    node::Node,
    pods::{LAST_WORDS, Pods, cut_off},
    record::chain,
    resolver::Resolver,
    socket::{Capture, SocketOptions},
};

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How often the claim map is looked for while the node agent has not made it.
const CLAIMS_RETRY: Duration = Duration::from_millis(100);

/// Runs until it is told to end.
///
/// # Errors
/// When the environment cannot be used, or something that everything needs cannot be had.
pub fn run(variables: impl IntoIterator<Item = (String, String)>) -> anyhow::Result<()> {
    let config = Config::new(variables)?;
    let log = log::init(config.proxy.log.clone())?;
    process::run("ztunnel", config.workers, |workers| supervise(config, log, workers))
}

async fn supervise(config: Config, log: log::LogControl, workers: Vec<Handle>) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let data = tasks.group("data plane");
    let readiness = Readiness::new();
    let exported = runtime::metrics::install(metrics_settings(), &tasks)?;
    metrics::gauge!("ambit_restarts").set(f64::from(config.restarts));
    let quit = Arc::new(Notify::new());

    let Followed { replica, stats, identities, profile } =
        control::follow(&config.proxy, &xds::Kind::L4, Subject::Impersonated, &tasks)?;
    let resolver = Resolver::new(&config.resolv_conf);
    let dns =
        crate::dns::settings(&config, resolver.search()).context("CLUSTER_DOMAIN is not a host name")?;
    let mut claims_gate = readiness.gate("capture");
    let mut sync_gate = readiness.gate("state manager");
    let pods_gate = readiness.gate("workload proxy manager");

    let addresses = config.proxy.addresses;
    let readiness_on = workers.first().cloned().context("there are no data-plane threads")?;
    serve_readiness(&tasks.on(readiness_on), addresses, &readiness)?;

    let claims = tokio::select! {
        claims = claims(&config) => claims,
        signal = signals::terminated() => {
            signal.context("catching signals")?;
            return Ok(());
        }
    };
    claims_gate.ready();
    let parts = Parts { replica, identities, profile, resolver, dns, claims, workers };
    let node = Arc::new(node(config, parts)?);
    admin::serve(
        &tasks,
        addresses,
        Admin { node: Arc::clone(&node), log, exported, stats, quit: Arc::clone(&quit) },
    )?;
    drop(tasks.spawn_vital("follow", Arc::clone(&node).follow(tasks.clone())));
    let synced = node.replica.clone();
    drop(tasks.spawn("sync", async move {
        synced.wait_synced().await;
        tracing::info!("the mesh is known");
        sync_gate.ready();
    }));
    drop(data.spawn("pods", Pods::new(Arc::clone(&node), data.clone(), pods_gate).run(data.shutdown())));
    tracing::info!(version = VERSION, workers = node.workers.len(), "started");
    process::asked_to_end(&tasks, &quit).await?;
    drain(&node, &tasks, &data).await;
    Ok(())
}

/// Listeners close at once; connections have until the deadline, and a moment to be recorded. Certificates and the
/// mesh stay current meanwhile.
async fn drain(node: &Node, tasks: &Tasks, data: &Tasks) {
    let deadline = node.config.proxy.drain;
    let drained = data.drain(deadline + LAST_WORDS);
    tokio::pin!(drained);
    if tokio::time::timeout(deadline, &mut drained).await.is_err() {
        let closed = cut_off(&node.shards());
        tracing::info!(closed, deadline = ?deadline, "the drain's deadline has passed, connections were closed");
        let left = drained.await;
        if !left.forced.is_empty() {
            tracing::debug!(tasks = ?left.forced, "dropped at the end");
        }
    } else {
        tracing::info!(closed = 0, "every connection has ended by itself");
    }
    tasks.drain(LAST_WORDS).await;
    tracing::info!("ended");
}

fn metrics_settings() -> MetricsSettings {
    MetricsSettings {
        buckets: vec![(
            "istio_dns_upstream_request_duration_seconds",
            vec![0.0005, 0.001, 0.01, 0.1, 1.0, 5.0],
        )],
        idle: Some(IDLE),
    }
}

/// The node agent's claim map, once the agent has made it.
async fn claims(config: &Config) -> Option<Claims> {
    let path = config.claim_map.as_ref()?;
    let mut told = false;
    loop {
        match Claims::open(path) {
            Ok(claims) => return Some(claims),
            Err(error) if !told => {
                tracing::info!(error = %chain(&error), "waiting for the node agent");
                told = true;
            }
            Err(_still_missing) => {}
        }
        tokio::time::sleep(CLAIMS_RETRY).await;
    }
}

/// What [`Node`] is made of besides the configuration.
struct Parts {
    replica: xds::Replica,
    identities: Identities,
    profile: Profile,
    resolver: Resolver,
    dns: plan::dns::Settings,
    claims: Option<Claims>,
    workers: Vec<Handle>,
}

fn node(config: Config, parts: Parts) -> anyhow::Result<Node> {
    let Parts { replica, identities, profile, resolver, dns, claims, workers } = parts;
    let capture = if claims.is_some() { Capture::InPlace } else { Capture::Redirected };
    let options = SocketOptions {
        mark: config.mark,
        keepalive: config.keepalive,
        ipv6: config.proxy.ipv6,
        port_reuse: config.port_reuse,
        claims,
    };
    Ok(Node {
        replica,
        identities,
        profile,
        metrics: Metrics::new(VERSION),
        aside: Aside::default(),
        resolver,
        dns,
        home: Netns::own().context("opening the own network namespace")?,
        options: Arc::new(options),
        capture,
        workers,
        pool: PoolSettings {
            connection: config.proxy.tunnel.bound(Settings::client()),
            idle_timeout: config.proxy.tunnel.idle,
            ..PoolSettings::default()
        },
        server: Settings {
            max_streams: Settings::server().max_streams,
            ..config.proxy.tunnel.bound(Settings::server())
        },
        shards: parking_lot::RwLock::default(),
        config,
    })
}
