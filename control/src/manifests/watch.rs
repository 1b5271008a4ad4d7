// SPDX-License-Identifier: Apache-2.0
//! Keeps the World as a folder says, for as long as the process runs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, ModifyKind, RenameMode},
};
use parking_lot::RwLock;
use runtime::{Shutdown, readiness::Gate};
use tokio::{sync::mpsc, time::Instant};

use super::{folder::FileStatus, scan::Moved, source::Source};
use crate::live::Live;

/// Looked at anyway this often: a watch can miss changes (network file systems, links, a lost queue).
const RESCAN: Duration = Duration::from_millis(500);
/// Looked at again this soon while a file is being written.
const UNSETTLED: Duration = Duration::from_millis(25);
/// At the start, files that never settle are waited for no longer than this.
const LONGEST_START: Duration = Duration::from_secs(5);

/// What `/status` shows of the folder.
#[derive(Clone, Debug, Default)]
pub struct FolderStatus {
    /// Its files.
    pub files: Vec<FileStatus>,
    /// Folders that cannot be listed.
    pub failures: Vec<String>,
}

/// Where to look, and where to keep what was good.
#[derive(Clone, Debug)]
pub struct FolderSettings {
    /// The manifests.
    pub manifests: PathBuf,
    /// For the last good content of each file.
    pub keep: PathBuf,
}

/// The folder of a running process: its status for readers.
#[derive(Clone, Debug, Default)]
pub struct FolderView(Arc<RwLock<FolderStatus>>);

impl FolderView {
    /// As it is now.
    pub fn status(&self) -> FolderStatus {
        self.0.read().clone()
    }

    pub(super) fn set(&self, status: FolderStatus) {
        *self.0.write() = status;
    }
}

/// Applies the folder to the World until the process is asked to finish. The gate opens when what was there at the start
/// is in force.
pub async fn watch(
    settings: FolderSettings,
    live: Arc<Live>,
    view: FolderView,
    mut gate: Gate,
    shutdown: Shutdown,
) {
    let (wake, mut woken) = mpsc::channel(1);
    let mut source = Source::new(&settings, live, view);
    // Held for as long as this runs: dropping it ends the watch.
    let _watcher = watcher(&settings.manifests, wake.clone(), source.moved());
    let started = Instant::now();
    loop {
        // Drained first: what happens during the look must cause the next one.
        while woken.try_recv().is_ok() {}
        let looked = tokio::task::spawn_blocking(move || {
            let unsettled = source.look(SystemTime::now());
            (source, unsettled)
        });
        let unsettled;
        // A panic while reading manifests must not leave the process running on old ones unseen: it ends this vital task.
        let Ok(next) = looked.await else { return };
        (source, unsettled) = next;
        if (!unsettled || started.elapsed() > LONGEST_START) && source.complete() {
            gate.ready();
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(if unsettled { UNSETTLED } else { RESCAN }) => {}
            // `wake` is held above, so the channel never ends.
            _ = woken.recv(), if !unsettled => {}
        }
    }
}

/// Wakes at changes. Without a watch the rescan does everything, later.
fn watcher(folder: &Path, wake: mpsc::Sender<()>, moved: Moved) -> Option<RecommendedWatcher> {
    let heard = move |event: notify::Result<Event>| {
        let Ok(event) = event else { return };
        if !is_change(event.kind) {
            return;
        }
        if event.kind == EventKind::Modify(ModifyKind::Name(RenameMode::To)) {
            event.paths.into_iter().for_each(|path| moved.note(path));
        }
        // Full: somebody was woken already.
        wake.try_send(()).ok();
    };
    let started = notify::recommended_watcher(heard)
        .and_then(|mut watcher| watcher.watch(folder, RecursiveMode::Recursive).map(|()| watcher));
    match started {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "manifests are not watched, only looked at again and again");
            None
        }
    }
}

/// Reading is no change; our own would wake us for ever.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(access) => access == AccessKind::Close(AccessMode::Write),
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}
