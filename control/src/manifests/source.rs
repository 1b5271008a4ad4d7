// SPDX-License-Identifier: Apache-2.0
//! One look after another at the folder: disk to files to World, with what people are told about it.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use arcstr::ArcStr;

use super::{
    document::read,
    folder::{Change, FileState, Folder, Outcome},
    keep::Keep,
    scan::{Look, Moved, Scanner, Seen},
    watch::{FolderSettings, FolderStatus, FolderView},
};
use crate::{live::Live, metrics};

/// See the module.
pub(super) struct Source {
    scanner: Scanner,
    folder: Folder,
    keep: Keep,
    /// Texts that are not in force, or not kept yet.
    texts: BTreeMap<ArcStr, String>,
    failures: Vec<String>,
    live: Arc<Live>,
    view: FolderView,
}

impl Source {
    pub(super) fn new(settings: &FolderSettings, live: Arc<Live>, view: FolderView) -> Self {
        Self {
            scanner: Scanner::new(&settings.manifests),
            folder: Folder::new(),
            keep: Keep::new(settings.keep.clone()),
            texts: BTreeMap::new(),
            failures: Vec::new(),
            live,
            view,
        }
    }

    /// For whoever hears of files that are moved.
    pub(super) fn moved(&self) -> Moved {
        self.scanner.moved()
    }

    /// Looks once; says whether something was being written.
    pub(super) fn look(&mut self, now: SystemTime) -> bool {
        let Look { seen, unsettled, failures } = self.scanner.look(now);
        let changed = !seen.is_empty() || failures != self.failures;
        for failure in failures.iter().filter(|failure| !self.failures.contains(failure)) {
            tracing::error!(error = failure, "manifests cannot be listed, what is in force stays");
        }
        self.failures = failures;
        if !seen.is_empty() {
            self.restore(&seen);
            let changes: Vec<Change> = seen.into_iter().map(|seen| self.change(seen)).collect();
            let outcome = self.folder.update(changes);
            self.report(&outcome);
            // In force before it is kept: a slow disk holds up nobody.
            let Outcome { events, accepted, .. } = outcome;
            self.live.apply(events);
            self.save(&accepted);
        }
        if changed {
            self.publish();
        }
        unsettled
    }

    /// What was there at the start is in force. A folder that cannot be listed is no start: to proxies it would look
    /// like a mesh without policies.
    pub(super) fn complete(&self) -> bool {
        if !self.live.is_complete() && self.failures.is_empty() {
            self.keep.prune(|path| self.folder.has(path));
            self.live.complete();
        }
        self.live.is_complete()
    }

    /// Before the first content of a file: what it said when it was last good.
    fn restore(&mut self, seen: &[Seen]) {
        let kept = seen.iter().filter_map(|seen| match seen {
            Seen::Text(path, _) | Seen::Unreadable(path, _) if !self.folder.has(path) => {
                Some(Change::Content(path.clone(), read(&self.keep.load(path)?)))
            }
            Seen::Text(..) | Seen::Unreadable(..) | Seen::Gone(_) => None,
        });
        let kept: Vec<Change> = kept.collect();
        if !kept.is_empty() {
            let outcome = self.folder.update(kept);
            self.live.apply(outcome.events);
        }
    }

    fn change(&mut self, seen: Seen) -> Change {
        match seen {
            Seen::Text(path, text) => {
                let content = read(&text);
                for ignored in &content.ignored {
                    let (line, object, reason) = (ignored.line, &ignored.object, &ignored.message);
                    tracing::warn!(file = %path, line, object, reason, "document is ignored");
                }
                self.texts.insert(path.clone(), text);
                Change::Content(path, content)
            }
            Seen::Unreadable(path, why) => {
                self.texts.remove(&path);
                Change::Unreadable(path, why)
            }
            Seen::Gone(path) => {
                self.texts.remove(&path);
                self.keep.forget(&path);
                Change::Gone(path)
            }
        }
    }

    fn report(&self, outcome: &Outcome) {
        metrics::manifest_changes("accepted", outcome.accepted.len());
        metrics::manifest_changes("broken", outcome.broken.len());
        for path in &outcome.accepted {
            tracing::info!(file = %path, "manifest is in force");
        }
        for path in &outcome.broken {
            for problem in self.folder.problems(path) {
                let (line, field, object, error) =
                    (problem.line, problem.field, problem.object, problem.message);
                tracing::error!(file = %path, line, field, object, error, "manifest is broken, its last good state stays in force");
            }
        }
    }

    fn save(&mut self, accepted: &[ArcStr]) {
        for path in accepted {
            if let Some(text) = self.texts.remove(path) {
                self.keep.save(path, &text);
            }
        }
    }

    fn publish(&self) {
        let files = self.folder.status();
        let broken = files.iter().filter(|file| file.state == FileState::Broken).count();
        metrics::manifest_files("good", files.len() - broken);
        metrics::manifest_files("broken", broken);
        metrics::manifest_errors(files.iter().map(|file| file.problems.len()).sum());
        self.view.set(FolderStatus { files, failures: self.failures.clone() });
    }
}

#[cfg(test)]
mod tests;
