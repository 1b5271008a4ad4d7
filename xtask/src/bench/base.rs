// SPDX-License-Identifier: Apache-2.0
//! The binaries of another commit, built to be measured beside those of this tree.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{PROGRAMS, build, released};
use crate::step::{output, root, run, say, step};

/// Below `target`: the tree of the commit while it is built, and its binaries.
const FOLDER: &str = "target/compare";

/// The folder with the binaries of a commit, by any name that git knows it by. They are built once for each commit, with
/// the libraries that are there for this tree.
///
/// # Errors
/// When git does not know it, or it does not build.
pub(super) fn binaries(revision: &str) -> Result<PathBuf> {
    let commit =
        output("git", &["rev-parse", "--verify", "--end-of-options", &format!("{revision}^{{commit}}")])?;
    let commit = commit.trim();
    let folder = root().join(FOLDER).join(commit);
    if PROGRAMS.iter().all(|binary| folder.join(binary).is_file()) {
        say(format!("{revision} is built: {}", folder.display()));
        return Ok(folder);
    }
    let tree = root().join(FOLDER).join("tree");
    let path = tree.to_str().context("the repository's path is not UTF-8")?;
    remove(&tree, path)?;
    run("git", &["worktree", "add", "--detach", path, commit])?;
    let built = step(&format!("release build of {revision}"), || build(&tree, &PROGRAMS));
    let kept = built.and_then(|()| keep(&folder));
    remove(&tree, path)?;
    kept.map(|()| folder)
}

/// Copies the binaries away before those of this tree take their places.
fn keep(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    for binary in PROGRAMS {
        let (from, to) = (released()?.join(binary), folder.join(binary));
        fs::copy(&from, &to).with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

/// Takes a tree away, also one that an interrupted run has left.
fn remove(tree: &Path, path: &str) -> Result<()> {
    if tree.exists() {
        run("git", &["worktree", "remove", "--force", path])?;
    }
    run("git", &["worktree", "prune"])
}
