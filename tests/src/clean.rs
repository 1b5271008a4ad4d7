// SPDX-License-Identifier: Apache-2.0
//! Removes what a lab has left: after its end, after a crash of the program that held it, or on `lab down`.
//!
//! It kills only processes that the lab's record names, by pid and start time, and removes only namespaces and eBPF
//! folders whose names begin with the lab's prefix. Manifests and logs stay until the next lab of that name.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    config::run_folder,
    net::Namespace,
    record::{Birth, Record},
};

/// Where pinned eBPF objects are.
pub const BPF_FOLDER: &str = "/sys/fs/bpf";
/// How long a killed process may take to disappear.
const DEATH: Duration = Duration::from_secs(10);

/// What was found and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Processes killed.
    pub processes: usize,
    /// Namespaces removed.
    pub namespaces: usize,
    /// Folders of pinned eBPF objects removed.
    pub bpf_folders: usize,
}

/// The prefix of all names that `lab` gives to namespaces and eBPF folders.
#[must_use]
pub fn prefix(lab: &str) -> String {
    format!("ambit-{lab}-")
}

/// A lab's name is part of a prefix, so it holds no separator: `shop` must never match what `shop-2` made.
///
/// # Errors
/// When the name does not fit.
pub fn check_name(lab: &str) -> Result<()> {
    let fits = !lab.is_empty()
        && lab.len() <= 20
        && lab.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    ensure!(fits, "the name of a lab is 1 to 20 lowercase letters and digits: {lab:?} is not");
    Ok(())
}

/// Removes everything of `lab` but its manifests and logs.
///
/// # Errors
/// When another running program holds the lab, or something resists.
pub fn remove(lab: &str) -> Result<Removed> {
    check_name(lab)?;
    let mut removed = Removed::default();
    if let Some(record) = Record::read(lab)? {
        let own = i32::try_from(std::process::id())?;
        if let Some(owner) = record.owner.filter(|owner| owner.pid != own && owner.alive()) {
            anyhow::bail!("lab {lab} is in use by process {}; end that first", owner.pid);
        }
        removed.processes = end(record.processes.iter().map(|process| process.birth))?;
    }
    for namespace in Namespace::with_prefix(&prefix(lab))? {
        namespace.delete()?;
        removed.namespaces += 1;
    }
    for folder in bpf_folders(lab)? {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
        removed.bpf_folders += 1;
    }
    match fs::remove_dir_all(run_folder(lab)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("removing the lab's run folder")
        }
        _ => Ok(removed),
    }
}

fn end(births: impl Iterator<Item = Birth>) -> Result<usize> {
    let alive: Vec<Birth> = births.filter(|birth| birth.alive()).collect();
    for birth in &alive {
        match kill(Pid::from_raw(birth.pid), Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).with_context(|| format!("killing process {}", birth.pid)),
        }
    }
    let started = Instant::now();
    while let Some(birth) = alive.iter().find(|birth| birth.alive()) {
        ensure!(started.elapsed() < DEATH, "process {} does not die", birth.pid);
        thread::sleep(Duration::from_millis(5));
    }
    Ok(alive.len())
}

fn bpf_folders(lab: &str) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(Path::new(BPF_FOLDER)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("reading the eBPF file system"),
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix(lab))) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_labs_name_cannot_be_the_beginning_of_another_labs_prefix() {
        for (name, fits) in
            [("demo", true), ("t1", true), ("", false), ("a-b", false), ("A", false), ("a/b", false)]
        {
            assert_eq!(check_name(name).is_ok(), fits, "{name:?}");
        }
    }
}
