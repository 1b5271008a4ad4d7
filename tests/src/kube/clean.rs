// SPDX-License-Identifier: Apache-2.0
//! Removes what a cluster has left: at its end, after a crash of the program that was starting it, or on `cluster down`.
//!
//! A process is the cluster's when the record names it by pid and start time, when it is in one of the cluster's
//! control groups (so are shims and containers), or when it stands in one of its network namespaces. Logs stay.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    cgroup, node,
    shape::{Shape, node_name, prefix, record_name},
};
use crate::{
    clean::{Removed, check_name},
    config::run_folder,
    net::Namespace,
    record::{Birth, Record},
};

/// How long everything together may take to die.
const DEATH: Duration = Duration::from_secs(30);
/// How long the kernel may take to destroy a namespace and the links in it.
const GONE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);

/// Removes everything of a cluster but its logs.
///
/// # Errors
/// When another running program is just starting it, or something resists.
pub fn remove(name: &str) -> Result<Removed> {
    check_name(name)?;
    let record = Record::read(&record_name(name))?;
    let own = i32::try_from(std::process::id())?;
    let owner = record.as_ref().and_then(|record| record.owner);
    if let Some(owner) = owner.filter(|owner| owner.pid != own && owner.alive()) {
        anyhow::bail!("cluster {name} is in use by process {}; end that first", owner.pid);
    }
    let shape = Shape::read(name)?;
    let namespaces = Namespace::with_prefix(&prefix(name))?;
    let births: Vec<Birth> =
        record.iter().flat_map(|record| &record.processes).map(|process| process.birth).collect();
    let groups = || groups(name, shape.as_ref());
    let mut removed = Removed { processes: end(groups, &births, &namespaces, own)?, ..Removed::default() };
    for namespace in namespaces {
        namespace.delete()?;
        removed.namespaces += 1;
    }
    for group in groups()? {
        cgroup::remove(&group)?;
    }
    cgroup::remove_empty_roots()?;
    if let Some(shape) = &shape {
        wait_for_link(&shape.block.link())?;
        remove_files(&shape.state)?;
    }
    unmount(&run_folder(&record_name(name)))?;
    match fs::remove_dir_all(run_folder(&record_name(name))) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("removing the cluster's run folder")
        }
        _ => Ok(removed),
    }
}

/// The control groups of a cluster: its own, and those of its containers.
fn groups(name: &str, shape: Option<&Shape>) -> Result<Vec<PathBuf>> {
    let mut groups = cgroup::folders(name)?;
    if let Some(shape) = shape {
        let ids: Vec<String> =
            shape.numbers().flat_map(|number| node::containers(shape, &node_name(number))).collect();
        groups.extend(cgroup::containers(&ids)?);
    }
    Ok(groups)
}

/// Kills all processes of some groups and all that stand in a namespace.
pub(super) fn kill_all(groups: impl Fn() -> Result<Vec<PathBuf>>, namespace: &Namespace) -> Result<()> {
    let own = i32::try_from(std::process::id())?;
    end(groups, &[], std::slice::from_ref(namespace), own).map(drop)
}

/// Kills until nothing is left: a process that dies may just have started another.
fn end(
    find_groups: impl Fn() -> Result<Vec<PathBuf>>,
    births: &[Birth],
    namespaces: &[Namespace],
    own: i32,
) -> Result<usize> {
    let mut killed = BTreeSet::new();
    let started = Instant::now();
    loop {
        let groups = find_groups()?;
        let mut alive: BTreeSet<i32> =
            births.iter().filter(|birth| birth.alive()).map(|birth| birth.pid).collect();
        alive.extend(groups.iter().flat_map(|group| cgroup::processes(group)));
        alive.extend(standing_in(namespaces)?);
        // A zombie needs no killing, only a parent.
        alive.retain(|pid| *pid != own && Birth::of(*pid).is_some());
        if alive.is_empty() {
            return Ok(killed.len());
        }
        ensure!(started.elapsed() < DEATH, "processes {alive:?} do not die");
        for group in &groups {
            cgroup::kill(group);
        }
        for pid in &alive {
            match kill(Pid::from_raw(*pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("killing process {pid}")),
            }
        }
        killed.append(&mut alive);
        thread::sleep(LOOK);
    }
}

/// Processes whose network namespace is one of these.
fn standing_in(namespaces: &[Namespace]) -> Result<Vec<i32>> {
    let identity = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino())).ok();
    let ours: BTreeSet<(u64, u64)> =
        namespaces.iter().filter_map(|namespace| identity(&namespace.path())).collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if identity(&entry.path().join("ns/net")).is_some_and(|identity| ours.contains(&identity)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// The machine's end of the link goes with the fabric's namespace, which the kernel destroys at its leisure.
fn wait_for_link(link: &str) -> Result<()> {
    let path = Path::new("/sys/class/net").join(link);
    let started = Instant::now();
    while path.exists() {
        ensure!(started.elapsed() < GONE, "link {link} does not go away");
        thread::sleep(LOOK);
    }
    Ok(())
}

/// Views of nodes are mounted in the run folder; the folder may be mounted on itself.
fn unmount(folder: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let mut places: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .filter(|place| place.starts_with(folder))
        .collect();
    places.sort();
    for place in places.into_iter().rev() {
        match umount2(&place, MntFlags::MNT_DETACH) {
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmounting {}", place.display())),
        }
    }
    Ok(())
}

fn remove_files(state: &Path) -> Result<()> {
    let entries = match fs::read_dir(state) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("listing {}", state.display())),
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        let removed = match entry.file_type()? {
            kind if kind.is_dir() && entry.file_name() == "logs" => continue,
            kind if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        removed.with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}
