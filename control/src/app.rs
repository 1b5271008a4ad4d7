// SPDX-License-Identifier: Apache-2.0
//! Puts the parts together: what reads, what answers, and in which order they start and end.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use anyhow::Context;
use runtime::{
    Tasks,
    accept::{self, Limits},
    http::Router,
    metrics::MetricsSettings,
    readiness::Readiness,
    signals,
};
use tokio::net::TcpListener;
use tonic::service::Routes;
use xds::server::ServerSettings;

use crate::{
    authenticate::{Authenticate, Discovery, StaticTokens},
    ca::{CertificateService, Root},
    config::Config,
    live::Live,
    manifests::{FolderSettings, FolderView, watch},
    serve::{self, Serving, Status, status::Rejections},
};

const METRICS_LIMITS: Limits = Limits { name: "metrics", connections: 256 };

/// Renders the numbers of this process: there is one set of them, and whoever starts the process has it.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// A started control plane: where it is reached. Its tasks belong to the group that it was started on.
#[derive(Clone, Copy, Debug)]
pub struct Control {
    /// Discovery and certificates.
    pub discovery: SocketAddr,
    /// Metrics, readiness and status.
    pub metrics: SocketAddr,
}

/// Runs the process until a signal, or until a part of it fails.
///
/// # Errors
/// When it cannot start, or a part of it fails.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let terminated = signals::terminated();
    let tasks = Tasks::new();
    let metrics = runtime::metrics::install(MetricsSettings::default(), &tasks)?;
    let drain = config.drain;
    start(config, Arc::new(move || metrics.render()), &tasks)?;
    let failed = tokio::select! {
        signal = terminated => {
            tracing::info!(signal = ?signal.context("cannot catch signals")?, "asked to end");
            None
        }
        failed = tasks.failed() => Some(failed),
    };
    let drained = tasks.drain(drain).await;
    if !drained.forced.is_empty() {
        tracing::warn!(tasks = ?drained.forced, "tasks were cut short");
    }
    match failed {
        Some(failed) => Err(failed.into()),
        None => Ok(()),
    }
}

/// Starts everything; returns once both ports listen. Discovery is silent until the manifests have been read.
///
/// # Errors
/// When the root or the tokens cannot be used, or an address is taken.
pub fn start(config: Config, render: Render, tasks: &Tasks) -> anyhow::Result<Control> {
    let root = Root::open(&config.state, &config.mesh.trust_domain, SystemTime::now())
        .context("no root certificate")?;
    let root = Arc::new(root);
    let tokens = StaticTokens::open(config.tokens.as_deref()).context("no tokens")?;
    if config.tokens.is_none() {
        tracing::warn!("AMBIT_TOKENS is not set: nobody can call");
    }
    let tokens = Arc::new(tokens);
    let serving = Serving::new(Arc::clone(&root), &config.tls_names)?;
    let ports = Ports { discovery: bind(config.discovery_address)?, metrics: bind(config.metrics_address)? };
    let started = Control { discovery: ports.discovery.local_addr()?, metrics: ports.metrics.local_addr()? };

    let live = Arc::new(Live::new(config.mesh));
    let reader = Discovery { authenticator: Arc::clone(&tokens), trust_domain: live.trust_domain().clone() };
    let server = xds::Server::new(live.catalogue(), reader, ServerSettings::default());
    let certificates = CertificateService {
        authenticator: tokens,
        live: Arc::clone(&live),
        root: Arc::clone(&root),
        node_accounts: config.node_accounts,
        longest: config.certificate_ttl,
    };
    let routes = Routes::new(server.service()).add_service(certificates.service()).prepare();
    let status = Status {
        manifests: config.manifests.clone(),
        folder: FolderView::default(),
        live,
        server,
        root,
        readiness: Readiness::new(),
        rejections: Rejections::default(),
    };
    let folder = FolderSettings { manifests: config.manifests, keep: config.state.join("last-good") };
    spawn_sources(folder, &status, tasks);
    spawn_ports(ports, serving, routes, serve::router(status, render), tasks);
    tracing::info!(discovery = %started.discovery, metrics = %started.metrics, "control plane started");
    Ok(started)
}

/// What changes the state of this process.
fn spawn_sources<A: Authenticate>(folder: FolderSettings, status: &Status<A>, tasks: &Tasks) {
    let gate = status.readiness.gate("manifests");
    let watching = watch(folder, Arc::clone(&status.live), status.folder.clone(), gate, tasks.shutdown());
    drop(tasks.spawn_vital("manifests", watching));
    let refused = status.server.rejections();
    drop(tasks.spawn_vital("rejections", status.rejections.clone().collect(refused, tasks.shutdown())));
    let (server, shutdown) = (status.server.clone(), tasks.shutdown());
    drop(tasks.spawn_vital("discovery end", async move {
        shutdown.requested().await;
        server.close();
    }));
}

struct Ports {
    discovery: TcpListener,
    metrics: TcpListener,
}

/// What answers others.
fn spawn_ports(ports: Ports, serving: Serving, routes: Routes, router: Router, tasks: &Tasks) {
    drop(tasks.spawn_vital("serving certificate", serve::renew(serving.clone(), tasks.shutdown())));
    let group = tasks.clone();
    drop(tasks.spawn_vital("discovery", async move {
        report(serve::serve(ports.discovery, &group, serving, routes).await);
    }));
    let group = tasks.clone();
    drop(tasks.spawn_vital("metrics port", async move {
        report(runtime::http::serve(ports.metrics, &group, METRICS_LIMITS, router).await);
    }));
}

fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    accept::bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// The task that ends with this is vital: the process ends too.
fn report(ended: Result<(), accept::AcceptError>) {
    if let Err(error) = ended {
        let cause = std::error::Error::source(&error).map(tracing::field::display);
        tracing::error!(%error, cause, "a port is lost");
    }
}
