// SPDX-License-Identifier: Apache-2.0
//! What has changed on disk since the last look. A file that is just being written is left for the next look, so that half
//! of it never comes into force.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arcstr::ArcStr;
use parking_lot::Mutex;

/// A file must have been left alone for this long, unless it was moved into place.
const SETTLED: Duration = Duration::from_millis(50);
/// A file that has become empty, or a path that is away, is most often in the middle of being replaced.
const REPLACED: Duration = Duration::from_millis(200);
/// Largest file that is read.
const LARGEST: u64 = 32 << 20;
/// Folders below folders; a loop of links ends here.
const DEEPEST: usize = 16;

/// What happened to a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has this text now.
    Text(ArcStr, String),
    /// It is there but cannot be read.
    Unreadable(ArcStr, String),
    /// It is gone.
    Gone(ArcStr),
}

/// The result of a look.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) seen: Vec<Seen>,
    /// Something is being written: look again soon.
    pub(super) unsettled: bool,
    /// Folders that could not be listed; what was known below them is taken to be as it was.
    pub(super) failures: Vec<String>,
}

/// Files that were moved into place since the last look: they are whole.
#[derive(Clone, Debug, Default)]
pub(super) struct Moved(Arc<Mutex<HashSet<PathBuf>>>);

impl Moved {
    /// One has been.
    pub(super) fn note(&self, path: PathBuf) {
        self.0.lock().insert(path);
    }

    fn take(&self) -> HashSet<PathBuf> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Remembers what it saw.
#[derive(Debug)]
pub(super) struct Scanner {
    root: PathBuf,
    files: BTreeMap<ArcStr, Known>,
    moved: Moved,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    missing_since: Option<SystemTime>,
}

/// Changes whenever the content does: a write changes the times, a replacement the inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// How long ago it was written. A time in the future is long ago: else a wrong clock would hide the file.
    fn age(&self, now: SystemTime) -> Duration {
        let seconds = u64::try_from(self.modified.0).unwrap_or_default();
        let nanos = u32::try_from(self.modified.1).unwrap_or_default();
        let written = SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanos));
        written.and_then(|written| now.duration_since(written).ok()).unwrap_or(Duration::MAX)
    }
}

impl Scanner {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), files: BTreeMap::new(), moved: Moved::default() }
    }

    /// For whoever hears of files that are moved.
    pub(super) fn moved(&self) -> Moved {
        self.moved.clone()
    }

    /// Looks. `now` is compared with the times of files.
    pub(super) fn look(&mut self, now: SystemTime) -> Look {
        let mut look = Look::default();
        let moved = self.moved.take();
        let mut found = BTreeSet::new();
        let mut kept = Vec::new();
        self.walk(&self.root.clone(), "", DEEPEST, &mut |listed| match listed {
            Listed::File(path) => {
                found.insert(path);
            }
            Listed::Failure(folder, why) => {
                look.failures.push(why);
                kept.push(folder);
            }
        });
        for path in &found {
            let whole = moved.contains(&self.root.join(path.as_str()));
            self.visit(path.clone(), (now, whole), &mut look);
        }
        self.files.retain(|path, known| {
            if found.contains(path) || kept.iter().any(|folder| path.starts_with(folder.as_str())) {
                known.missing_since = None;
                return true;
            }
            let since = *known.missing_since.get_or_insert(now);
            if now.duration_since(since).unwrap_or_default() < REPLACED {
                look.unsettled = true;
                return true;
            }
            look.seen.push(Seen::Gone(path.clone()));
            false
        });
        look
    }

    fn visit(&mut self, path: ArcStr, (now, whole): (SystemTime, bool), look: &mut Look) {
        let full = self.root.join(path.as_str());
        let Ok(metadata) = fs::metadata(&full) else { return };
        let stamp = Stamp::of(&metadata);
        let known = self.files.get(&path).map(|known| known.stamp);
        if known == Some(stamp) {
            return;
        }
        let emptied = stamp.size == 0 && known.is_some_and(|known| known.size > 0);
        if !whole && stamp.age(now) < if emptied { REPLACED } else { SETTLED } {
            look.unsettled = true;
            return;
        }
        match read(&full, stamp) {
            Ok(Some(text)) => look.seen.push(Seen::Text(path.clone(), text)),
            Ok(None) => {
                look.unsettled = true;
                return;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => look.seen.push(Seen::Unreadable(path.clone(), error.to_string())),
        }
        self.files.insert(path, Known { stamp, missing_since: None });
    }

    fn walk(&self, folder: &Path, prefix: &str, depth: usize, found: &mut impl FnMut(Listed)) {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            // A folder that vanished took its files along; the root itself never does.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => return,
            Err(error) => {
                found(Listed::Failure(
                    prefix.to_owned(),
                    format!("cannot list {}: {error}", folder.display()),
                ));
                return;
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| !name.starts_with('.')) else { continue };
            let path = entry.path();
            // Follows links: that is how Kubernetes mounts a ConfigMap.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth > 0 {
                self.walk(&path, &format!("{prefix}{name}/"), depth - 1, found);
            } else if metadata.is_file() && is_manifest(name) {
                found(Listed::File(arcstr::format!("{prefix}{name}")));
            }
        }
    }
}

enum Listed {
    File(ArcStr),
    Failure(String, String),
}

fn is_manifest(name: &str) -> bool {
    matches!(name.rsplit_once('.'), Some((_, "yaml" | "yml" | "json")))
}

/// The text of a file, if it is the same file before and after reading.
fn read(path: &Path, expected: Stamp) -> io::Result<Option<String>> {
    let mut file = File::open(path)?;
    if Stamp::of(&file.metadata()?) != expected {
        return Ok(None);
    }
    if expected.size > LARGEST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {LARGEST} bytes"),
        ));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(LARGEST + 1).read_to_end(&mut bytes)?;
    if Stamp::of(&file.metadata()?) != expected {
        return Ok(None);
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.utf8_error()))
}

#[cfg(test)]
mod tests;
