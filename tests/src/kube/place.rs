// SPDX-License-Identifier: Apache-2.0
//! Where a program of a cluster runs: which namespaces it sees and which control group it is in.
//!
//! Programs get there by `nsenter` and a line of shell that then become the program itself, so that its number is known
//! from the start and nothing runs outside of the cluster's group for a moment.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;

use crate::{
    net::Namespace,
    process::{Launch, Process},
    record::Records,
};

const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where a program runs.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Network namespace; `None`: the machine's.
    pub network: Option<Namespace>,
    /// Files by which a mount and a UTS namespace persist; `None`: the machine's.
    pub views: Option<Views>,
    /// Group in cgroup2; `None`: that of the caller.
    pub group: Option<PathBuf>,
}

/// The files by which a node's mount and UTS namespaces persist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Views {
    /// Mount namespace.
    pub mounts: PathBuf,
    /// UTS namespace: the host name.
    pub names: PathBuf,
}

impl Views {
    /// Those of a node.
    #[must_use]
    pub fn of(run_folder: &Path, node: &str) -> Self {
        Self {
            mounts: run_folder.join(format!("{node}.mounts")),
            names: run_folder.join(format!("{node}.names")),
        }
    }
}

impl Place {
    /// The words of a command that runs `program` here.
    #[must_use]
    pub fn words(&self, program: &str, arguments: &[String]) -> Vec<String> {
        let mut words = vec!["nsenter".to_owned()];
        if let Some(network) = &self.network {
            words.push(format!("--net={}", network.path().display()));
        }
        if let Some(views) = &self.views {
            words.push(format!("--mount={}", views.mounts.display()));
            words.push(format!("--uts={}", views.names.display()));
        }
        // Without a namespace to enter it would start a shell in none.
        if words.len() == 1 {
            words.clear();
        } else {
            words.push("--".to_owned());
        }
        if let Some(group) = &self.group {
            let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
            words.extend(["sh", "-c", script].map(str::to_owned));
            words.push(group.display().to_string());
        }
        words.push(program.to_owned());
        words.extend_from_slice(arguments);
        words
    }

    /// How to start a program here.
    #[must_use]
    pub fn launch(&self, program: Program) -> Launch {
        let mut words = self.words(&program.path.display().to_string(), &program.arguments).into_iter();
        let first = words.next().unwrap_or_default();
        let mut environment: BTreeMap<String, String> = program.environment.into_iter().collect();
        let folder = program.path.parent().unwrap_or_else(|| Path::new("/")).display().to_string();
        environment.insert("PATH".to_owned(), format!("{folder}:{SYSTEM_PATH}"));
        Launch {
            name: program.name,
            program: PathBuf::from(first),
            arguments: words.collect(),
            environment: environment.into_iter().collect(),
            namespace: None,
            resolv_conf: None,
            log: program.log,
        }
    }

    /// Starts a program here.
    ///
    /// # Errors
    /// When it cannot be executed.
    pub fn start(&self, program: Program, records: &Arc<Records>) -> Result<Process> {
        Process::start(self.launch(program), records)
    }
}

/// A program and how to call it.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Its name in the cluster.
    pub name: String,
    /// The binary; programs beside it are on its `PATH`.
    pub path: PathBuf,
    /// Arguments.
    pub arguments: Vec<String>,
    /// Environment.
    pub environment: Vec<(String, String)>,
    /// Where its output goes.
    pub log: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_becomes_itself_inside_its_namespaces_and_its_group() {
        let place = Place {
            network: Some(Namespace::named("n")),
            views: Some(Views::of(Path::new("/run/x"), "node-a")),
            group: Some(PathBuf::from("/cg/g")),
        };
        let words = place.words("kubelet", &["--v=2".to_owned()]).join(" ");
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        assert_eq!(
            words,
            format!(
                "nsenter --net=/run/netns/n --mount=/run/x/node-a.mounts --uts=/run/x/node-a.names -- \
                 sh -c {script} /cg/g kubelet --v=2"
            )
        );
        assert_eq!(Place::default().words("true", &[]), ["true"]);
    }
}
