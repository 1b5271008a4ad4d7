// SPDX-License-Identifier: Apache-2.0
//! `ambit install` and `ambit uninstall`: helm with the chart inside this program, after a look at the cluster.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use anyhow::Context as _;
use clap::Args;
use kubernetes::{Api, Resource};
use serde_json::Value;

use crate::{arguments::To, chart, check, exit::Outcome, gather, reach, say, tree};

/// The name of the release.
const RELEASE: &str = "ambit";
const NODES: Resource = Resource::core("nodes");
/// Standard input, which helm reads.
const STANDARD_INPUT: &str = "-";

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
    /// How long each of its Jobs may take
    #[arg(long, default_value = "5m", value_name = "TIME")]
    timeout: String,
    /// Leave its Jobs out, which give the nodes back and remove what control has made: for a cluster without a node that
    /// could run them
    #[arg(long)]
    no_hooks: bool,
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
            let verdict = check::precheck(&api, to, self.revision()?.as_deref()).await?;
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

    /// The revision that is set, whichever chart takes it: as for helm, what is set goes before files, and a later file
    /// before an earlier one. One on standard input is not seen.
    fn revision(&self) -> anyhow::Result<Option<String>> {
        let pairs = self.set.iter().flat_map(|set| set.split(','));
        let set = pairs.filter_map(|pair| pair.split_once('='));
        let mut set = set.filter(|(key, _)| *key == "revision" || key.ends_with(".revision"));
        if let Some((_, value)) = set.next_back() {
            return Ok(Some(value.to_owned()).filter(|value| !value.is_empty()));
        }
        let mut found = None;
        for file in self.values.iter().filter(|file| *file != Path::new(STANDARD_INPUT)) {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let values: Value =
                serde_saphyr::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))?;
            if let Some(value) = values.pointer("/global/revision").and_then(Value::as_str) {
                found = Some(value.to_owned());
            }
        }
        Ok(found.filter(|value| !value.is_empty()))
    }
}

impl UninstallCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        if !self.no_hooks && !self.dry_run {
            let api = reach::open(to).await?;
            if !has_place_for_jobs(&api).await? {
                say::note(
                    "no node of this cluster is ready for pods, so the Jobs of an uninstall would wait in vain; nothing \
                     was removed",
                );
                say::note(&format!("{}: {}", self.without_jobs(), LEFT));
                return Ok(Outcome::Wrong);
            }
        }
        let outcome = outcome(chart::helm(to, &self.arguments())?);
        if outcome == Outcome::Wrong && !self.no_hooks {
            say::note(&format!(
                "if a Job did not end: `kubectl -n {} describe job` says why, and the same command goes on where this one \
                 has stopped. {}: {LEFT}",
                to.home(),
                self.without_jobs(),
            ));
        }
        Ok(outcome)
    }

    fn without_jobs(&self) -> String {
        format!("`ambit uninstall{} --no-hooks` goes without them", if self.wait { " --wait" } else { "" })
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["uninstall", RELEASE].map(OsString::from).into();
        arguments.extend(["--timeout", &self.timeout].map(OsString::from));
        for (given, flag) in
            [(self.wait, "--wait"), (self.dry_run, "--dry-run"), (self.no_hooks, "--no-hooks")]
        {
            if given {
                arguments.push(flag.into());
            }
        }
        arguments
    }
}

/// What no Job removes then.
const LEFT: &str = "the agents give their nodes back all the same when they end, but what control has made stays: Secret \
                    ambit-ca and Lease ambit-control of its namespace, ConfigMap istio-ca-root-cert of every namespace, the \
                    classes of waypoints, and what it has said in the status of objects";

/// The Jobs tolerate every taint, but their pods start only where a kubelet runs.
async fn has_place_for_jobs(api: &Api) -> anyhow::Result<bool> {
    let nodes = gather::all(api, NODES).await.context("cannot list the nodes")?;
    Ok(nodes.iter().any(|node| tree::condition(node, "Ready") == Some("True")))
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
        let revision = |arguments: &[&str]| parse(arguments).revision().unwrap();
        assert_eq!(revision(&["--set", "x=1,global.revision=ambit"]).as_deref(), Some("ambit"));
        assert_eq!(revision(&["--set", "x.revisions=1"]), None);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (one, two) = (file("1", "global: {revision: one}\n"), file("2", "global:\n  revision: two\n"));
        let (none, broken) = (file("3", "node: {revision: [1]}\n"), file("4", "a: [\n"));
        assert_eq!(revision(&["-f", &one, "-f", &two, "-f", &none, "-f", "-"]).as_deref(), Some("two"));
        assert_eq!(revision(&["-f", &one, "--set", "global.revision=set"]).as_deref(), Some("set"));
        assert_eq!(revision(&["-f", &one, "--set", "global.revision="]), None);
        assert_eq!(revision(&["-f", &none]), None);
        assert!(parse(&["-f", &broken]).revision().is_err());
    }
}
