// SPDX-License-Identifier: Apache-2.0
//! The scenarios: what the mesh does for real connections of real pods. They share one lab of two nodes, each has a
//! Kubernetes namespace of its own in it, and they run one after the other unless `--test-threads` says otherwise.

mod balance;
mod capture;
mod change;
mod connection;
mod failure;
mod ground;
mod guard;
mod hostile;
mod identity;
mod interop;
mod names;
mod peer;
mod policy;
mod scene;
mod soak;
mod telemetry;
mod tracing;
mod traffic;
mod waypoint;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use scene::{Scenario, Stage};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let stage = match Stage::new() {
        Ok(stage) => stage,
        Err(error) => {
            scene::say(&format!("{error:#}"));
            return ExitCode::FAILURE;
        }
    };
    let all = [
        traffic::all(),
        names::all(),
        policy::all(),
        guard::all(),
        identity::all(),
        connection::all(),
        change::all(),
        capture::all(),
        failure::all(),
        balance::all(),
        hostile::all(),
        interop::all(),
        peer::all(),
        waypoint::all(),
        tracing::all(),
        telemetry::all(),
        soak::all(),
    ];
    let ground = ground::all().into_iter().map(|check| {
        let stage = stage.clone();
        Trial::test(format!("ground::{}", check.name), move || {
            stage.check(check.play).map_err(|error| format!("{error:#}").into())
        })
    });
    // Those that do not apply are listed as ignored with their reason; asking for the ignored ones means the long ones.
    let ignored_too = arguments.ignored || arguments.include_ignored;
    let scenarios = all
        .into_iter()
        .flatten()
        .filter(|scenario| !ignored_too || scenario.obstacle(stage.has_peer()).is_none())
        .map(|scenario| trial(&stage, scenario));
    let conclusion = libtest_mimic::run(&arguments, ground.chain(scenarios).collect());
    match stage.end() {
        Ok(()) => conclusion.exit_code(),
        Err(error) => {
            scene::say(&format!("removing the lab: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn trial(stage: &Stage, scenario: Scenario) -> Trial {
    let stage = stage.clone();
    let obstacle = scenario.obstacle(stage.has_peer());
    let ignored = scenario.long || obstacle.is_some();
    let group = scenario.group.rsplit("::").next().unwrap_or_default();
    Trial::test(format!("{group}::{}", scenario.name), move || {
        stage.play(&scenario).map_err(|error| format!("{error:#}").into())
    })
    .with_kind(obstacle.unwrap_or_default())
    .with_ignored_flag(ignored)
}
