// SPDX-License-Identifier: Apache-2.0
//! The command line against a real etcd and API server without nodes: what needs no mesh that runs. The checks share one
//! control plane and run one after the other, in this order.

mod checks;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use lab::{
    Settings,
    kube::{KubeCluster, Options, Tools},
};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use checks::{Check, Stage};

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
    let program = settings.binary("ambit")?;
    let cluster = runtime.block_on(KubeCluster::start("cli", &settings, &tools, Options { nodes: 0 }))?;
    let (runtime, stage) = (Arc::new(runtime), Arc::new(Stage { cluster, program }));
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
    checks::all().into_iter().map(trial).collect()
}

#[expect(clippy::print_stderr, reason = "what a test program has to say besides its results")]
fn say(line: &str) {
    eprintln!("{line}");
}
