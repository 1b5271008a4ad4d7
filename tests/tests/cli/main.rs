// SPDX-License-Identifier: Apache-2.0
//! The command line against a real etcd and API server without nodes: what needs no mesh that runs. The checks share one
//! control plane and run one after the other, in this order.

mod checks;
mod waypoints;

use std::process::ExitCode;

use lab::kube::{KubeCluster, Options, suite};

use checks::Stage;

fn main() -> ExitCode {
    let checks = checks::all().into_iter().chain(waypoints::all()).collect();
    suite::report(suite::run(checks, Vec::new(), async |settings, tools| {
        let program = settings.binary("ambit")?;
        let cluster = KubeCluster::start("cli", &settings, &tools, Options { nodes: 0 }).await?;
        Ok(Stage { cluster, program })
    }))
}
