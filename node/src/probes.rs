// SPDX-License-Identifier: Apache-2.0
//! Kubelet's control group, whose connections to pods go straight to the application: probes work under any policy, and
//! no other process of the node is let past. Found by kubelet's process, believed only if nobody else lives there, and
//! looked at again and again, because a kubelet that is started anew gets a new group. Without one the exempt peers of
//! the settings are all there is.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use runtime::Shutdown;

use crate::{capture::Capture, chain::Chain};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(2);
const PROC: &str = "/proc";
/// The process's name, as the kernel has it.
const KUBELET: &str = "kubelet";
/// Longest chain of parents; a broken one may be a circle.
const ANCESTORS: usize = 64;

/// Why there is no group to believe.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// No process of that name in the network namespace of the node.
    #[error("no process called {KUBELET} runs in the node's network namespace; the agent needs hostPID")]
    NoKubelet,
    /// Several of them, which only happens where nodes share a machine.
    #[error("kubelet is there {0} times")]
    Several(usize),
    /// No control groups of version 2, or kubelet is in their root.
    #[error("kubelet has no control group (version 2) of its own")]
    NoGroup,
    /// It is said to be where it is not, as seen from here.
    #[error("kubelet's control group {} is not found below {}; the agent needs the node's /sys/fs/cgroup", group.display(), root.display())]
    Elsewhere {
        /// As its process says.
        group: PathBuf,
        /// Where it was looked for.
        root: PathBuf,
    },
    /// Others would be believed too.
    #[error("kubelet shares its control group {} with process {pid} ({name}): give it one of its own", group.display())]
    Shared {
        /// The group.
        group: PathBuf,
        /// Who else is there.
        pid: u32,
        /// What it is called.
        name: String,
    },
    /// The processes cannot be looked at.
    #[error("cannot look at the processes of this node")]
    Unreadable(#[source] io::Error),
}

/// Keeps the programs informed until asked to finish.
pub async fn keep(capture: Capture, root: Option<PathBuf>, shutdown: Shutdown) {
    let (mut known, mut complaint) = (None, None);
    loop {
        let root = root.clone();
        let found = tokio::task::spawn_blocking(move || look(root.as_deref())).await;
        match found {
            Ok(Ok(group)) if known.as_ref() == Some(&group) => {}
            Ok(Ok(group)) => match exempt(&capture, &group).await {
                Ok(()) => {
                    tracing::info!(group = %group.path.display(), "kubelet's probes are recognised by their control group");
                    (known, complaint) = (Some(group), None);
                }
                Err(error) => complain(&mut complaint, format!("{error:#}")),
            },
            // It is being restarted, most likely: what is in force does no harm, its group has no processes.
            Ok(Err(error)) => complain(&mut complaint, Chain(&error).to_string()),
            Err(error) => complain(&mut complaint, error.to_string()),
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// The same trouble is told once.
fn complain(last: &mut Option<String>, error: String) {
    if last.as_ref() != Some(&error) {
        tracing::warn!(error, "kubelet's probes are not recognised, only exempt peers pass");
        *last = Some(error);
    }
}

async fn exempt(capture: &Capture, group: &Group) -> anyhow::Result<()> {
    let file = File::open(&group.path)?;
    Ok(capture.exempt_group(file.as_fd().try_clone_to_owned()?).await?)
}

/// A control group as it is now: made anew it has another number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) path: PathBuf,
    inode: u64,
}

/// Looks for kubelet's group, below `root` if that is given.
pub(crate) fn look(root: Option<&Path>) -> Result<Group, GroupError> {
    let proc = Path::new(PROC);
    let pid = kubelet(proc)?;
    match root {
        Some(root) => group(proc, root, pid),
        None => among(proc, &mounts(proc)?, pid),
    }
}

/// A container sees its own part of the hierarchy, and the node's where it is given that too.
fn among(proc: &Path, roots: &[PathBuf], pid: u32) -> Result<Group, GroupError> {
    let mut outcome = Err(GroupError::NoGroup);
    for root in roots {
        outcome = group(proc, root, pid);
        if !matches!(outcome, Err(GroupError::Elsewhere { .. })) {
            break;
        }
    }
    outcome
}

/// The process called kubelet that is in the network namespace that we are in, which is the node's.
fn kubelet(proc: &Path) -> Result<u32, GroupError> {
    let netns = |pid: &Path| fs::metadata(pid.join("ns/net")).map(|found| (found.dev(), found.ino()));
    let own = netns(&proc.join("self")).map_err(GroupError::Unreadable)?;
    let mut found = Vec::new();
    for entry in fs::read_dir(proc).map_err(GroupError::Unreadable)?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        if name(proc, pid) == KUBELET && netns(&entry.path()).is_ok_and(|netns| netns == own) {
            found.push(pid);
        }
    }
    match found.as_slice() {
        [] => Err(GroupError::NoKubelet),
        [pid] => Ok(*pid),
        several => Err(GroupError::Several(several.len())),
    }
}

fn name(proc: &Path, pid: u32) -> String {
    let text = fs::read_to_string(proc.join(pid.to_string()).join("comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

/// Where the hierarchy of version 2 is mounted.
fn mounts(proc: &Path) -> Result<Vec<PathBuf>, GroupError> {
    let mounts = fs::read_to_string(proc.join("self/mountinfo")).map_err(GroupError::Unreadable)?;
    let unified = mounts.lines().filter_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4)).flatten()
    });
    Ok(unified.map(PathBuf::from).collect())
}

fn group(proc: &Path, root: &Path, pid: u32) -> Result<Group, GroupError> {
    let text =
        fs::read_to_string(proc.join(pid.to_string()).join("cgroup")).map_err(GroupError::Unreadable)?;
    let stated = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(GroupError::NoGroup)?;
    // Seen from a control group namespace it begins with steps up to the root.
    let inner: PathBuf =
        Path::new(stated).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if inner.as_os_str().is_empty() {
        return Err(GroupError::NoGroup);
    }
    let path = root.join(&inner);
    let members = members(&path);
    if !members.contains(&pid) {
        return Err(GroupError::Elsewhere { group: inner, root: root.to_owned() });
    }
    if let Some(other) = members.into_iter().find(|other| !is_of(proc, *other, pid)) {
        return Err(GroupError::Shared { group: inner, pid: other, name: name(proc, other) });
    }
    let inode = fs::metadata(&path).map_err(GroupError::Unreadable)?.ino();
    Ok(Group { path, inode })
}

/// Processes of a group and of those below it.
fn members(group: &Path) -> Vec<u32> {
    let (mut found, mut folders) = (Vec::new(), vec![group.to_owned()]);
    while let Some(folder) = folders.pop() {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    found
}

/// Whether a process is kubelet or one that it has started; one that has just ended is nobody.
fn is_of(proc: &Path, pid: u32, kubelet: u32) -> bool {
    let mut pid = pid;
    for _ in 0..ANCESTORS {
        if pid == kubelet {
            return true;
        }
        match parent(proc, pid) {
            Some(parent) if parent > 0 => pid = parent,
            Some(_) => return false,
            None => return true,
        }
    }
    false
}

fn parent(proc: &Path, pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(proc.join(pid.to_string()).join("stat")).ok()?;
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    struct Machine {
        folder: tempfile::TempDir,
    }

    impl Machine {
        fn new() -> Self {
            let machine = Self { folder: tempfile::tempdir().unwrap() };
            for namespace in ["node", "pod"] {
                fs::write(machine.path(namespace), "").unwrap();
            }
            machine.process("self", "cargo", 1, ("node", "/"));
            machine
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn process(&self, pid: &str, name: &str, parent: u32, (netns, group): (&str, &str)) {
            let process = self.path("proc").join(pid);
            fs::create_dir_all(process.join("ns")).unwrap();
            fs::write(process.join("comm"), format!("{name}\n")).unwrap();
            fs::write(process.join("stat"), format!("{pid} ({name}) S {parent} 1 1")).unwrap();
            fs::write(process.join("cgroup"), format!("12:pids:/x\n0::{group}\n")).unwrap();
            symlink(self.path(netns), process.join("ns/net")).unwrap();
            let folder = self.path("cgroup").join(group.trim_start_matches(['/', '.']));
            fs::create_dir_all(&folder).unwrap();
            let file = folder.join("cgroup.procs");
            let before = fs::read_to_string(&file).unwrap_or_default();
            fs::write(file, format!("{before}{pid}\n")).unwrap();
        }

        fn look(&self) -> Result<Group, GroupError> {
            let proc = self.path("proc");
            group(&proc, &self.path("cgroup"), kubelet(&proc)?)
        }
    }

    #[test]
    fn kubelet_s_own_group_is_believed_with_what_kubelet_has_started() {
        let machine = Machine::new();
        machine.process("1", "systemd", 0, ("node", "/init.scope"));
        machine.process("70", KUBELET, 1, ("node", "/../../system.slice/kubelet.service"));
        machine.process("71", "mount", 70, ("node", "/system.slice/kubelet.service"));
        machine.process("80", KUBELET, 1, ("pod", "/kubepods/x"));
        assert_eq!(machine.look().unwrap().path, machine.path("cgroup/system.slice/kubelet.service"));
    }

    #[test]
    fn the_hierarchy_that_has_kubelet_is_found_among_several() {
        let machine = Machine::new();
        machine.process("70", KUBELET, 1, ("node", "/../../system.slice/kubelet.service"));
        let (own, host) = (machine.path("own"), machine.path("cgroup"));
        let found = among(&machine.path("proc"), &[own.clone(), host], 70).unwrap();
        assert_eq!(found.path, machine.path("cgroup/system.slice/kubelet.service"));
        assert!(matches!(among(&machine.path("proc"), &[own], 70), Err(GroupError::Elsewhere { .. })));
        assert!(matches!(among(&machine.path("proc"), &[], 70), Err(GroupError::NoGroup)));
    }

    #[test]
    fn a_group_that_others_share_is_not_believed() {
        let machine = Machine::new();
        machine.process("1", "systemd", 0, ("node", "/init.scope"));
        machine.process("70", KUBELET, 1, ("node", "/system.slice"));
        machine.process("72", "sshd", 1, ("node", "/system.slice/ssh.service"));
        let error = machine.look().unwrap_err();
        assert!(matches!(&error, GroupError::Shared { pid: 72, name, .. } if name == "sshd"), "{error}");
    }

    #[test]
    fn without_a_group_of_its_own_there_is_nothing_to_believe() {
        let machine = Machine::new();
        assert!(matches!(machine.look(), Err(GroupError::NoKubelet)));
        machine.process("70", KUBELET, 1, ("node", "/"));
        assert!(matches!(machine.look(), Err(GroupError::NoGroup)));
        machine.process("71", KUBELET, 1, ("node", "/x"));
        assert!(matches!(machine.look(), Err(GroupError::Several(2))));
        let machine = Machine::new();
        machine.process("70", KUBELET, 1, ("node", "/x"));
        fs::remove_dir_all(machine.path("cgroup")).unwrap();
        assert!(matches!(machine.look(), Err(GroupError::Elsewhere { .. })));
    }
}
