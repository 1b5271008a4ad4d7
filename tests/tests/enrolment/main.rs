// SPDX-License-Identifier: Apache-2.0
//! The node agent, its CNI plugin and ztunnel on a node of a real Kubernetes: who is in the mesh, and from which moment
//! on. There is no control plane of the mesh here, so a pod in the mesh has no traffic but kubelet's probes, and every
//! other connection that gets through is a fault. The checks share one cluster and run in the order of their names.

mod checks;
mod node;

use std::process::ExitCode;

use lab::kube::{KubeCluster, Options, mesh, suite};

fn main() -> ExitCode {
    suite::report(suite::run(checks::all(), Vec::new(), async |settings, tools| {
        let cluster = KubeCluster::start("enrol", &settings, &tools, Options { nodes: 1 }).await?;
        mesh::load_sample(&cluster, &settings).await?;
        checks::Scene::prepare(cluster, settings)
    }))
}
