// SPDX-License-Identifier: Apache-2.0
//! control against a real etcd and API server, as a process under its own roles: what is applied with kubectl reaches a
//! node proxy. The checks share one control plane and run one after the other, in this order.

mod checks;
mod crds;
mod cut;
mod failure;
mod link;
mod metered;
mod plane;
mod plugged;
mod rotation;
mod tls;
mod waypoints;

use std::process::ExitCode;

use lab::kube::{KubeCluster, Options, suite};

use checks::Stage;
use plane::Scene;

fn main() -> ExitCode {
    let checks = checks::all()
        .into_iter()
        .chain(waypoints::all())
        .chain(metered::all())
        .chain(tls::all())
        .chain(plugged::all())
        .chain(cut::all())
        .chain(failure::all())
        // The last one: it ends the replicas that the others share.
        .chain(rotation::all())
        .collect();
    suite::report(suite::run(checks, Vec::new(), async |settings, tools| {
        let cluster = KubeCluster::start("control", &settings, &tools, Options { nodes: 0 }).await?;
        Stage::new(Scene::prepare(cluster, settings).await?).await
    }))
}
