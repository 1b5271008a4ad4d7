// SPDX-License-Identifier: Apache-2.0
//! `ambit check`: facts about a cluster made into findings, each failure with its fix. Before an installation: can it be
//! done. After it: is all as it should be, to which each node agent adds what only its node can tell.

mod mesh;
mod others;
mod server;

use clap::Args;
use finding::{Finding, Grade};
use jiff::Timestamp;
use kubernetes::Api;
use serde::Serialize;

use crate::{
    arguments::To,
    exit::Outcome,
    facts::Facts,
    gather,
    output::{count, show},
    reach, say,
};

pub(crate) use self::server::Permission;

/// `ambit check`.
#[derive(Debug, Args)]
pub(crate) struct CheckCommand {
    /// Check only what an installation needs, also where the mesh is installed
    #[arg(long)]
    before: bool,
    /// The revision that the mesh will be installed with, where another mesh reads the same labels
    #[arg(long, value_name = "NAME")]
    revision: Option<String>,
}

/// All findings.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    stage: Stage,
    grade: Grade,
    findings: Vec<Finding>,
}

/// What is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Stage {
    /// Whether it can be installed.
    Before,
    /// Whether it is as it should be.
    Installed,
}

impl Verdict {
    fn new(stage: Stage, findings: Vec<Finding>) -> Self {
        let grade = findings.iter().map(|finding| finding.grade).max().unwrap_or(Grade::Ok);
        Self { stage, grade, findings }
    }

    pub(crate) fn is_bad(&self) -> bool {
        self.grade == Grade::Failure
    }

    pub(crate) fn text(&self) -> String {
        let mut text = match self.stage {
            Stage::Before => "Can Ambit be installed here?\n".to_owned(),
            Stage::Installed => "Is Ambit as it should be?\n".to_owned(),
        };
        for Finding { check, grade, found, fix } in &self.findings {
            let mark = match grade {
                Grade::Ok => "ok",
                Grade::Warning => "warning",
                Grade::Failure => "FAILED",
            };
            text.push_str(&format!("  {mark:<8} {check:<14} {found}\n"));
            if !fix.is_empty() {
                text.push_str(&format!("  {:<8} {:<14} fix: {fix}\n", "", ""));
            }
        }
        let number = |grade| self.findings.iter().filter(|finding| finding.grade == grade).count();
        let end = match (self.grade, number(Grade::Failure), number(Grade::Warning)) {
            (Grade::Ok, _, _) => "all is well".to_owned(),
            (Grade::Warning, _, warnings) => format!("it works, with {}", count(warnings, "warning")),
            (Grade::Failure, failures, warnings) => {
                format!("{}, {}", count(failures, "failure"), count(warnings, "warning"))
            }
        };
        text + &end + "\n"
    }
}

impl CheckCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let facts = gather::everything(&api, to.home()).await?;
        let now = Timestamp::now();
        let verdict = if self.before || !facts.is_installed() {
            before(&facts, &permissions(&api).await, self.revision.as_deref(), now)
        } else {
            installed(&facts, now)
        };
        show(to.output, &verdict, Verdict::text)?;
        Ok(if verdict.is_bad() { Outcome::Wrong } else { Outcome::Well })
    }
}

/// For a report of a fault.
pub(crate) fn report(facts: &Facts, now: Timestamp) -> String {
    let verdict = if facts.is_installed() { installed(facts, now) } else { before(facts, &[], None, now) };
    verdict.text()
}

/// Whether it can be installed, asked for by `ambit install`.
///
/// # Errors
/// When the API server cannot be reached.
pub(crate) async fn precheck(api: &Api, to: &To, revision: Option<&str>) -> anyhow::Result<Verdict> {
    let facts = gather::cluster(api, to.home()).await?;
    Ok(before(&facts, &permissions(api).await, revision, Timestamp::now()))
}

async fn permissions(api: &Api) -> Vec<Permission> {
    say::progress("asking what this user may do ...");
    server::permissions(api).await
}

/// Whether it can be installed.
fn before(facts: &Facts, permissions: &[Permission], revision: Option<&str>, now: Timestamp) -> Verdict {
    let mut findings = server::version(facts);
    findings.extend(server::allowed(permissions));
    findings.extend(server::definitions(facts));
    findings.extend(server::nodes(facts));
    findings.extend(others::cilium(facts));
    findings.extend(others::meshes(facts, revision));
    findings.extend(others::owners(facts, revision, now));
    findings.extend(server::hidden(facts));
    Verdict::new(Stage::Before, findings)
}

/// Whether it is as it should be.
fn installed(facts: &Facts, now: Timestamp) -> Verdict {
    let rules = facts.rules();
    let mut findings = server::version(facts);
    findings.extend(server::nodes(facts));
    findings.extend(others::cilium(facts));
    findings.extend(others::meshes(facts, rules.revision.as_deref()));
    findings.extend(others::owners(facts, rules.revision.as_deref(), now));
    findings.extend(mesh::definitions(facts));
    findings.extend(mesh::parts(facts));
    findings.extend(mesh::versions(facts));
    findings.extend(mesh::taints(facts));
    findings.extend(mesh::control(facts));
    findings.extend(mesh::reports(facts));
    findings.extend(mesh::capture(facts, now));
    findings.extend(mesh::bypasses(facts, now));
    findings.extend(mesh::certificates(facts, now));
    findings.extend(server::hidden(facts));
    Verdict::new(Stage::Installed, findings)
}

#[cfg(test)]
mod tests;
