// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask demo`: a small shop in the mesh, and what a person wants to see of it. Everything that is shown is read
//! from the running parts: Prometheus, the proxies' access logs, the packets on a node's link, Zipkin.

mod kubernetes;
mod prometheus;
mod requests;
mod shop;
mod show;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use lab::{Cluster, clean, config::require_root};

use crate::{
    lab::{build, runtime},
    packages,
    step::{say, seconds},
};

/// Name of the lab that the demo runs in.
pub(crate) const NAME: &str = "demo";

/// A shop in the mesh: identities, policies, ciphertext, metrics, routes, a trace.
#[derive(Args)]
pub(crate) struct Demo {
    /// On a real Kubernetes of two nodes, installed with Helm, instead of a lab without a cluster.
    #[arg(long)]
    kubernetes: bool,
    /// Leave it running afterwards; `cargo xtask lab down --name demo` (or `cluster down`) removes it.
    #[arg(long)]
    keep: bool,
}

/// Says what is being done, and when.
pub(crate) struct Progress {
    started: Instant,
}

impl Progress {
    pub(crate) fn say(&self, line: &str) {
        say(format!("[{:>9}] {line}", seconds(self.started.elapsed())));
    }

    pub(crate) fn heading(line: &str) {
        say(format!("\n━━━ {line} ━━━"));
    }
}

impl Demo {
    pub(crate) fn run(&self) -> Result<()> {
        require_root("demo")?;
        let progress = Progress { started: Instant::now() };
        progress
            .say("packages: iproute2 and curl for you to look around with, Debian's prometheus to scrape the nodes, Java for Zipkin");
        packages::ensure_installed(&[packages::IPROUTE, packages::CURL, packages::JAVA])?;
        let server = packages::unpacked("prometheus", "/usr/bin/prometheus")?;
        progress.say("building ztunnel, waypoint, control, node-agent and the sample application");
        build()?;
        if self.kubernetes {
            return kubernetes::run(&progress, &server, self.keep);
        }
        // A demo that was kept is replaced; its own removal is part of the next start.
        clean::remove(NAME)?;
        runtime()?.block_on(async {
            tokio::select! {
                outcome = self.show(&progress, &server) => outcome,
                _ = tokio::signal::ctrl_c() => bail!("interrupted; everything is removed"),
            }
        })
    }

    async fn show(&self, progress: &Progress, server: &std::path::Path) -> Result<()> {
        progress.say("starting control, two nodes, their agents and ztunnels");
        let cluster = Cluster::start(NAME).await?;
        let mut shop = shop::open(&cluster, progress).await?;
        let prometheus = prometheus::start(&cluster, server).await?;
        progress.say("prometheus scrapes both nodes; waiting for it to have seen some traffic");
        prometheus.wait_for("istio_tcp_connections_opened_total", Duration::from_secs(60)).await?;
        show::who_talks_to_whom(&prometheus).await?;
        show::allowed_and_denied(&cluster, &shop).await?;
        show::on_the_wire(&cluster, &shop).await?;
        show::metrics(&prometheus).await?;
        requests::show(&shop.extend(&cluster, progress).await?).await?;
        show::more(self.keep);
        if self.keep {
            cluster.note("prometheus", &format!("{} on host `prometheus`", prometheus.address()))?;
            cluster.keep()?;
            progress.say("the shop stays open: `cargo xtask lab down --name demo` closes it");
            return Ok(());
        }
        cluster.stop().context("removing the demo")?;
        progress.say("everything is removed; `cargo xtask demo --keep` leaves it running");
        Ok(())
    }
}
