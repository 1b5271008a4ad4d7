// SPDX-License-Identifier: Apache-2.0
//! Where everything is pinned, and how to read it back. A bpffs allows no dots in names.
//!
//! ```text
//! BPF_DIR/claims, captured, probes      what sockets carry, and kubelet's; shared by all generations
//!        /kubelet                       the link that notes kubelet's connections
//! BPF_DIR/gFINGERPRINT/maps/NAME        one generation: object and settings
//!                     /programs/NAME    pinned last: a generation that has them is whole
//!                     /pods/SLOT-UID/   one pod: its links
//! ```

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use ebpf_abi::map::{CAPTURED, CLAIMS, PROBES};
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// Where a bpffs is mounted by custom.
const BPFFS: &str = "/sys/fs/bpf";
/// First letter of a generation's folder.
const GENERATION: char = 'g';

/// The folder of one generation.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    root: PathBuf,
    generation: PathBuf,
}

/// A pod's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodPins {
    pub(crate) slot: u32,
    pub(crate) uid: String,
    pub(crate) path: PathBuf,
}

/// Something in the bpffs that could not be made, read or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
pub struct PinError {
    pub(crate) verb: &'static str,
    pub(crate) path: PathBuf,
    #[source]
    pub(crate) source: io::Error,
}

impl Pins {
    /// Makes the folder of a generation, on a bpffs that is mounted if need be.
    pub(crate) fn make(root: &Path, fingerprint: &str) -> Result<Self, PinError> {
        mount_bpffs(root)?;
        let generation = root.join(format!("{GENERATION}{fingerprint}"));
        let pins = Self { root: root.to_owned(), generation };
        for folder in ["maps", "programs", "pods"] {
            make_folder(&pins.generation.join(folder))?;
        }
        Ok(pins)
    }

    /// The folder of an existing generation.
    fn of(root: &Path, generation: PathBuf) -> Self {
        Self { root: root.to_owned(), generation }
    }

    /// Every other generation that is still there.
    pub(crate) fn others(&self) -> Result<Vec<Self>, PinError> {
        let folders = list(&self.root)?;
        let others = folders.into_iter().filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with(GENERATION) && *path != self.generation
        });
        Ok(others.map(|path| Self::of(&self.root, path)).collect())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where a map is pinned.
    pub(crate) fn map(&self, name: &str) -> PathBuf {
        match name {
            CLAIMS | CAPTURED | PROBES => self.root.join(name.to_ascii_lowercase()),
            _ => self.generation.join("maps").join(name),
        }
    }

    /// Where the link on kubelet's control group is pinned.
    pub(crate) fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// Where a shared program is pinned.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.generation.join("programs").join(name)
    }

    /// The pods of this generation.
    pub(crate) fn pods(&self) -> Result<Vec<PodPins>, PinError> {
        let folders = list(&self.generation.join("pods"))?;
        Ok(folders.into_iter().filter_map(PodPins::parse).collect())
    }

    /// Makes a pod's folder.
    pub(crate) fn make_pod(&self, slot: u32, uid: &str) -> Result<PodPins, PinError> {
        let path = self.generation.join("pods").join(format!("{slot:04}-{}", encode(uid)));
        make_folder(&path)?;
        Ok(PodPins { slot, uid: uid.to_owned(), path })
    }

    /// Removes a generation without pods.
    pub(crate) fn remove(&self) -> Result<(), PinError> {
        remove_tree(&self.generation)
    }
}

impl PodPins {
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (slot, uid) = name.split_once('-')?;
        Some(Self { slot: slot.parse().ok()?, uid: decode(uid)?, path })
    }

    pub(crate) fn link(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names of the pinned links.
    pub(crate) fn links(&self) -> Result<Vec<String>, PinError> {
        let name = |path: PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(list(&self.path)?.into_iter().filter_map(name).collect())
    }

    /// Removes a pinned link, which detaches it. Nothing happens when there is none.
    pub(crate) fn unlink(&self, name: &str) -> Result<(), PinError> {
        let path = self.link(name);
        absent_is_fine(fs::remove_file(&path)).map_err(|source| PinError { verb: "remove", path, source })
    }

    /// Removes the folder with all links.
    pub(crate) fn remove(&self) -> Result<(), PinError> {
        remove_tree(&self.path)
    }
}

fn mount_bpffs(root: &Path) -> Result<(), PinError> {
    let failed = |verb, path: &Path, source| PinError { verb, path: path.to_owned(), source };
    let customary = root.starts_with(BPFFS);
    let target = if customary { Path::new(BPFFS) } else { root };
    if !customary {
        make_folder(target)?;
    }
    let kind = statfs(target).map_err(|source| failed("examine", target, source.into()))?;
    if kind.filesystem_type() != BPF_FS_MAGIC {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), target, Some("bpf"), flags, Some("mode=0700"))
            .map_err(|source| failed("mount a bpffs on", target, source.into()))?;
    }
    make_folder(root)?;
    // Whoever mounts it somewhere may have made it first.
    fs::set_permissions(root, Permissions::from_mode(0o700))
        .map_err(|source| failed("restrict", root, source))
}

fn make_folder(path: &Path) -> Result<(), PinError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| PinError { verb: "make", path: path.to_owned(), source })
}

fn list(path: &Path) -> Result<Vec<PathBuf>, PinError> {
    let failed = |source| PinError { verb: "list", path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed)).collect()
}

fn remove_tree(path: &Path) -> Result<(), PinError> {
    absent_is_fine(fs::remove_dir_all(path)).map_err(|source| PinError {
        verb: "remove",
        path: path.to_owned(),
        source,
    })
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A uid as part of a file name: what a bpffs does not allow, or would be taken for an escape, as `_` and two digits.
fn encode(uid: &str) -> String {
    let escaped = uid.bytes().map(|byte| match byte {
        b'-' => "-".to_owned(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("_{byte:02x}"),
    });
    escaped.collect()
}

fn decode(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'_' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_uid_survives_as_a_file_name_without_dots() {
        for uid in ["4f0c7c1e-90a7-4a2b", "a.b_c/d", "ü", "", "_2e", "..", "default/client"] {
            let name = encode(uid);
            assert!(!name.contains(['.', '/']), "{name}");
            assert_eq!(decode(&name).as_deref(), Some(uid));
        }
    }

    #[test]
    fn a_pods_folder_tells_slot_and_uid() {
        let pod = PodPins::parse(PathBuf::from("/bpf/gx/pods/0017-a-b_2ec")).unwrap();
        assert_eq!((pod.slot, pod.uid.as_str()), (17, "a-b.c"));
    }

    #[test]
    fn what_is_not_a_pods_folder_is_no_pod() {
        for name in ["17", "x-a", "0001-_2", "0001-_zz"] {
            assert_eq!(PodPins::parse(PathBuf::from(name)), None, "{name}");
        }
    }

    #[test]
    fn what_sockets_carry_outlives_a_generation() {
        let pins = Pins::of(Path::new("/bpf"), PathBuf::from("/bpf/g1"));
        assert_eq!(pins.map(CLAIMS), Path::new("/bpf/claims"));
        assert_eq!(pins.map(CAPTURED), Path::new("/bpf/captured"));
        assert_eq!(pins.map(PROBES), Path::new("/bpf/probes"));
        assert_eq!(pins.map("PODS"), Path::new("/bpf/g1/maps/PODS"));
    }
}
