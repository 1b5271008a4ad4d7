// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask test`: what CI runs. Suites one after the other, each with a time budget that it must keep.

use std::time::{Duration, Instant};

use ::lab::{collectors, config::PLUGIN, strangers::GRPCURL};
use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::{
    alerts,
    bench::instructions::Instructions,
    check, cluster, ebpf, lab, packages,
    plugin::{self, Profile},
    step::{output, run, run_with, say, seconds, step},
};

/// Every test there is, or some suites.
#[derive(Args)]
pub(crate) struct Test {
    /// Only these suites.
    #[arg(value_enum)]
    suites: Vec<Suite>,
    /// Also what takes long: soak, the full kill matrix.
    #[arg(long)]
    long: bool,
    /// Only scenarios whose name contains this.
    #[arg(long)]
    scenario: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// What needs no root: format, tidy, lints, unit tests.
    Check,
    /// Instructions of the hot paths against those on record.
    Instructions,
    /// The committed eBPF object against its sources.
    Object,
    /// Tests of single packages that need root and a real kernel.
    Root,
    /// The scenarios in the lab.
    Lab,
    /// The programs of a real Kubernetes and the conformance tests, built from Go modules where the cache does not have them;
    /// the alert rules, which need one of them and Debian's promtool.
    Tools,
    /// What runs on a real Kubernetes.
    Cluster,
}

impl Suite {
    const ALL: [Self; 7] =
        [Self::Check, Self::Instructions, Self::Object, Self::Root, Self::Lab, Self::Tools, Self::Cluster];

    /// The name, and what the suite may take on a small machine that has built nothing yet.
    fn budget(self) -> (&'static str, Duration) {
        let (name, minutes) = match self {
            Self::Check => ("check", 40),
            Self::Instructions => ("instructions", 10),
            Self::Object => ("object", 10),
            Self::Root => ("root", 10),
            Self::Lab => ("lab", 20),
            Self::Tools => ("tools", 30),
            Self::Cluster => ("cluster", 55),
        };
        (name, Duration::from_secs(minutes * 60))
    }
}

impl Test {
    pub(crate) fn run(&self) -> Result<()> {
        let suites = if self.suites.is_empty() { Suite::ALL.as_slice() } else { self.suites.as_slice() };
        let mut report = Vec::new();
        for suite in suites {
            let (name, budget) = suite.budget();
            say(format!("\n══ {name}: at most {}", seconds(budget)));
            let started = Instant::now();
            let outcome = self.run_suite(*suite);
            report.push((name, budget, started.elapsed(), outcome));
        }
        say("\nsuite         budget         taken");
        let mut bad = Vec::new();
        for (name, budget, taken, outcome) in report {
            let verdict = match outcome {
                // Long tests have no budget.
                Ok(()) if taken <= budget || self.long => "passed".to_owned(),
                Ok(()) => "passed, but over its budget".to_owned(),
                Err(error) => format!("FAILED: {error:#}"),
            };
            say(format!("{name:<13} {:<14} {:<14} {verdict}", seconds(budget), seconds(taken)));
            if verdict != "passed" {
                bad.push(name);
            }
        }
        if !bad.is_empty() {
            bail!("not all is well: {}", bad.join(", "));
        }
        Ok(())
    }

    fn run_suite(&self, suite: Suite) -> Result<()> {
        match suite {
            Suite::Check => check::check(),
            Suite::Instructions => Instructions::default().run(),
            Suite::Object => step("eBPF object", || ebpf::run(true)),
            Suite::Root => root_tests(),
            Suite::Lab => self.scenarios(),
            Suite::Tools => {
                let tools = cluster::tools()?;
                cluster::conformance()?;
                alerts::check(&tools)
            }
            Suite::Cluster => cluster_tests(),
        }
    }

    fn scenarios(&self) -> Result<()> {
        ::lab::config::require_root("test lab")?;
        packages::ensure_installed(&packages::STRANGERS)?;
        step("binaries", lab::build)?;
        step("Zipkin, the OpenTelemetry Collector, grpcurl", || {
            GRPCURL.ensure()?;
            lab::runtime()?.block_on(async {
                collectors::zipkin_jar().await?;
                collectors::collector().await.map(drop)
            })
        })?;
        let mut arguments = vec![
            "test",
            "--workspace",
            "--features",
            "lab/root-tests",
            "--test",
            "scenarios",
            "--locked",
            "--",
        ];
        if self.long {
            arguments.push("--include-ignored");
        }
        arguments.extend(self.scenario.as_deref());
        step("scenarios", || run("cargo", &arguments))
    }
}

/// The tooling itself, control and the command line against an API server, the node agent on a node, all of it installed
/// by the charts: held against the Gateway API's own tests, and against ours.
const CLUSTER_TESTS: [&str; 6] = ["kubernetes", "control", "cli", "enrolment", "conformance", "mesh"];

fn cluster_tests() -> Result<()> {
    ::lab::config::require_root("test cluster")?;
    packages::ensure_installed(&packages::CLUSTER)?;
    packages::unpacked("nginx", "/usr/sbin/nginx")?;
    step("binaries", lab::build)?;
    let plugin = step("CNI plugin", || plugin::build(Profile::Dev, None))?;
    // Each has clusters of its own: what one finds says nothing of the next.
    let mut failures = Vec::new();
    for name in CLUSTER_TESTS {
        let arguments =
            ["test", "--workspace", "--features", "lab/cluster-tests", "--test", name, "--locked"];
        if let Err(error) = step(name, || run_with((PLUGIN, &plugin), "cargo", &arguments)) {
            failures.push(format!("{error:#}"));
        }
    }
    ensure!(failures.is_empty(), "{}", failures.join("; "));
    Ok(())
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default, rename = "required-features")]
    required_features: Vec<String>,
}

/// Tests that need root require the feature `root-tests`; the lab's are a suite of their own. The whole workspace is
/// named, so that dependencies are built with the features that every other command uses.
fn root_tests() -> Result<()> {
    ::lab::config::require_root("test root")?;
    // The agent's tests start the CNI plugin, a binary of another package.
    step("binaries", lab::build)?;
    let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
    for package in metadata.packages.iter().filter(|package| package.name != "lab") {
        let needs_root =
            |target: &&Target| target.required_features.iter().any(|feature| feature == "root-tests");
        for target in package.targets.iter().filter(needs_root) {
            let features = format!("{}/root-tests", package.name);
            let arguments =
                ["test", "--workspace", "--features", &features, "--test", &target.name, "--locked"];
            step(&format!("{} {}", package.name, target.name), || run("cargo", &arguments))?;
        }
    }
    Ok(())
}
