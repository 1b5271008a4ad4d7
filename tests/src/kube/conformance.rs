// SPDX-License-Identifier: Apache-2.0
//! The mesh tests of the Gateway API's conformance suite, run against a cluster.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Conformance, KubeCluster};

/// The namespaces that the tests make, and find again.
pub const NAMESPACES: [&str; 2] = ["gateway-conformance-mesh", "gateway-conformance-mesh-consumer"];
const DEADLINE: Duration = Duration::from_secs(600);
const PROFILES: &str = "--conformance-profiles=MESH-HTTP,MESH-GRPC";
/// What the profiles ask, all that they may ask, and what some of their tests use without saying so.
const FEATURES: [&str; 17] = [
    "Mesh",
    "HTTPRoute",
    "GRPCRoute",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRouteParentRefPort",
    "HTTPRouteResponseHeaderModification",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];

/// How the tests are run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Labels of the namespaces, as `name=value`.
    pub labels: &'a [&'a str],
    /// How long a test waits for what it expects; none: as long as the suite thinks right.
    pub patience: Option<Duration>,
    /// Where the report goes.
    pub report: &'a Path,
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was run and passed.
    Passed,
    /// It was run and failed.
    Failed,
    /// It was not run.
    Skipped,
}

/// What became of the tests.
#[derive(Clone, Debug)]
pub struct Verdicts {
    /// The mesh tests by name.
    pub tests: BTreeMap<String, Verdict>,
    /// All that the suite wrote.
    pub log: String,
}

impl Verdicts {
    /// The names of tests with a verdict.
    #[must_use]
    pub fn with(&self, verdict: Verdict) -> Vec<&str> {
        self.tests.iter().filter(|(_, found)| **found == verdict).map(|(name, _)| name.as_str()).collect()
    }
}

/// Runs all mesh tests. Their applications stay, so that a second run finds them running.
///
/// # Errors
/// When the suite comes to no verdict: with its last words.
pub async fn run(cluster: &KubeCluster, tests: &Conformance, run: Run<'_>) -> Result<Verdicts> {
    let mut arguments = vec![
        "-test.v".to_owned(),
        format!("-test.timeout={}s", DEADLINE.as_secs()),
        PROFILES.to_owned(),
        format!("--supported-features={}", FEATURES.join(",")),
        format!("--namespace-labels={}", run.labels.join(",")),
        format!("--report-output={}", run.report.display()),
        "--cleanup-base-resources=false".to_owned(),
        "--organization=ambit".to_owned(),
        "--project=ambit".to_owned(),
        "--url=https://ambit.mesh".to_owned(),
        format!("--version={}", env!("CARGO_PKG_VERSION")),
        "--contact=https://ambit.mesh".to_owned(),
    ];
    if let Some(patience) = run.patience {
        let seconds = patience.as_secs();
        arguments.push(format!(
            "--timeout-config-overrides=MaxTimeToConsistency:{seconds};RequestTimeout:{seconds}"
        ));
    }
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let output = cluster.outcome_of(("conformance", tests.program()), &words, DEADLINE).await?;
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    let tests: BTreeMap<String, Verdict> = log.lines().filter_map(verdict).collect();
    let last =
        || log.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
    ensure!(!tests.is_empty(), "{}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr), last());
    Ok(Verdicts { tests, log })
}

/// Reads `    --- PASS: TestConformance/MeshBasic (0.29s)`; tests within tests are part of theirs, and only the names of
/// mesh tests begin so.
fn verdict(line: &str) -> Option<(String, Verdict)> {
    let (verdict, rest) = line.strip_prefix("    --- ")?.split_once(": TestConformance/")?;
    let name = rest.split(' ').next().filter(|name| name.starts_with("Mesh"))?;
    let verdict = match verdict {
        "PASS" => Verdict::Passed,
        "FAIL" => Verdict::Failed,
        "SKIP" => Verdict::Skipped,
        _ => return None,
    };
    Some((name.to_owned(), verdict))
}

/// What a report says apart from when it was made.
///
/// # Errors
/// When it is not there.
pub fn timeless(report: &Path) -> Result<String> {
    let text = std::fs::read_to_string(report).with_context(|| format!("reading {}", report.display()))?;
    let kept = text.lines().filter(|line| !line.starts_with("date:"));
    Ok(kept.map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_of_mesh_tests_are_read_and_no_others() {
        for (line, expected) in [
            ("    --- PASS: TestConformance/MeshBasic (0.29s)", Some(("MeshBasic", Verdict::Passed))),
            ("    --- FAIL: TestConformance/MeshPorts (9.39s)", Some(("MeshPorts", Verdict::Failed))),
            ("    --- SKIP: TestConformance/MeshPorts (0.00s)", Some(("MeshPorts", Verdict::Skipped))),
            ("        --- PASS: TestConformance/MeshBasic/a_request (0.10s)", None),
            ("    --- SKIP: TestConformance/UDPRoute (0.00s)", None),
            ("--- PASS: TestConformance (24.0s)", None),
        ] {
            let expected = expected.map(|(name, verdict)| (name.to_owned(), verdict));
            assert_eq!(verdict(line), expected, "{line}");
        }
    }
}
