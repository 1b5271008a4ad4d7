// SPDX-License-Identifier: Apache-2.0
//! The cluster tooling itself: a real Kubernetes of two nodes comes up, carries traffic in both families, can be looked
//! into, and leaves nothing, however it ends. No mesh is in it. The checks share one cluster and run one after the other.

mod checks;
mod left;

use std::{process::ExitCode, sync::Arc};

use anyhow::{Context as _, Result};
use lab::{
    Settings,
    image::Image,
    kube::{KubeCluster, Options, Tools},
};
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

/// Reference of the sample application's image.
pub(crate) const IMAGE: &str = "ambit.local/lab-app:1";
/// The argument with which this program starts a cluster only to be killed in the middle of it.
pub(crate) const VICTIM: &str = "start-a-cluster-and-be-killed";

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(VICTIM) {
        return report(start(left::CRASHED, 1).map(drop));
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        return libtest_mimic::run(&arguments, trials(None)).exit_code();
    }
    report(play(&arguments))
}

fn play(arguments: &Arguments) -> Result<()> {
    let (runtime, cluster) = start("test", 2)?;
    let cluster = Arc::new(cluster);
    let scene = runtime.block_on(checks::Scene::prepare(Arc::clone(&cluster)))?;
    let conclusion = libtest_mimic::run(arguments, trials(Some((Arc::new(runtime), scene))));
    let shape = cluster.shape().clone();
    // The checks are over: the last clone removes the cluster.
    drop(cluster);
    left::nothing_of(&shape).and_then(|()| left::no_container()).context("after the end of the cluster")?;
    anyhow::ensure!(!conclusion.has_failed(), "not every check passed");
    Ok(())
}

fn start(name: &str, nodes: u8) -> Result<(Runtime, KubeCluster)> {
    let tools = Tools::ensure(&mut |line| say(line))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let settings = Settings::from_environment()?;
    let cluster = runtime.block_on(async {
        let cluster = KubeCluster::start(name, &settings, &tools, Options { nodes }).await?;
        let archive = cluster.shape().state.join("lab-app.tar");
        let mut image = Image::new(IMAGE, &["/lab-app"]);
        image.add_program(&settings.binary("lab-app")?, "lab-app")?;
        image.write(&archive)?;
        cluster.load(&archive).await?;
        anyhow::Ok(cluster)
    })?;
    Ok((runtime, cluster))
}

fn trials(stage: Option<(Arc<Runtime>, checks::Scene)>) -> Vec<Trial> {
    let trial = |check: checks::Check| {
        let stage = stage.clone();
        Trial::test(check.name, move || {
            let Some((runtime, scene)) = stage else { return Ok(()) };
            runtime.block_on((check.play)(scene)).map_err(|error| format!("{error:#}").into())
        })
    };
    let crash = Trial::test("a_cluster_whose_maker_was_killed_is_removed_without_a_trace", || {
        left::after_a_crash().map_err(|error| format!("{error:#}").into())
    });
    checks::all().into_iter().map(trial).chain([crash]).collect()
}

fn report(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "what a test program has to say besides its results")]
fn say(line: &str) {
    eprintln!("{line}");
}
