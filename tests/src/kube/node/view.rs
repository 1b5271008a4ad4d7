// SPDX-License-Identifier: Apache-2.0
//! What a node sees of the machine's file system: everything, but its own folders in the places that kubelet, containerd
//! and CNI plugins use. The view is a mount namespace that persists by a bind mount, so that kubelet or containerd can
//! die and come back, and it goes away with that bind mount.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    unistd::{Pid, gettid},
};

use crate::kube::place::Views;

/// Places that a node has for itself, and the folder of the node that is shown there.
pub(super) const OWN: [(&str, &str); 8] = [
    ("/etc/cni/net.d", "cni-conf"),
    ("/opt/cni/bin", "cni-bin"),
    ("/run/ambit", "run-ambit"),
    ("/run/containerd", "run-containerd"),
    ("/run/ztunnel", "run-ztunnel"),
    ("/var/lib/cni", "cni"),
    ("/var/lib/kubelet", "kubelet"),
    ("/var/log", LOGS),
];
/// The folder of logs.
pub(super) const LOGS: &str = "log";
/// Those that are in memory on a machine, and gone when it starts again.
const VOLATILE: [&str; 3] = ["run-ambit", "run-containerd", "run-ztunnel"];
/// Places that a node begins with empty.
const EMPTY: [(&str, &str); 2] = [("/run/netns", "tmpfs"), ("/sys/fs/bpf", "bpf")];
/// What a kubelet would set for the whole machine (a panic reboots it, for one). It is shown what it wants to see.
const KERNEL_SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Makes the view of node `name` over the folders in `folder`, and the files by which it persists.
pub(super) fn persist(name: &str, folder: &Path, views: &Views) -> Result<()> {
    for (place, own) in OWN {
        fs::create_dir_all(place)
            .with_context(|| format!("making {place}, which the node's own folder covers"))?;
        fs::create_dir_all(folder.join(own)).with_context(|| format!("making {own}"))?;
    }
    for (place, _) in EMPTY {
        fs::create_dir_all(place).with_context(|| format!("making {place}"))?;
    }
    let settings = folder.join("settings");
    fs::create_dir_all(&settings).context("making a folder for kernel settings")?;
    for (key, value) in KERNEL_SETTINGS {
        fs::write(settings.join(key.replace('/', ".")), value).with_context(|| format!("writing {key}"))?;
    }
    // A namespace lives as long as somebody has it: the thread has it until both files have.
    let (made, making) = sync_channel::<Result<Pid>>(1);
    let (kept, keeping) = sync_channel::<()>(1);
    let (name, folder) = (name.to_owned(), folder.to_path_buf());
    let thread = thread::Builder::new()
        .name(format!("view of {name}"))
        .spawn(move || {
            let outcome = enter(&name, &folder).map(|()| gettid());
            if made.send(outcome).is_ok() {
                // An error means that nobody waits any more.
                keeping.recv().unwrap_or_default();
            }
        })
        .context("starting a thread")?;
    let tid = making.recv().context("the thread that makes a node's view is gone")??;
    let own = PathBuf::from(format!("/proc/self/task/{tid}/ns"));
    let bound = keep(&own.join("mnt"), &views.mounts).and_then(|()| keep(&own.join("uts"), &views.names));
    drop(kept);
    thread.join().map_err(|_panic| anyhow!("making a node's view panicked"))?;
    bound
}

/// Takes away a view that no process has any more, and what was in memory.
pub(super) fn forget(folder: &Path, views: &Views) -> Result<()> {
    for file in [&views.mounts, &views.names] {
        umount2(file, MntFlags::MNT_DETACH).with_context(|| format!("unmounting {}", file.display()))?;
    }
    for own in VOLATILE {
        fs::remove_dir_all(folder.join(own)).with_context(|| format!("removing {own}"))?;
    }
    Ok(())
}

fn keep(namespace: &Path, file: &Path) -> Result<()> {
    File::create(file).with_context(|| format!("making {}", file.display()))?;
    bind(namespace, file)
}

/// Gives the calling thread, for good, the view of a node.
fn enter(name: &str, folder: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS).context("new mount and UTS namespaces")?;
    // What goes on the machine must go here too, or the node would keep it alive; nothing of the node goes there.
    propagate(MsFlags::MS_SLAVE)?;
    for (place, own) in OWN {
        bind(&folder.join(own), Path::new(place))?;
    }
    for (place, kind) in EMPTY {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} on {place}"))?;
    }
    for (key, _) in KERNEL_SETTINGS {
        let place = Path::new("/proc/sys").join(key);
        if place.exists() {
            bind(&folder.join("settings").join(key.replace('/', ".")), &place)?;
        }
    }
    // Among the node's own containers mounts do propagate, as volumes with mount propagation need it.
    propagate(MsFlags::MS_SHARED)?;
    fs::write("/proc/sys/kernel/hostname", name).context("setting the host name")
}

fn propagate(how: MsFlags) -> Result<()> {
    mount(None::<&Path>, "/", None::<&Path>, how | MsFlags::MS_REC, None::<&Path>)
        .context("changing how mounts propagate")
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&Path>, MsFlags::MS_BIND, None::<&Path>)
        .with_context(|| format!("mounting {} on {}", source.display(), target.display()))
}
