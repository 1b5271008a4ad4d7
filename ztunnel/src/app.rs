// SPDX-License-Identifier: Apache-2.0
//! Puts the process together, runs it and takes it down in order.
//!
//! One thread for everything that is not payload (discovery, certificates, admin, metrics), and the data-plane threads,
//! so that a scrape never delays a byte. Readiness is answered by a data-plane thread: it says that those run.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use ebpf_claim::Claims;
use hbone::{PoolSettings, Settings};
use identity::{
    CaClient, CaSettings, Compliance, Connector, Credentials, Identities, IdentitiesSettings, Profile,
    RootSource, SystemClock, Token, Trust, ca::Subject,
};
use runtime::{Tasks, log, metrics::MetricsSettings, readiness::Readiness, signals};
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;
use xds::{ClientConfig, Writer};

use crate::{
    admin::{self, Admin},
    aside::Aside,
    config::{Config, Text, TunnelConfig, Upstream},
    metrics::{IDLE, Metrics},
    netns::Netns,
    node::Node,
    pods::{LAST_WORDS, Pods},
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
        .name(format!("ztunnel-{number}"))
        .spawn(move || runtime.block_on(stop.cancelled()))
        .context("starting a data-plane thread")?;
    Ok(handle)
}

async fn supervise(config: Config, log: log::LogControl, workers: Vec<Handle>) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let data = tasks.group("data plane");
    let readiness = Readiness::new();
    let exported = runtime::metrics::install(metrics_settings(), &tasks)?;
    let quit = Arc::new(Notify::new());

    let writer = Writer::new();
    let replica = writer.replica();
    let profile = profile(&config);
    let discovery = discovery(&config, &profile, writer)?;
    let stats = discovery.stats();
    let (identities, renewal) = identities(&config, &profile)?;
    let dns_resolver = Resolver::new(&config.resolv_conf);
    let dns =
        crate::dns::settings(&config, dns_resolver.search()).context("CLUSTER_DOMAIN is not a host name")?;
    let mut claims_gate = readiness.gate("capture");
    let mut sync_gate = readiness.gate("state manager");
    let pods_gate = readiness.gate("workload proxy manager");

    drop(tasks.spawn_vital("discovery", discovery.run(requested(&tasks))));
    drop(tasks.spawn_vital("certificates", renewal.run(requested(&tasks))));


