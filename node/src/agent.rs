// SPDX-License-Identifier: Apache-2.0
//! The agent put together: what was there is adopted, then ztunnel and the local API are served. When it ends,
//! everything it made stays; only [`detach_all`] takes it back.

use std::{
    fs::{self, Permissions},
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::Duration,
};

use anyhow::{Context, bail};
use ebpf_loader::Settings;
use runtime::{
    Tasks,
    accept::{self, Limits},
    http::{self, Router},
    signals,
};

use crate::{
    api,
    capture::Capture,
    chain::Chain,
    config::Config,
    enrol::Enrolment,
    metrics,
    record::{Record, Records},
    zds::{self, Announcements, packet::Listener},
};

/// Longer than a climb waits for ztunnel, so that a pod that is being enrolled gets its answer.
const DRAIN: Duration = Duration::from_secs(15);
/// Nothing else has anything to finish.
const CLOSE: Duration = Duration::from_secs(1);
/// One connection per sandbox that the node starts at the same time, and more.
const API: Limits = Limits { name: "api", connections: 256 };
const METRICS: Limits = Limits { name: "metrics", connections: 16 };
/// Only root talks to the agent.
const SOCKET_MODE: u32 = 0o600;

/// Runs until a signal.
///
/// # Errors
/// When it cannot start, or a part without which it is useless has failed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let recorder = runtime::metrics::install(metrics::settings(), &tasks)?;
    // Pods on their way get their answer before ztunnel is let go.
    let (pods, ztunnels) = (tasks.group("pods"), tasks.group("ztunnels"));
    let announcements = Announcements::new();
    let (enrolment, records) = prepare(&config, &announcements, &pods)?;
    tracing::info!(records = records.len(), claims = %enrolment.capture().claim_map().display(), "starting");
    // Before ztunnel finds the agent: it drops pods that its snapshot lacks.
    enrolment.adopt(records).await;
    drop(pods.spawn_vital("sweep", enrolment.clone().sweep()));
    serve_zds(&config.zds, announcements, &ztunnels)?;
    serve_api(&config.api, api::router(enrolment.clone()), &pods)?;
    serve_metrics(config.metrics, api::metrics_router(recorder, enrolment), &tasks)?;

    let failed = tokio::select! {
        signal = signals::terminated() => {
            tracing::info!(signal = ?signal.context("cannot catch signals")?, "stopping, pods stay captured");
            None
        }
        failed = tasks.failed() => Some(failed),
    };
    let (pods, rest) = (pods.drain(DRAIN).await, tasks.drain(CLOSE).await);
    tracing::info!(pods = ?pods.forced, rest = ?rest.forced, "stopped");
    failed.map_or(Ok(()), |failed| Err(failed.into()))
}

/// Un-enrols every pod and removes every pin.
///
/// # Errors
/// When another agent runs, or a pod cannot be released; the others are then.
pub async fn detach_all(config: Config) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let (enrolment, records) = prepare(&config, &Announcements::new(), &tasks)?;
    let count = records.len();
    enrolment.discard(records).await;
    let left = enrolment.list();
    if !left.is_empty() {
        let pods: Vec<_> =
            left.iter().map(|status| format!("{} ({:?})", status.pod.uid, status.state)).collect();
        bail!("{} of {count} pods are not released: {}", left.len(), pods.join(", "));
    }
    for uid in enrolment.capture().attached()? {
        enrolment.capture().detach(&uid).await.with_context(|| format!("cannot release the pod {uid}"))?;
    }
    drop(enrolment);
    let bpf_dir = &config.bpf_dir;
    remove_pins(bpf_dir).with_context(|| format!("cannot remove the pins in {}", bpf_dir.display()))?;
    tracing::info!(pods = count, "every pod is released");
    Ok(())
}

/// Programs loaded, records read, nothing changed yet.
fn prepare(
    config: &Config,
    announcements: &Announcements,
    tasks: &Tasks,
) -> anyhow::Result<(Enrolment, Vec<Record>)> {
    let records = Records::open(&config.state)?;
    let (good, damaged): (Vec<_>, Vec<_>) = records.load()?.into_iter().partition(Result::is_ok);
    for error in damaged.into_iter().filter_map(Result::err) {
        tracing::error!(error = %Chain(&error), "a pod is not adopted; add it again to repair its capture");
    }
    let good: Vec<_> = good.into_iter().filter_map(Result::ok).collect();
    let mut settings = Settings::embedded(config.bpf_dir.clone());
    settings.mode = config.mode;
    settings.trust_mark = config.trust_mark;
    if let Some(path) = &config.object {
        let object =
            fs::read(path).with_context(|| format!("cannot read the programs in {}", path.display()))?;
        settings.object = object.into();
    }
    let capture =
        Capture::load(settings, config.exempt_peers.clone()).context("cannot load the capture programs")?;
    for uid in capture.attached()?.iter().filter(|uid| good.iter().all(|record| record.pod.uid != **uid)) {
        tracing::warn!(%uid, "captured without a record: no traffic until it is added again");
    }
    Ok((Enrolment::new(records, capture, announcements.clone(), tasks.clone()), good))
}

fn serve_zds(path: &Path, announcements: Announcements, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = Listener::bind(path).with_context(|| format!("cannot serve ZDS at {}", path.display()))?;
    restrict(path)?;
    drop(tasks.spawn_vital("zds", zds::serve(listener, announcements, tasks.clone())));
    Ok(())
}

fn serve_api(path: &Path, router: Router, tasks: &Tasks) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let listener =
        accept::bind_unix(path).with_context(|| format!("cannot serve the API at {}", path.display()))?;
    restrict(path)?;
    serve(listener, API, router, tasks);
    Ok(())
}

fn serve_metrics(address: SocketAddr, router: Router, tasks: &Tasks) -> anyhow::Result<()> {
    let listener = accept::bind(address).with_context(|| format!("cannot serve metrics at {address}"))?;
    serve(listener, METRICS, router, tasks);
    Ok(())
}

fn serve(listener: impl accept::Listener + 'static, limits: Limits, router: Router, tasks: &Tasks) {
    let group = tasks.clone();
    drop(tasks.spawn_vital(limits.name, async move {
        if let Err(error) = http::serve(listener, &group, limits, router).await {
            tracing::error!(error = %Chain(&error), "cannot serve");
        }
    }));
}

fn restrict(path: &Path) -> anyhow::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(SOCKET_MODE))
        .with_context(|| format!("cannot restrict {}", path.display()))
}

/// Everything pinned below a folder of a bpffs, and the folder. What nothing else holds goes with its pin.
fn remove_pins(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
