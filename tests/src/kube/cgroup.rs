// SPDX-License-Identifier: Apache-2.0
//! Control groups of a cluster: where the machine has cgroup2, every process of the cluster is below one folder of it
//! from its first instruction, so that all of them are found and killed at once, whoever started them. Kubelets have a
//! folder each, by which their probes are recognised. Container runtimes make folders in the older hierarchies too.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::shape;

/// How long the kernel may take to let an empty group go.
const EMPTYING: Duration = Duration::from_secs(10);
/// containerd's folder for what kubelets run.
const CONTAINERS: &str = "k8s.io";

/// Path of the cluster's folder below the root of every hierarchy.
#[must_use]
pub fn folder(cluster: &str) -> String {
    shape::prefix(cluster).trim_end_matches('-').to_owned()
}

/// Where cgroup2 is mounted; `None` on a machine without it.
///
/// # Errors
/// When the mounts cannot be read.
pub fn unified() -> Result<Option<PathBuf>> {
    Ok(hierarchies()?.into_iter().find(|hierarchy| hierarchy.unified).map(|hierarchy| hierarchy.path))
}

/// Makes a group of the cluster in cgroup2; `None` on a machine without it.
///
/// # Errors
/// When the kernel refuses.
pub fn create(cluster: &str, group: &str) -> Result<Option<PathBuf>> {
    let Some(root) = unified()? else { return Ok(None) };
    let path = root.join(folder(cluster)).join(group);
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(Some(path))
}

/// Kills every process of a group and of those below it, as far as the kernel can do that at once.
pub fn kill(group: &Path) {
    // Without `cgroup.kill` (before Linux 5.14) the processes are killed one by one, by whoever asks for them.
    fs::write(group.join("cgroup.kill"), "1").unwrap_or_default();
}

/// The cluster's folders in all hierarchies.
///
/// # Errors
/// When the mounts cannot be read.
pub fn folders(cluster: &str) -> Result<Vec<PathBuf>> {
    existing(&folder(cluster))
}

/// A group's folders in all hierarchies that have it.
///
/// # Errors
/// When the mounts cannot be read.
pub fn existing(group: &str) -> Result<Vec<PathBuf>> {
    let folders = hierarchies()?.into_iter().map(|hierarchy| hierarchy.path.join(group));
    Ok(folders.filter(|path| path.is_dir()).collect())
}

/// The folders of containers in all hierarchies. containerd puts each container into a folder of its own at the root,
/// whichever group it runs in itself, when the kubelet makes no groups for pods.
///
/// # Errors
/// When the mounts cannot be read.
pub fn containers(ids: &[String]) -> Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for hierarchy in hierarchies()? {
        let root = hierarchy.path.join(CONTAINERS);
        folders.extend(ids.iter().map(|id| root.join(id)).filter(|path| path.is_dir()));
    }
    Ok(folders)
}

/// Removes the folders above those of containers, where no other cluster has any.
///
/// # Errors
/// When the mounts cannot be read.
pub fn remove_empty_roots() -> Result<()> {
    for hierarchy in hierarchies()? {
        // Not empty: another cluster, or another containerd of this machine, has containers there.
        fs::remove_dir(hierarchy.path.join(CONTAINERS)).unwrap_or_default();
    }
    Ok(())
}

/// Processes of a group and of those below it.
#[must_use]
pub fn processes(group: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    for folder in tree(group) {
        // A group that has just gone has no processes.
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    found
}

/// Removes a group without processes, and those below it.
///
/// # Errors
/// When it is still not empty after ten seconds.
pub fn remove(group: &Path) -> Result<()> {
    let started = Instant::now();
    for folder in tree(group).into_iter().rev() {
        loop {
            match fs::remove_dir(&folder) {
                Ok(()) => break,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) if started.elapsed() > EMPTYING => {
                    return Err(error).with_context(|| format!("removing {}", folder.display()));
                }
                Err(_busy) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }
    Ok(())
}

/// A folder and all below it, parents first.
fn tree(root: &Path) -> Vec<PathBuf> {
    let mut all = vec![root.to_path_buf()];
    let mut next = 0;
    while let Some(folder) = all.get(next).cloned() {
        next += 1;
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        all.extend(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    all
}

#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    path: PathBuf,
    unified: bool,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let found = parse(&mounts);
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted, and containers need one");
    }
    Ok(found)
}

fn parse(mounts: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let unified = match kind.split(' ').next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        Some(Hierarchy { path: PathBuf::from(mount.split(' ').nth(4)?), unified })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_hierarchies_are_found() {
        let mounts = "\
31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:3 - cgroup2 cgroup2 rw
";
        let found: Vec<(String, bool)> = parse(mounts)
            .into_iter()
            .map(|found| (found.path.display().to_string(), found.unified))
            .collect();
        let expected = [("/sys/fs/cgroup/pids", false), ("/sys/fs/cgroup/unified", true)];
        assert_eq!(found, expected.map(|(path, unified)| (path.to_owned(), unified)));
    }
}
