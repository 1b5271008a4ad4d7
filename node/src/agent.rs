// SPDX-License-Identifier: Apache-2.0
//! The agent put together: what was there is adopted, then ztunnel, the local API and, on a node of Kubernetes, the CNI
//! plugin and the watches are served. When it ends, everything it made stays; only the end of its DaemonSet (for
//! this node or altogether), or [`detach_all`], takes it back.

mod cluster;
mod listen;

use std::{fs, io, path::Path, time::Duration};

use anyhow::{Context, bail};
use ebpf_loader::Settings;
use runtime::{Tasks, metrics::Metrics, signals};

use self::cluster::ClusterPart;
use crate::{
    api,
    capture::Capture,
    chain::Chain,
    checks::Checks,
    config::{ClusterConfig, Config},
    enrol::Enrolment,
    mark, metrics,
    record::{Record, Records},
    standing::Presence,
    zds::Announcements,
};

/// Longer than a climb waits for ztunnel, so that a pod that is being enrolled gets its answer.
const DRAIN: Duration = Duration::from_secs(15);
/// Nothing else has anything to finish.
const CLOSE: Duration = Duration::from_secs(1);
/// To tell the mesh about all pods of the node.
const UNMARK: Duration = Duration::from_secs(10);

/// Tasks by when they end: who asks for work ends before the work, and ztunnels are let go last.
struct Groups {
    asking: Tasks,
    working: Tasks,
    ztunnels: Tasks,
}

/// Runs until a signal.
///
/// # Errors
/// When it cannot start, or a part without which it is useless has failed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let recorder = runtime::metrics::install(metrics::settings(), &tasks)?;
    let groups = Groups {
        asking: tasks.group("asking"),
        working: tasks.group("pods"),
        ztunnels: tasks.group("ztunnels"),
    };
    let announcements = Announcements::new();
    let (enrolment, records) = prepare(&config, &announcements, &groups.working)?;
    tracing::info!(records = records.len(), claims = %enrolment.capture().claim_map().display(), "starting");
    // Before ztunnel finds the agent: it drops pods that its snapshot lacks.
    enrolment.adopt(records).await;
    drop(groups.asking.spawn_vital("sweep", enrolment.clone().sweep(groups.asking.shutdown())));
    listen::serve_zds(&config.zds, announcements, &groups.ztunnels)?;
    let cluster = serve(&config, &enrolment, recorder, &groups.asking, &tasks).await?;

    let failed = tokio::select! {
        signal = signals::terminated() => {
            tracing::info!(signal = ?signal.context("cannot catch signals")?, "stopping");
            None
        }
        failed = tasks.failed() => Some(failed),
    };
    let gone = match (&failed, &cluster) {
        (None, Some(cluster)) => cluster.presence().await == Presence::Gone,
        (Some(_), _) | (None, None) => false,
    };
    // Nobody asks any more, and who asked has got an answer.
    let asking = groups.asking.drain(DRAIN).await;
    if gone {
        tracing::info!("the DaemonSet is gone or wants other nodes: the mesh leaves this node");
        leave(&config, enrolment).await?;
    } else {
        tracing::info!("pods stay captured");
    }
    let (working, rest) = (groups.working.drain(DRAIN).await, tasks.drain(CLOSE).await);
    tracing::info!(asking = ?asking.forced, pods = ?working.forced, rest = ?rest.forced, "stopped");
    failed.map_or(Ok(()), |failed| Err(failed.into()))
}

/// Un-enrols every pod, removes every pin, and takes the node's CNI configuration back.
///
/// # Errors
/// When another agent runs, or a pod cannot be released; the others are then.
pub async fn detach_all(config: Config) -> anyhow::Result<()> {
    let tasks = Tasks::new();
    let (enrolment, _records) = prepare(&config, &Announcements::new(), &tasks)?;
    leave(&config, enrolment).await
}

/// Serves the API, and Kubernetes where the agent is on a node of it.
async fn serve(
    config: &Config,
    enrolment: &Enrolment,
    recorder: Metrics,
    asking: &Tasks,
    tasks: &Tasks,
) -> anyhow::Result<Option<ClusterPart>> {
    let router = api::router(enrolment.clone());
    let cluster = match &config.cluster {
        Some(cluster) => Some(ClusterPart::open(cluster, enrolment, asking).await?),
        None => None,
    };
    let router = match &cluster {
        Some(cluster) => cluster.routes(router),
        None => router,
    };
    listen::serve_api(&config.api, router, asking)?;
    // The plugin is announced to the runtime when somebody answers it.
    let ready = cluster.as_ref().map(ClusterPart::start).unwrap_or_default();
    let checks = Checks::new(config, cluster.as_ref().map(ClusterPart::api));
    drop(asking.spawn_vital("checks", checks.clone().keep(asking.shutdown())));
    let router = api::metrics_router(recorder, enrolment.clone(), ready, checks);
    listen::serve_metrics(config.metrics, router, tasks)?;
    Ok(cluster)
}

/// The node as it was before the mesh. The configuration goes first, so that no pod is sent to an agent that is gone.
async fn leave(config: &Config, enrolment: Enrolment) -> anyhow::Result<()> {
    let installation = config.cluster.as_ref().and_then(|cluster| cluster.installation.as_ref());
    let uninstalled = installation.map_or(Ok(()), |installation| installation.uninstall());
    let records: Vec<_> = enrolment.records()?.into_iter().filter_map(Result::ok).collect();
    if let Some(cluster) = &config.cluster
        && tokio::time::timeout(UNMARK, unmark(cluster, &records)).await.is_err()
    {
        tracing::warn!("the API server does not answer: the mesh is not told that pods leave it");
    }
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
    for socket in [&config.api, &config.zds] {
        // Nobody answers there any more; of what is not there nothing is left.
        fs::remove_file(socket).unwrap_or_default();
    }
    if let Err(error) = Records::remove(&config.state) {
        tracing::warn!(%error, folder = %config.state.display(), "records stay that cannot be read");
    }
    uninstalled.context("cannot take the CNI configuration back")?;
    tracing::info!(pods = count, "every pod is released");
    Ok(())
}

/// Nobody is to send pods that leave what only ztunnel understands. Best effort: the role may be gone, and the annotation
/// means nothing without a mesh.
async fn unmark(cluster: &ClusterConfig, records: &[Record]) {
    let api = match cluster.access.open().await {
        Ok(api) => api,
        Err(error) => {
            return tracing::warn!(error = %Chain(&error), "the mesh is not told that pods leave it");
        }
    };
    for Record { pod, .. } in records {
        let of = mark::Of { uid: &pod.uid, namespace: &pod.namespace, name: &pod.name };
        if let Err(error) = mark::mark(&api, of, false).await {
            tracing::warn!(%pod, error = %Chain(&error), "the pod leaves, and the mesh cannot be told");
        }
    }
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
    let announcements = announcements.clone();
    Ok((Enrolment::new(records, capture, announcements, &config.proc_sys, tasks.clone()), good))
}

/// Everything pinned below a folder of a bpffs, and the folder. What nothing else holds goes with its pin.
fn remove_pins(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
