// SPDX-License-Identifier: Apache-2.0
//! The network namespace of a pod that runs already: its processes are those whose control groups bear its name, in any
//! of the ways in which kubelets and runtimes write it. What it answers is a file that lasts as long as the pod where
//! there is one (runtimes keep namespaces in a folder), or that of its oldest process.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::NetnsId;

/// Where runtimes keep the namespaces of pods.
pub const MOUNTS: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Length of a container's id.
const CONTAINER_ID: usize = 64;

/// How a pod is known to kubelet and runtime.
#[derive(Clone, Copy, Debug)]
pub struct Marks<'a> {
    /// Its uids, more than one for a static pod.
    pub uids: &'a [&'a str],
    /// Ids of its containers.
    pub containers: &'a [String],
}

/// Looks for the namespace of a pod, on a machine whose processes are in `proc` and whose namespaces are kept in
/// `mounts`. None: no process of it runs.
///
/// # Errors
/// When the processes cannot be listed.
pub fn find(proc: &Path, mounts: &[PathBuf], pod: Marks<'_>) -> io::Result<Option<PathBuf>> {
    let node = id_of(&proc.join("self/ns/net"))?;
    let mut oldest: Option<(u64, PathBuf, NetnsId)> = None;
    for entry in fs::read_dir(proc)?.flatten() {
        let folder = entry.path();
        let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
        // A process may end at any of these reads; then it is none.
        if !is_process || !fs::read_to_string(folder.join("cgroup")).is_ok_and(|text| is_of(&text, pod)) {
            continue;
        }
        let Some(started) = fs::read_to_string(folder.join("stat")).ok().as_deref().and_then(start) else {
            continue;
        };
        let path = folder.join("ns/net");
        let Ok(id) = id_of(&path) else { continue };
        // A process may have made a namespace of its own; the sandbox was there before.
        if id != node && oldest.as_ref().is_none_or(|(before, ..)| started < *before) {
            oldest = Some((started, path, id));
        }
    }
    let Some((_, path, id)) = oldest else { return Ok(None) };
    Ok(Some(mounted(mounts, id).unwrap_or(path)))
}

/// The file that keeps a namespace.
fn mounted(folders: &[PathBuf], id: NetnsId) -> Option<PathBuf> {
    let files = folders.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    files.map(|file| file.path()).find(|path| id_of(path).is_ok_and(|found| found == id))
}

fn id_of(path: &Path) -> io::Result<NetnsId> {
    let metadata = fs::metadata(path)?;
    Ok(NetnsId { device: metadata.dev(), inode: metadata.ino() })
}

/// Whether a process with these control groups (`/proc/PID/cgroup`) is of a pod.
fn is_of(cgroups: &str, pod: Marks<'_>) -> bool {
    let paths = || cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    // The outermost name counts: below its own group a container may call groups what it likes.
    let by_uid =
        |path: &str| path.split('/').find_map(uid).map(|uid| pod.uids.iter().any(|own| same_uid(own, uid)));
    let by_container =
        |path: &str| path.split('/').find_map(container).map(|id| pod.containers.iter().any(|own| own == id));
    paths().find_map(by_uid).or_else(|| paths().find_map(by_container)).unwrap_or(false)
}

/// The uid in `pod4cb2…` and `kubepods-burstable-pod4cb2….slice`.
fn uid(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None => name.strip_prefix("kubepods")?.rsplit_once("-pod")?.1,
    };
    let plausible = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_');
    (uid.len() >= 32 && uid.bytes().all(plausible)).then_some(uid)
}

/// systemd allows no dash in the name of a slice.
fn same_uid(own: &str, found: &str) -> bool {
    own.len() == found.len()
        && own.bytes().zip(found.bytes()).all(|(own, found)| own == found || (own == b'-' && found == b'_'))
}

/// The id in `4f1c…` and `cri-containerd-4f1c….scope`.
fn container(segment: &str) -> Option<&str> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    let id = name.rsplit_once('-').map_or(name, |(_, id)| id);
    // After the runtime's name there may also be a colon: `k8s.io:cri-containerd:4f1c…`.
    let id = id.rsplit_once(':').map_or(id, |(_, id)| id);
    (id.len() == CONTAINER_ID && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// When a process started, in ticks since boot: the 22nd field of `/proc/PID/stat`, counted from behind its name, which
/// may contain anything.
fn start(stat: &str) -> Option<u64> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const UID: &str = "4cb2c1a5-1c2f-4e6b-9a55-0d6fbb7a1c11";
    const OTHER: &str = "99999999-1c2f-4e6b-9a55-0d6fbb7a1c11";

    fn id(letter: &str) -> String {
        letter.repeat(64)
    }

    #[test]
    fn the_processes_of_a_pod_are_known_by_their_control_groups() {
        let (own, slice) = (id("a"), UID.replace('-', "_"));
        let cases = [
            (format!("0::/kubepods/burstable/pod{UID}/{own}"), true),
            (format!("0::/kubepods/pod{UID}"), true),
            (format!("0::/../../kubepods/besteffort/pod{UID}/{}", id("b")), true),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{own}.scope"
                ),
                true,
            ),
            (format!("0::/kubepods.slice/kubepods-pod{slice}.slice"), true),
            (format!("12:pids:/k8s.io/{own}\n0::/k8s.io/{own}"), true),
            (format!("0::/system.slice/containerd.service/kubepods-x.slice:cri-containerd:{own}"), true),
            (format!("0::/system.slice/crio-{own}.scope"), true),
            (format!("0::/k8s.io/{}", id("b")), false),
            (format!("0::/kubepods/burstable/pod{OTHER}/{}", id("b")), false),
            (format!("0::/kubepods/burstable/pod{OTHER}/{own}"), false),
            (format!("0::/kubepods/burstable/pod{OTHER}/x/pod{UID}"), false),
            (format!("0::/k8s.io/{}/{own}", id("b")), false),
            ("0::/system.slice/kubelet.service".to_owned(), false),
            ("0::/".to_owned(), false),
            (String::new(), false),
        ];
        for (text, expected) in cases {
            let containers = [own.clone()];
            let pod = Marks { uids: &[UID], containers: &containers };
            assert_eq!(is_of(&text, pod), expected, "{text}");
        }
    }

    #[test]
    fn a_process_tells_its_start_whatever_it_is_called() {
        let rest = "S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for name in ["sleep", "a b", "x) S 1 (y"] {
            assert_eq!(start(&format!("7 ({name}) {rest}")), Some(4711));
        }
        assert_eq!(start("nonsense"), None);
    }

    #[test]
    fn the_oldest_namespace_of_a_pod_is_found_and_the_file_that_keeps_it_is_preferred() {
        let folder = tempfile::tempdir().unwrap();
        let (proc, mounts) = (folder.path().join("proc"), vec![folder.path().join("netns")]);
        let namespace = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "").unwrap();
            path
        };
        let (node, pod, nested) = (namespace("node"), namespace("pod"), namespace("nested"));
        let process = |pid: &str, group: &str, started: u32, netns: &Path| {
            fs::create_dir_all(proc.join(pid).join("ns")).unwrap();
            fs::write(proc.join(pid).join("cgroup"), group).unwrap();
            let stat = format!("1 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0");
            fs::write(proc.join(pid).join("stat"), stat).unwrap();
            symlink(netns, proc.join(pid).join("ns/net")).unwrap();
        };
        let own = format!("0::/kubepods/pod{UID}/x");
        process("self", "0::/", 1, &node);
        process("10", "0::/", 1, &node);
        process("11", &own, 2, &node);
        process("20", &own, 9, &nested);
        process("300", &own, 5, &pod);
        process("40", &format!("0::/kubepods/pod{OTHER}/x"), 1, &nested);
        let look = || find(&proc, &mounts, Marks { uids: &[UID], containers: &[] }).unwrap();
        assert_eq!(look(), Some(proc.join("300/ns/net")));
        fs::create_dir(&mounts[0]).unwrap();
        fs::hard_link(&pod, mounts[0].join("cni-1")).unwrap();
        assert_eq!(look(), Some(mounts[0].join("cni-1")));
        let nobody = Marks { uids: &["u"], containers: &[] };
        assert_eq!(find(&proc, &mounts, nobody).unwrap(), None);
        assert!(find(Path::new("/there/is/nothing"), &[], nobody).is_err());
    }
}
