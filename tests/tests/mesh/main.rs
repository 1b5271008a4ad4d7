// SPDX-License-Identifier: Apache-2.0
//! The whole mesh on a real Kubernetes of two nodes, installed by its charts: what a platform team does with labels,
//! manifests and Helm, and what becomes of the traffic. The checks share one cluster and run in this order.

mod access;
mod balancer;
mod checks;
mod churn;
mod failure;
mod ingress;
mod leaving;
mod load;
mod membership;
mod platform;
mod said;
mod scene;
mod waypoint;

use std::process::ExitCode;

use lab::kube::suite;

fn main() -> ExitCode {
    let parts = [
        membership::all(),
        access::all(),
        ingress::all(),
        checks::all(),
        failure::all(),
        platform::all(),
        waypoint::all(),
        churn::all(),
        leaving::all(),
    ];
    let checks = parts.into_iter().flatten().collect();
    suite::report(suite::run(checks, Vec::new(), scene::Scene::prepare))
}
