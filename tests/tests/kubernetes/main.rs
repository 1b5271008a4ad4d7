// SPDX-License-Identifier: Apache-2.0
//! The cluster tooling itself: a real Kubernetes of two nodes comes up, carries traffic in both families, can be looked
//! into, and leaves nothing, however it ends. No mesh is in it. The checks share one cluster and run one after the other.

mod checks;
mod left;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use lab::{
    Settings,
    kube::{KubeCluster, Options, Tools, mesh, suite},
};
use libtest_mimic::{Conclusion, Trial};

/// The argument with which this program starts a cluster only to be killed in the middle of it.
pub(crate) const VICTIM: &str = "start-a-cluster-and-be-killed";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(VICTIM) {
        return suite::report(suite::run(Vec::new(), Vec::new(), async |settings, tools| {
            start(left::CRASHED, 1, &settings, &tools).await
        }));
    }
    suite::report(play())
}

fn play() -> Result<Conclusion> {
    let crash = Trial::test("a_cluster_whose_maker_was_killed_is_removed_without_a_trace", || {
        left::after_a_crash().map_err(|error| format!("{error:#}").into())
    });
    let mut shape = None;
    let conclusion = suite::run(checks::all(), vec![crash], async |settings, tools| {
        let cluster = start("test", 2, &settings, &tools).await?;
        shape = Some(cluster.shape().clone());
        checks::Scene::prepare(cluster).await
    })?;
    if let Some(shape) = shape {
        left::nothing_of(&shape)
            .and_then(|()| left::no_container())
            .context("after the end of the cluster")?;
    }
    Ok(conclusion)
}

async fn start(name: &str, nodes: u8, settings: &Settings, tools: &Tools) -> Result<KubeCluster> {
    let cluster = KubeCluster::start(name, settings, tools, Options { nodes }).await?;
    mesh::load_sample(&cluster, settings).await?;
    Ok(cluster)
}
