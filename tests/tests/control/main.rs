// SPDX-License-Identifier: Apache-2.0
//! control against a real etcd and API server, as a process under its own roles: what is applied with kubectl reaches a
//! node proxy. The checks share one control plane and run one after the other, in this order.

mod checks;
mod crds;
mod failure;
mod plane;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use lab::{
    Settings,
    kube::{KubeCluster, Options, Tools},
};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use checks::{Check, Stage};
use plane::Scene;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match play(&arguments) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<ExitCode> {
    let tools = Tools::ensure(&mut |line| say(line))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings::from_environment()?;
    let stage = runtime.block_on(async {
        let cluster = KubeCluster::start("control", &settings, &tools, Options { nodes: 0 }).await?;
        Stage::new(Scene::prepare(cluster, settings.clone()).await?).await
    })?;
    let (runtime, stage) = (Arc::new(runtime), Arc::new(stage));
    let conclusion = libtest_mimic::run(arguments, trials(Some((Arc::clone(&runtime), Arc::clone(&stage)))));
    // The checks are over: this removes the cluster.
    drop(stage);
    Ok(conclusion.exit_code())
}

fn trials(stage: Option<(Arc<Runtime>, Arc<Stage>)>) -> Vec<Trial> {
    let trial = |check: Check| {
        let stage = stage.clone();
        Trial::test(check.name, move || {
            let Some((runtime, stage)) = stage else { return Ok(()) };
            runtime.block_on((check.play)(stage)).map_err(|error| format!("{error:#}").into())
        })
    };
    checks::all().into_iter().chain(failure::all()).map(trial).collect()
}

#[expect(clippy::print_stderr, reason = "what a test program has to say besides its results")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
