// SPDX-License-Identifier: Apache-2.0
//! The last good text of every file, kept on disk: a file that is broken when the process starts must not take its policies
//! out of force either.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// A mirror of the manifests as they last came into force.
#[derive(Debug)]
pub(super) struct Keep {
    folder: PathBuf,
}

impl Keep {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The last good text of a file.
    pub(super) fn load(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(path)).ok()
    }

    /// A file came into force with this text.
    pub(super) fn save(&self, path: &str, text: &str) {
        let target = self.folder.join(path);
        if let Err(error) = write(&target, text) {
            tracing::warn!(file = path, %error, "the last good content was not kept for the next start");
        }
    }

    /// Forgets what went while nobody looked; `is_there` says which files are still there.
    pub(super) fn prune(&self, is_there: impl Fn(&str) -> bool) {
        let mut gone = Vec::new();
        walk(&self.folder, "", &mut |path| gone.extend((!is_there(path)).then(|| path.to_owned())));
        for path in gone {
            self.forget(&path);
        }
    }

    /// A file is gone.
    pub(super) fn forget(&self, path: &str) {
        match fs::remove_file(self.folder.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = path, %error, "the content of a file that is gone was not removed");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Calls with the path of every kept file, relative to the folder.
fn walk(folder: &Path, prefix: &str, found: &mut impl FnMut(&str)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        // Never through a link: none of ours is one.
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), &format!("{prefix}{name}/"), found),
            Ok(kind) if kind.is_file() => found(&format!("{prefix}{name}")),
            Ok(_) | Err(_) => {}
        }
    }
}

fn write(target: &Path, text: &str) -> io::Result<()> {
    if fs::read_to_string(target).is_ok_and(|kept| kept == text) {
        return Ok(());
    }
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut draft = target.as_os_str().to_owned();
    draft.push(".new");
    fs::write(&draft, text)?;
    fs::rename(&draft, target)
}
