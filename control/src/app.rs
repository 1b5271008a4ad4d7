// SPDX-License-Identifier: Apache-2.0
//! Puts the parts together: what reads, what answers, and in which order they start and end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

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
use xds::server::{Scopes, ServerSettings};

use crate::{
    authenticate::{Authenticate, Authenticator, Discovery, Reviews, StaticTokens},
    ca::{CertificateService, Root, Signer, Vouch},
    cluster::{self, Cluster},
    config::{Config, Folder, Kubernetes, Source},
    live::Live,
    manifests::{FolderSettings, FolderView, watch},
    objects::Kind,
    serve::{
        self, Serving, Status,
        status::{Rejections, SourceView},
    },
};

pub use crate::cluster::Statuses;

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
    let running = async {
        start(config, Arc::new(move || metrics.render()), &tasks).await?;
        anyhow::Ok(tasks.failed().await)
    };
    let failed = tokio::select! {
        signal = terminated => {
            tracing::info!(signal = ?signal.context("cannot catch signals")?, "asked to end");
            None
        }
        failed = running => Some(failed?),
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

/// Removes what control has made in the cluster.
///
/// # Errors
/// When something stays, or the objects are not in a cluster.
pub async fn uninstall(config: Config, statuses: Statuses) -> anyhow::Result<()> {
    match config.source {
        Source::Kubernetes(cluster) => cluster::uninstall(cluster, statuses).await,
        Source::Folder(_) => anyhow::bail!("AMBIT_SOURCE is not kubernetes"),
    }
}

/// Starts everything; returns once both ports listen. Discovery is silent until the objects have been read.
///
/// # Errors
/// When the root or the tokens cannot be used, or an address is taken.
pub async fn start(config: Config, render: Render, tasks: &Tasks) -> anyhow::Result<Control> {
    let webhook = match &config.source {
        Source::Folder(_) => None,
        Source::Kubernetes(cluster) => Some(bind(cluster.webhook_address)?),
    };
    let ports =
        Ports { discovery: bind(config.discovery_address)?, metrics: bind(config.metrics_address)?, webhook };
    let started = Control { discovery: ports.discovery.local_addr()?, metrics: ports.metrics.local_addr()? };
    let live = Arc::new(Live::new(config.mesh));
    let readiness = Readiness::new();
    let Origin { signer, authenticator, vouch, view } = match config.source {
        Source::Folder(folder) => standalone(folder, &live, &readiness, tasks)?,
        Source::Kubernetes(cluster) => {
            in_cluster(cluster, &live, (&readiness, config.certificate_ttl), tasks).await?
        }
    };
    let serving = Serving::new(signer.clone(), &config.tls_names)?;
    let authenticator = Arc::new(authenticator);
    let reader =
        Discovery { authenticator: Arc::clone(&authenticator), trust_domain: live.trust_domain().clone() };
    let world = Arc::clone(&live);
    let scopes = Scopes::new(move |node, caller| world.scope(node, caller));
    let server = xds::Server::with_scopes(live.catalogue(), reader, scopes, ServerSettings::default());
    let certificates = CertificateService {
        authenticator,
        live: Arc::clone(&live),
        signer: signer.clone(),
        vouch,
        node_accounts: config.node_accounts,
        longest: config.certificate_ttl,
    };
    let answers = Answers {
        routes: Routes::new(server.service()).add_service(certificates.service()).prepare(),
        webhook: serve::webhook_router(Arc::clone(&live)),
    };
    let status = Status { source: view, live, server, signer, readiness, rejections: Rejections::default() };
    spawn_watchers(&status, tasks);
    spawn_ports(ports, serving, answers, serve::router(status, render), tasks);
    tracing::info!(discovery = %started.discovery, metrics = %started.metrics, "control plane started");
    Ok(started)
}

/// What differs between a folder and a cluster.
struct Origin {
    signer: Signer,
    authenticator: Authenticator,
    vouch: Vouch,
    view: SourceView,
}

fn standalone(
    folder: Folder,
    live: &Arc<Live>,
    readiness: &Readiness,
    tasks: &Tasks,
) -> anyhow::Result<Origin> {
    let Folder { manifests, state, tokens } = folder;
    let root = Root::open(&state, live.trust_domain(), SystemTime::now()).context("no root certificate")?;
    let known = StaticTokens::open(tokens.as_deref()).context("no tokens")?;
    if tokens.is_none() {
        tracing::warn!("AMBIT_TOKENS is not set: nobody can call");
    }
    let view = FolderView::default();
    let settings = FolderSettings { manifests: manifests.clone(), keep: state.join("last-good") };
    let gate = readiness.gate("manifests");
    let watching = watch(settings, Arc::clone(live), view.clone(), gate, tasks.shutdown());
    drop(tasks.spawn_vital("manifests", watching));
    Ok(Origin {
        signer: Signer::new(root),
        authenticator: Authenticator::Tokens(known),
        vouch: Vouch(Arc::new(|| None)),
        view: SourceView::Folder { manifests, folder: view },
    })
}

async fn in_cluster(
    settings: Kubernetes,
    live: &Arc<Live>,
    (readiness, longest): (&Readiness, Duration),
    tasks: &Tasks,
) -> anyhow::Result<Origin> {
    let audience = settings.audience.clone();
    let cluster = Cluster::open(settings, live).await?;
    let lacks = cluster.watch_rights(tasks).await;
    let signer = Signer::new(cluster.root().await?);
    let reviews = Reviews::new(cluster.api.clone(), audience, Arc::clone(live));
    let view = cluster.follow(live, readiness.gate("objects"), tasks);
    let leadership = cluster.start(live, &signer, longest, tasks);
    let (pods, synced) = (view.clone(), Arc::clone(live));
    let vouch = move || doubt(synced.is_complete(), pods.is_current(Kind::Pod));
    Ok(Origin {
        signer,
        authenticator: Authenticator::Reviews(reviews),
        vouch: Vouch(Arc::new(vouch)),
        view: SourceView::Cluster { watches: view, leadership, lacks },
    })
}

/// Why nobody can be vouched for now, if so.
fn doubt(synced: bool, current: bool) -> Option<String> {
    let reason = match (synced, current) {
        (true, true) => return None,
        (false, _) => "not yet synced: who runs where is not known yet",
        (true, false) => "the API server is out of reach: who runs where is not known now",
    };
    Some(reason.to_owned())
}

/// What follows what others say to us.
fn spawn_watchers<A: Authenticate>(status: &Status<A>, tasks: &Tasks) {
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
    /// Only where there is an API server that asks.
    webhook: Option<TcpListener>,
}

/// What is answered under TLS.
struct Answers {
    routes: Routes,
    webhook: Router,
}

/// What answers others.
fn spawn_ports(ports: Ports, serving: Serving, answers: Answers, router: Router, tasks: &Tasks) {
    drop(tasks.spawn_vital("serving certificate", serve::renew(serving.clone(), tasks.shutdown())));
    if let Some(listener) = ports.webhook {
        let (group, serving) = (tasks.clone(), serving.clone());
        drop(tasks.spawn_vital("webhook", async move {
            report(serve::serve_webhook(listener, &group, serving, answers.webhook).await);
        }));
    }
    let group = tasks.clone();
    drop(tasks.spawn_vital("discovery", async move {
        report(serve::serve(ports.discovery, &group, serving, answers.routes).await);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_vouched_for_before_everything_was_read_or_while_it_is_old() {
        for (synced, current, expected) in [
            (true, true, None),
            (false, true, Some("not yet synced")),
            (false, false, Some("not yet synced")),
            (true, false, Some("out of reach")),
        ] {
            let reason = doubt(synced, current);
            assert_eq!(reason.is_some(), expected.is_some(), "{reason:?}");
            assert!(reason.unwrap_or_default().contains(expected.unwrap_or_default()), "{expected:?}");
        }
    }
}
