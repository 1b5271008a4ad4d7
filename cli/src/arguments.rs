// SPDX-License-Identifier: Apache-2.0
//! What can be said on the command line.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::{
    bypass::BypassCommand,
    check::CheckCommand,
    explain::ExplainCommand,
    install::{InstallCommand, UninstallCommand},
    report::ReportCommand,
    status::StatusCommand,
    version::VersionCommand,
    waypoint::WaypointCommand,
    ztunnel::ZtunnelCommand,
};

/// The namespace that the mesh runs in, unless somebody says otherwise.
pub(crate) const HOME: &str = "ambit-system";

const EXIT: &str = "\
Exit codes:
  0  all is well; warnings do not count
  1  something is wrong: a check failed, a part is not ready, a change was refused
  2  wrong usage
  3  cannot tell: the API server cannot be reached, or does not let this user look
  4  a program is missing that this command runs (helm)";

/// Installs, checks and looks into an Ambit mesh on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "ambit", after_help = EXIT, disable_version_flag = true)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) to: To,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which cluster, which mesh, and how to say it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "For every command")]
pub(crate) struct To {
    /// Kubeconfig; else KUBECONFIG, else ~/.kube/config
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig; else its current one
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// The namespace that the mesh runs in [default: ambit-system]; for `waypoint`, that of the waypoint
    #[arg(short, long, global = true, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// How to print the answer
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

impl To {
    /// The namespace that the mesh runs in.
    pub(crate) fn home(&self) -> &str {
        self.namespace.as_deref().unwrap_or(HOME)
    }
}

/// How the answer is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Versions of this program and of the mesh's parts
    Version(VersionCommand),
    /// Whether the mesh can be installed here, or is as it should be, and how to mend what is not
    Check(CheckCommand),
    /// What runs, who is in the mesh, who is not and why
    Status(StatusCommand),
    /// Install or upgrade the mesh with helm and the chart inside this program
    Install(InstallCommand),
    /// Take the mesh away; pods go on without it
    Uninstall(UninstallCommand),
    /// Take a namespace out of the mesh for a while; it comes back by itself
    Bypass(BypassCommand),
    /// Gather what a report of a fault needs into one archive, without secrets
    BugReport(ReportCommand),
    /// What would become of a request, from a pod over all hops to its destination
    Explain(ExplainCommand),
    /// What the ztunnels know
    Ztunnel(ZtunnelCommand),
    /// Waypoints: L7 proxies of a namespace, a service, a workload or a service account
    #[command(subcommand)]
    Waypoint(WaypointCommand),
    /// A script that completes commands in a shell
    Completion(Completion),
}

/// `ambit completion`.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completion {
    pub(crate) fn print(&self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "ambit", &mut script);
        crate::say::print(&String::from_utf8_lossy(&script));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn options_may_come_after_the_command() {
        let arguments = Arguments::parse_from(["ambit", "status", "-n", "mesh", "-o", "json"]);
        assert_eq!((arguments.to.home(), arguments.to.output), ("mesh", Format::Json));
        assert_eq!(Arguments::parse_from(["ambit", "status"]).to.home(), HOME);
        assert!(
            Arguments::try_parse_from(["ambit", "bypass", "shop"]).is_err(),
            "neither an end nor a beginning"
        );
        assert!(Arguments::try_parse_from(["ambit", "bypass", "shop", "--for", "30m"]).is_ok());
        let long = ["ambit", "bypass", "shop", "--for", "25h", "--reason", "x"];
        assert!(Arguments::try_parse_from(long).is_err(), "longer than a day");
        assert!(Arguments::try_parse_from(["ambit", "bypass", "shop", "--end"]).is_ok());
    }
}
