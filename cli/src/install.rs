// SPDX-License-Identifier: Apache-2.0
//! `ambit install` and `ambit uninstall`: helm with the chart inside this program, after a look at the cluster.

use std::{ffi::OsString, path::PathBuf, process::ExitStatus};

use anyhow::Context as _;
use clap::Args;

use crate::{arguments::To, chart, check, exit::Outcome, reach, say};

/// The name of the release.
const RELEASE: &str = "ambit";

/// `ambit install`.
#[derive(Debug, Args)]
pub(crate) struct InstallCommand {
    /// A value of the chart, as for helm; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A file of values, - for standard input; may be given several times
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// Wait until every part is ready
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_name = "TIME", requires = "wait")]
    timeout: String,
    /// Install although `ambit check` refuses
    #[arg(long)]
    skip_checks: bool,
    /// Print what would be applied, and apply nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the charts into a folder and do nothing else
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["set", "values", "wait", "dry_run"])]
    print_chart: Option<PathBuf>,
}

/// `ambit uninstall`.
#[derive(Debug, Args)]
pub(crate) struct UninstallCommand {
    /// Wait until every part is gone
    #[arg(long)]
    wait: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
}

impl InstallCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        if let Some(folder) = &self.print_chart {
            let chart = chart::write(folder)?;
            say::print(&format!("{}\n", chart.display()));
            return Ok(Outcome::Well);
        }
        let folder = tempfile::tempdir().context("cannot make a folder for the chart")?;
        let chart = chart::write(folder.path())?;
        if !self.skip_checks {
            let api = reach::open(to).await?;
            let verdict = check::precheck(&api, to, self.revision()).await?;
            if verdict.is_bad() {
                say::note(&verdict.text());
                say::note("nothing was installed; --skip-checks installs nevertheless");
                return Ok(Outcome::Wrong);
            }
        }
        Ok(outcome(chart::helm(to, &self.arguments(chart))?))
    }

    /// An installation and an upgrade are the same command.
    fn arguments(&self, chart: PathBuf) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["upgrade", "--install", RELEASE].map(OsString::from).into();
        arguments.extend([chart.into(), "--create-namespace".into()]);
        for file in &self.values {
            arguments.extend(["--values".into(), file.into()]);
        }
        for pair in &self.set {
            arguments.extend(["--set".into(), pair.into()]);
        }
        if self.wait {
            arguments.extend(["--wait", "--timeout", &self.timeout].map(OsString::from));
        }
        if self.dry_run {
            // Otherwise helm renders without asking which API versions there are.
            arguments.push("--dry-run=server".into());
        }
        arguments
    }

    /// The revision that is set, whichever chart takes it; one in a file of values is not seen.
    fn revision(&self) -> Option<&str> {
        let pairs = self.set.iter().flat_map(|set| set.split(','));
        let mut found = pairs.filter_map(|pair| pair.split_once('='));
        found.find(|(key, _)| *key == "revision" || key.ends_with(".revision")).map(|(_, value)| value)
    }
}

impl UninstallCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let mut arguments: Vec<OsString> = ["uninstall", RELEASE].map(OsString::from).into();
        for (given, flag) in [(self.wait, "--wait"), (self.dry_run, "--dry-run")] {
            if given {
                arguments.push(flag.into());
            }
        }
        Ok(outcome(chart::helm(to, &arguments)?))
    }
}

fn outcome(status: ExitStatus) -> Outcome {
    if status.success() { Outcome::Well } else { Outcome::Wrong }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::arguments::{Arguments, Command};

    fn parse(arguments: &[&str]) -> InstallCommand {
        match Arguments::parse_from([&["ambit", "install"], arguments].concat()).command {
            Command::Install(install) => install,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_and_switches_reach_helm_in_their_order() {
        let install = parse(&["--set", "a=b", "-f", "x.yaml", "--set", "c.d=e", "--wait", "--dry-run"]);
        let text: Vec<_> =
            install.arguments("/c".into()).iter().map(|it| it.to_string_lossy().into_owned()).collect();
        let expected = "upgrade --install ambit /c --create-namespace --values x.yaml --set a=b --set c.d=e --wait \
                        --timeout 5m --dry-run=server";
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn the_check_knows_the_revision_that_is_asked_for() {
        assert_eq!(parse(&["--set", "x=1,global.revision=ambit"]).revision(), Some("ambit"));
        assert_eq!(parse(&["--set", "x.revisions=1"]).revision(), None);
    }
}
