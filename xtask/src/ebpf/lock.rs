// SPDX-License-Identifier: Apache-2.0
//! What an object was built from: hashes of sources and object, flags, versions of tools. One `name value` a line.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use sha2::{Digest, Sha256};

use super::{build, toolchain};

/// Files and folders that the object is made of, `Cargo.lock` of the programs included.
const SOURCES: [&str; 4] =
    ["ebpf/abi/src", "ebpf/programs/Cargo.lock", "ebpf/programs/Cargo.toml", "ebpf/programs/src"];
const HEADER: &str = "# What capture.bpf.o was built from. Written by `cargo xtask ebpf`.";

/// What an object was built from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lock {
    /// SHA-256 of the object, in hex.
    pub(super) object: String,
    sources: String,
    flags: String,
    tools: String,
}

impl Lock {
    /// What an object built now would be built from; the object itself is empty.
    pub(super) fn of_sources(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        for source in SOURCES {
            collect(&root.join(source), &mut files)?;
        }
        files.sort();
        let mut hash = Sha256::new();
        for file in files {
            let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
            let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
            // With lengths, so that no byte can move from one file to the next unseen.
            hash.update(format!("{name} {}\n", bytes.len()));
            hash.update(&bytes);
        }
        Ok(Self {
            object: String::new(),
            sources: hex::encode(hash.finalize()),
            flags: build::flags_as_recorded(),
            tools: toolchain::versions(),
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let value = |name: &str| {
            let line =
                text.lines().find_map(|line| line.split_once(' ').filter(|(key, _value)| *key == name));
            line.map(|(_key, value)| value.to_owned()).unwrap_or_default()
        };
        Ok(Self {
            object: value("object"),
            sources: value("sources"),
            flags: value("flags"),
            tools: value("tools"),
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let Self { object, sources, flags, tools } = self;
        let text = format!("{HEADER}\nobject {object}\nsources {sources}\nflags {flags}\ntools {tools}\n");
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// What is not as in `now`, the object aside: what, the value now, the value then.
    pub(super) fn differences<'a>(&'a self, now: &'a Self) -> Vec<(&'static str, &'a str, &'a str)> {
        let all = [
            ("a source", &now.sources, &self.sources),
            ("a compiler flag", &now.flags, &self.flags),
            ("the version of a tool", &now.tools, &self.tools),
        ];
        all.into_iter()
            .filter(|(_what, now, then)| now != then)
            .map(|(what, now, then)| (what, now.as_str(), then.as_str()))
            .collect()
    }
}

/// SHA-256 in hex.
pub(super) fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if path.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path).with_context(|| format!("listing {}", path.display()))? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_is_named() {
        let then = Lock { sources: "a".into(), ..Lock::default() };
        let now = Lock { sources: "b".into(), ..Lock::default() };
        assert_eq!(then.differences(&now), [("a source", "b", "a")]);
        assert_eq!(then.differences(&then), []);
    }
}
