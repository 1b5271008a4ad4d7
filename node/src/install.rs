// SPDX-License-Identifier: Apache-2.0
//! Our plugin and our configuration in the node's CNI folders: written whole or not at all, watched, put right again
//! when somebody changes them, and removed in the end. What they should be is `conflist`'s answer.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{EventKind, RecursiveMode, Watcher};
use runtime::Shutdown;
use tokio::sync::watch;

use crate::{
    chain::Chain,
    conflist::{self, PLUGIN, Plan, PluginSettings},
};

/// Longest configuration that is read; the largest ones have a few KiB.
const MAX_FILE: u64 = 1 << 20;
/// A burst of changes is one change.
const SETTLE: Duration = Duration::from_millis(50);
/// The longest time between two looks, in case an event was lost.
const LOOK: Duration = Duration::from_secs(60);
/// Somebody who undoes our repairs is not raced faster than this.
const RACE: Duration = Duration::from_secs(2);
const CONFIGURATION_MODE: u32 = 0o600;
const PLUGIN_MODE: u32 = 0o755;

/// The node's folders, and what goes there.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Where the runtime reads configurations.
    pub configurations: PathBuf,
    /// Where the runtime finds plugins.
    pub plugins: PathBuf,
    /// Our plugin, to be copied.
    pub source: PathBuf,
    /// How our plugin is set.
    pub settings: PluginSettings,
}

/// What an installation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Files that were written or removed.
    pub changed: Vec<PathBuf>,
    /// The network that ours continues; none where there is none yet.
    pub primary: Option<String>,
    /// What is wrong with others' files.
    pub problems: Vec<String>,
}

/// The folders as they are.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What ours should be.
    pub plan: Plan,
    /// Every configuration.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Whether our plugin is there.
    pub has_plugin: bool,
}

/// Why the node's folders cannot be put right.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", path.display())]
pub struct InstallError {
    verb: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl InstallError {
    fn new<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + 'a {
        move |source| Self { verb, path: path.to_owned(), source }
    }
}

impl Installation {
    /// Makes the folders as they should be. Doing it again changes nothing.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn install(&self) -> Result<Done, InstallError> {
        let mut done = Done::default();
        for folder in [&self.plugins, &self.configurations] {
            fs::create_dir_all(folder).map_err(InstallError::new("make", folder))?;
        }
        // A list that names a plugin which is not there would keep every pod from starting.
        let plugin = self.plugins.join(PLUGIN);
        let wanted = fs::read(&self.source).map_err(InstallError::new("read", &self.source))?;
        if !is_same(&plugin, &wanted, PLUGIN_MODE) {
            write(&plugin, &wanted, PLUGIN_MODE).map_err(InstallError::new("write", &plugin))?;
            done.changed.push(plugin);
        }
        let files = self.files()?;
        let plan = conflist::plan(&files, &self.settings);
        if let Some((name, text)) = &plan.own {
            let path = self.configurations.join(name);
            if files.get(*name).map(Vec::as_slice) != Some(text.as_bytes()) {
                write(&path, text.as_bytes(), CONFIGURATION_MODE)
                    .map_err(InstallError::new("write", &path))?;
                done.changed.push(path);
            }
        }
        for name in &plan.stale {
            let path = self.configurations.join(name);
            remove(&path)?;
            done.changed.push(path);
        }
        Ok(Done { primary: plan.primary, problems: plan.problems, ..done })
    }

    /// What is in the folders: what ours should be, every configuration by its name, and whether our plugin is there.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn inspect(&self) -> Result<Inspected, InstallError> {
        let files = self.files()?;
        let plan = conflist::plan(&files, &self.settings);
        Ok(Inspected { plan, files, has_plugin: self.plugins.join(PLUGIN).is_file() })
    }

    /// Takes everything of ours away: the primary's configuration, which was never touched, is in force again.
    ///
    /// # Errors
    /// When a file stays.
    pub fn uninstall(&self) -> Result<(), InstallError> {
        let files = self.files()?;
        for name in files.keys().filter(|name| conflist::is_own(name)) {
            remove(&self.configurations.join(name))?;
        }
        remove(&self.plugins.join(PLUGIN))
    }

    /// Keeps the folders as they should be until asked to finish. Says after every look whether they are.
    pub async fn keep(self, ready: watch::Sender<bool>, shutdown: Shutdown) {
        let (changed, mut changes) = watch::channel(());
        let _watcher = self.watcher(changed);
        let mut last = None;
        loop {
            changes.mark_unchanged();
            let installation = self.clone();
            let done = tokio::task::spawn_blocking(move || installation.install()).await;
            let raced = report(done, &mut last, &ready);
            let pause = if raced { RACE } else { SETTLE };
            tokio::select! {
                () = shutdown.requested() => return,
                () = async {
                    drop(tokio::time::timeout(LOOK, changes.changed()).await);
                    tokio::time::sleep(pause).await;
                } => {}
            }
        }
    }

    fn watcher(&self, changed: watch::Sender<()>) -> Option<notify::RecommendedWatcher> {
        let noticed = move |event: notify::Result<notify::Event>| {
            // Our own reading is no change.
            if !event.is_ok_and(|event| matches!(event.kind, EventKind::Access(_))) {
                changed.send_replace(());
            }
        };
        let watched = notify::recommended_watcher(noticed).and_then(|mut watcher| {
            for folder in [&self.configurations, &self.plugins] {
                // They are made by the first installation; made here too, because it may fail.
                fs::create_dir_all(folder)?;
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watched
            .inspect_err(|error| tracing::warn!(%error, "the CNI folders are not watched, only looked at every minute"))
            .ok()
    }

    fn files(&self) -> Result<BTreeMap<String, Vec<u8>>, InstallError> {
        let failed = InstallError::new("list", &self.configurations);
        let entries = match fs::read_dir(&self.configurations) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut files = BTreeMap::new();
        for entry in entries.flatten() {
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if !conflist::is_configuration(&name) || !path.is_file() {
                continue;
            }
            match read(&path) {
                Ok(bytes) => drop(files.insert(name, bytes)),
                // Removed meanwhile; the watch says so once more.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(InstallError::new("read", &path)(error)),
            }
        }
        Ok(files)
    }
}

/// Logs what is new, says whether all is well, and answers whether somebody undid what was done before.
fn report(
    done: Result<Result<Done, InstallError>, tokio::task::JoinError>,
    last: &mut Option<Done>,
    ready: &watch::Sender<bool>,
) -> bool {
    let done = match done {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => {
            tracing::error!(error = %Chain(&error), "the CNI configuration is not as it should be");
            ready.send_replace(false);
            return true;
        }
        Err(error) => {
            tracing::error!(%error, "installing the CNI configuration died");
            ready.send_replace(false);
            return true;
        }
    };
    let (first, before) = (last.is_none(), last.take().unwrap_or_default());
    let repaired = !first && !done.changed.is_empty() && done.primary == before.primary;
    for path in &done.changed {
        if repaired {
            tracing::warn!(path = %path.display(), "somebody changed it, repaired; if it is a CNI that wants to be the only one, tell it not to (Cilium: cni.exclusive=false)");
        } else {
            tracing::info!(path = %path.display(), primary = done.primary, "CNI configuration changed");
        }
    }
    if first || done.problems != before.problems {
        for problem in &done.problems {
            tracing::warn!(problem, "a CNI configuration cannot be used");
        }
    }
    if done.primary.is_none() && (first || before.primary.is_some()) {
        tracing::warn!("no CNI configuration to continue yet: no pod starts before the node has one");
    }
    ready.send_replace(done.primary.is_some());
    *last = Some(done);
    repaired
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn is_same(path: &Path, wanted: &[u8], mode: u32) -> bool {
    let as_wanted = |metadata: fs::Metadata| {
        metadata.is_file()
            && metadata.len() == wanted.len() as u64
            && metadata.permissions().mode() & 0o777 == mode
    };
    fs::symlink_metadata(path).is_ok_and(as_wanted) && fs::read(path).is_ok_and(|found| found == wanted)
}

/// Under another name first, which no runtime loads, then in its place.
fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = path.with_file_name(format!(".{PLUGIN}-{}.draft", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        drop(file);
        fs::rename(&draft, path)?;
        sync_parent(path)
    })();
    if written.is_err() {
        // Half of it is of no use to anybody.
        fs::remove_file(&draft).unwrap_or_default();
    }
    written
}

fn remove(path: &Path) -> Result<(), InstallError> {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.and_then(|()| sync_parent(path)),
    };
    removed.map_err(InstallError::new("remove", path))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests;
