// SPDX-License-Identifier: Apache-2.0
//! The frame of a proxy's process.
//!
//! One thread for everything that is not payload (discovery, certificates, admin, metrics), and the data-plane threads,
//! so that a scrape never delays a byte.

use std::thread;

use anyhow::Context as _;
use runtime::{Tasks, signals};
use tokio::{
    runtime::{Builder, Handle},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// Runs until `supervise` has ended, which is given the data-plane threads; they are named after the proxy's role.
///
/// # Errors
/// When a thread cannot be had, and those of `supervise`.
pub fn run<F>(role: &str, workers: usize, supervise: impl FnOnce(Vec<Handle>) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("another TLS provider was installed first");
    }
    let stop = CancellationToken::new();
    let workers = (0..workers)
        .map(|number| worker(format!("{role}-{number}"), &stop))
        .collect::<Result<Vec<_>, _>>()?;
    let control =
        Builder::new_current_thread().enable_all().build().context("starting the control runtime")?;
    let outcome = control.block_on(supervise(workers));
    stop.cancel();
    outcome
}

/// A thread with a runtime of its own, so that connections and their tunnels never change threads.
fn worker(name: String, stop: &CancellationToken) -> anyhow::Result<Handle> {
    let runtime =
        Builder::new_current_thread().enable_all().build().context("starting a data-plane runtime")?;
    let handle = runtime.handle().clone();
    let stop = stop.clone();
    thread::Builder::new()
        .name(name)
        .spawn(move || runtime.block_on(stop.cancelled()))
        .context("starting a data-plane thread")?;
    Ok(handle)
}

/// Waits until somebody asks the process to end: by a signal, or by `quit`.
///
/// # Errors
/// When something has failed that everything needs.
pub async fn asked_to_end(tasks: &Tasks, quit: &Notify) -> anyhow::Result<()> {
    tokio::select! {
        signal = signals::terminated() => {
            tracing::info!(signal = ?signal.context("catching signals")?, "asked to end");
        }
        () = quit.notified() => tracing::info!("asked to end by the admin interface"),
        failed = tasks.failed() => anyhow::bail!(failed),
    }
    Ok(())
}
