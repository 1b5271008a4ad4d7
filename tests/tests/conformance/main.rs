// SPDX-License-Identifier: Apache-2.0
//! The Gateway API's conformance tests for meshes on a real cluster: first without a mesh, which shows what they ask of
//! one, then with Ambit, whose report is `docs/conformance/mesh.yaml` (`UPDATE_GOLDEN=1` writes it anew). The checks share
//! one cluster and run in this order.

use std::{fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use lab::{
    Settings, checks,
    kube::{
        Conformance, KubeCluster, Options, Tools,
        conformance::{self, NAMESPACES, Run, Verdict},
        gateway_api, mesh, suite,
    },
};

/// How many mesh tests there are.
const TESTS: usize = 22;
/// What is asked of any network.
const ASKED_OF_ANY: &str = "MeshBasic";
/// What no network does that is not a mesh: it redirects, writes headers and paths, says that there is nothing there. The
/// others ask which of two servers answers, three times, and may be answered so by chance.
const NEVER_BY_CHANCE: [&str; 11] = [
    "MeshConsumerRoute",
    "MeshFrontendHostname",
    "MeshHTTPRouteBackendRequestHeaderModifier",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectHostAndStatus",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRequestHeaderModifier",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "MeshPorts",
];
/// Failing is quicker with it.
const WITHOUT_A_MESH: Duration = Duration::from_secs(3);
const REPORT: &str = "docs/conformance/mesh.yaml";

struct Scene {
    cluster: KubeCluster,
    settings: Settings,
    tests: Conformance,
}

fn main() -> ExitCode {
    let checks = checks![
        without_a_mesh_the_tests_fail_that_ask_something_of_one,
        in_the_mesh_all_of_them_pass_and_none_is_skipped,
    ];
    suite::report(suite::run(checks, Vec::new(), Scene::prepare))
}

impl Scene {
    async fn prepare(settings: Settings, tools: Tools) -> Result<Self> {
        let tests = Conformance::ensure(&mut |line| suite::say(line))?;
        let cluster = KubeCluster::start("conformance", &settings, &tools, Options::default()).await?;
        cluster.load(&tests.echo()).await?;
        cluster.apply(&gateway_api::all()?).await?;
        Ok(Self { cluster, settings, tests })
    }

    fn report(&self, name: &str) -> PathBuf {
        self.cluster.shape().state.join(name)
    }
}

async fn without_a_mesh_the_tests_fail_that_ask_something_of_one(scene: &Scene) -> Result<()> {
    let report = scene.report("without.yaml");
    let run = Run { labels: &["ambit.mesh/without=true"], patience: Some(WITHOUT_A_MESH), report: &report };
    let verdicts = conformance::run(&scene.cluster, &scene.tests, run).await?;
    let passed = verdicts.with(Verdict::Passed);
    let failed = verdicts.with(Verdict::Failed);
    ensure!(passed.contains(&ASKED_OF_ANY), "without a mesh pass {passed:?}\n{}", verdicts.log);
    ensure!(failed.len() + passed.len() == TESTS, "without a mesh fail {failed:?}, pass {passed:?}");
    let missing: Vec<_> = NEVER_BY_CHANCE.iter().filter(|test| !failed.contains(*test)).collect();
    ensure!(missing.is_empty(), "without a mesh these do not fail: {missing:?}\n{}", verdicts.log);
    Ok(())
}

/// Its applications run already, and join.
async fn in_the_mesh_all_of_them_pass_and_none_is_skipped(scene: &Scene) -> Result<()> {
    mesh::load_images(&scene.cluster, &scene.settings).await?;
    mesh::install(&scene.cluster, &[]).await?;
    for namespace in NAMESPACES {
        let label = ["label", "namespace", namespace, "istio.io/dataplane-mode=ambient"];
        scene.cluster.kubectl(&label).await?;
        let apply = ["waypoint", "apply", "--enroll-namespace", "--wait", "-n", namespace];
        scene.cluster.run_program("ambit", scene.settings.binary("ambit")?, &apply).await?;
    }
    let report = scene.report("mesh.yaml");
    let labels = ["istio.io/dataplane-mode=ambient", "istio.io/use-waypoint=waypoint"];
    let run = Run { labels: &labels, patience: None, report: &report };
    let verdicts = conformance::run(&scene.cluster, &scene.tests, run).await?;
    let passed = verdicts.with(Verdict::Passed);
    ensure!(passed.len() == TESTS && verdicts.tests.len() == TESTS, "{:?}\n{}", verdicts.tests, verdicts.log);
    let kept = mesh::repository().join(REPORT);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::copy(&report, &kept).with_context(|| format!("writing {REPORT}"))?;
    }
    let (found, kept) = (conformance::timeless(&report)?, conformance::timeless(&kept)?);
    ensure!(found == kept, "the report is no longer what {REPORT} says:\n{found}");
    Ok(())
}
