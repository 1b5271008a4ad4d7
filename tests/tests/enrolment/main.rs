// SPDX-License-Identifier: Apache-2.0
//! The node agent, its CNI plugin and ztunnel on a node of a real Kubernetes: who is in the mesh, and from which moment
//! on. There is no control plane of the mesh here, so a pod in the mesh has no traffic but kubelet's probes, and every
//! other connection that gets through is a fault. The checks share one cluster and run in the order of their names.

mod checks;
mod node;

use std::{process::ExitCode, sync::Arc};

use anyhow::Result;
use lab::{
    Settings,
    image::Image,
    kube::{KubeCluster, Options, Tools},
};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

/// Reference of the sample application's image.
pub(crate) const IMAGE: &str = "ambit.local/lab-app:1";

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    match play(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn play(arguments: &Arguments) -> Result<()> {
    let tools = Tools::ensure(&mut |line| say(line))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings::from_environment()?;
    let scene = runtime.block_on(async {
        let cluster = KubeCluster::start("enrol", &settings, &tools, Options { nodes: 1 }).await?;
        let archive = cluster.shape().state.join("lab-app.tar");
        let mut image = Image::new(IMAGE, &["/lab-app"]);
        image.add_program(&settings.binary("lab-app")?, "lab-app")?;
        image.write(&archive)?;
        cluster.load(&archive).await?;
        checks::Scene::prepare(cluster, settings)
    })?;
    let conclusion = libtest_mimic::run(arguments, trials(Some((Arc::new(runtime), Arc::new(scene)))));
    anyhow::ensure!(!conclusion.has_failed(), "not every check passed");
    Ok(())
}

fn trials(stage: Option<(Arc<Runtime>, Arc<checks::Scene>)>) -> Vec<Trial> {
    let trial = |check: checks::Check| {
        let stage = stage.clone();
        Trial::test(check.name, move || {
            let Some((runtime, scene)) = stage else { return Ok(()) };
            runtime.block_on((check.play)(scene)).map_err(|error| format!("{error:#}").into())
        })
    };
    checks::all().into_iter().map(trial).collect()
}

#[expect(clippy::print_stderr, reason = "what a test program has to say besides its results")]
fn say(line: &str) {
    eprintln!("{line}");
}
