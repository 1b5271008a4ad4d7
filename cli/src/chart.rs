// SPDX-License-Identifier: Apache-2.0
//! The charts inside this program, and `helm`, which works with them.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::{Context as _, bail};

use crate::{arguments::To, exit::Missing, say};

/// Paths below `charts/`, and contents.
const FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/charts.rs"));
/// The chart that has the others as its parts.
const UMBRELLA: &str = "ambit";
const HELM: Missing = Missing {
    program: "helm",
    fix: "get version 3.14 or later from https://helm.sh/docs/intro/install/ or your package manager",
};

/// Writes the charts into a folder.
pub(crate) fn write(folder: &Path) -> anyhow::Result<PathBuf> {
    if FILES.is_empty() {
        bail!("this program was built without charts: build it from a tree that has the folder charts/");
    }
    for (path, content) in FILES {
        let file = folder.join(path);
        let parent = file.parent().unwrap_or(folder);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&file, content).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(folder.join(UMBRELLA))
}

/// Runs helm in the cluster and namespace that the options mean; what it says goes where ours goes.
pub(crate) fn helm(to: &To, arguments: &[OsString]) -> anyhow::Result<ExitStatus> {
    let mut command = Command::new(HELM.program);
    command.args(arguments).arg("--namespace").arg(to.home());
    if let Some(kubeconfig) = &to.kubeconfig {
        command.arg("--kubeconfig").arg(kubeconfig);
    }
    if let Some(context) = &to.context {
        command.arg("--kube-context").arg(context);
    }
    let shown: Vec<_> = arguments.iter().map(|argument| argument.to_string_lossy()).collect();
    say::progress(&format!("helm {} ...", shown.join(" ")));
    match command.status() {
        Ok(status) => Ok(status),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(HELM.into()),
        Err(error) => Err(error).context("cannot run helm"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_of_a_chart_leads_out_of_its_folder() {
        for (path, _) in FILES {
            assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
        }
    }
}
