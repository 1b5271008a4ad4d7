// SPDX-License-Identifier: Apache-2.0
//! Control groups of version 2: where the node's are, which of them pods are in, and kubelet's.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use finding::Finding;

use crate::{
    chain::Chain,
    probes::{Group, GroupError},
};

pub(super) const CGROUP2: &str = "cgroup2";
pub(super) const KUBELET: &str = "kubelet";

/// The groups that sockets of pods are in, with all above them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// Where the hierarchy is mounted.
    pub(super) root: PathBuf,
    /// Below the root; the root is the empty path.
    pub(super) of_pods: BTreeSet<PathBuf>,
    /// Those of this process.
    pub(super) own: BTreeSet<PathBuf>,
}

/// Looks for the hierarchy of version 2 below `root`, or where it is mounted, and for the groups of pods.
pub(super) fn look(proc: &Path, root: Option<&Path>) -> (Option<Groups>, Finding) {
    let root = root.map(Path::to_owned).or_else(|| mounted(proc));
    let Some(root) = root.filter(|root| root.join("cgroup.procs").exists()) else {
        let fix = "mount cgroup2 on the node (systemd.unified_cgroup_hierarchy=1), and give the agent the node's \
                   /sys/fs/cgroup as charts/node does; until then kubelet's probes pass as exempt peers only";
        return (None, Finding::warning(CGROUP2, "the node's control groups of version 2 are not seen", fix));
    };
    let own = of_process(&proc.join("self")).map(|path| with_ancestors(&path)).unwrap_or_default();
    let groups = Groups { of_pods: of_pods(proc), own, root };
    let found = format!("the node's hierarchy is at {}", groups.root.display());
    (Some(groups), Finding::ok(CGROUP2, found))
}

/// The mount that shows the whole hierarchy, seen from the node's root.
fn mounted(proc: &Path) -> Option<PathBuf> {
    let mounts = fs::read_to_string(proc.join("thread-self/mountinfo")).ok()?;
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| PathBuf::from(place))
    })
}

/// Pods are what is in another network namespace than the node's; the root's programs are everybody's.
fn of_pods(proc: &Path) -> BTreeSet<PathBuf> {
    let namespace =
        |process: &Path| fs::metadata(process.join("ns/net")).map(|found| (found.dev(), found.ino()));
    let mut groups = BTreeSet::from([PathBuf::new()]);
    let (Ok(own), Ok(entries)) = (namespace(&proc.join("self")), fs::read_dir(proc)) else { return groups };
    for process in entries.flatten() {
        let is_process = process.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        let path = process.path();
        // One that ends meanwhile is nobody's.
        if is_process && namespace(&path).is_ok_and(|found| found != own) {
            groups.extend(of_process(&path).iter().flat_map(|group| with_ancestors(group)));
        }
    }
    groups
}

fn of_process(process: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(process.join("cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // What is outside of what is seen cannot be opened either.
    (!path.starts_with("..")).then(|| PathBuf::from(path))
}

fn with_ancestors(path: &Path) -> BTreeSet<PathBuf> {
    path.ancestors().map(Path::to_owned).collect()
}

/// Whether kubelet's probes can be recognised.
pub(super) fn kubelet(group: Result<Group, GroupError>) -> Finding {
    match group {
        Ok(group) => Finding::ok(KUBELET, format!("kubelet has the control group {}", group.path.display())),
        Err(error) => Finding::warning(
            KUBELET,
            format!("{}: its probes pass as exempt peers only", Chain(&error)),
            "run kubelet in a control group (version 2) of its own, as systemd does, or set node.exemptPeers to the \
             node's addresses",
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use finding::Grade;

    use super::*;

    #[test]
    fn groups_of_pods_are_those_of_processes_in_other_network_namespaces_and_all_above() {
        let folder = tempfile::tempdir().unwrap();
        let (proc, cgroup) = (folder.path().join("proc"), folder.path().join("cgroup"));
        fs::create_dir_all(&cgroup).unwrap();
        fs::write(cgroup.join("cgroup.procs"), "").unwrap();
        for (pid, netns, group) in [
            ("self", "node", "/own"),
            ("7", "pod", "/pods/a"),
            ("8", "node", "/system"),
            ("9", "pod", "/../x"),
        ] {
            let process = proc.join(pid);
            fs::create_dir_all(process.join("ns")).unwrap();
            fs::write(process.join("cgroup"), format!("3:pids:/z\n0::{group}\n")).unwrap();
            fs::write(folder.path().join(netns), "").unwrap();
            symlink(folder.path().join(netns), process.join("ns/net")).unwrap();
        }
        let (groups, finding) = look(&proc, Some(&cgroup));
        let groups = groups.unwrap();
        assert_eq!(groups.of_pods, ["", "pods", "pods/a"].map(PathBuf::from).into());
        assert_eq!((finding.grade, groups.own), (Grade::Ok, ["", "own"].map(PathBuf::from).into()));
        let (groups, finding) = look(&proc, None);
        assert!(groups.is_none() && finding.grade == Grade::Warning);
    }
}
