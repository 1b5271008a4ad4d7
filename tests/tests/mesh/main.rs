// SPDX-License-Identifier: Apache-2.0
//! The whole mesh on a real Kubernetes of two nodes, installed by its charts: what a platform team does with labels,
//! manifests and Helm, and what becomes of the traffic. The checks share one cluster and run in this order.

mod access;
mod balancer;
mod checks;
mod failure;
mod leaving;
mod membership;
mod scene;

use std::process::ExitCode;

use lab::kube::suite;

fn main() -> ExitCode {
    let parts = [membership::all(), access::all(), checks::all(), failure::all(), leaving::all()];
    let checks = parts.into_iter().flatten().collect();
    suite::report(suite::run(checks, Vec::new(), scene::Scene::prepare))
}
