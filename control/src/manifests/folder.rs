// SPDX-License-Identifier: Apache-2.0
//! All files of a folder together: which of their contents is in force. It reads no disk and knows no clock.
//!
//! A file comes into force whole or not at all: with an error in it, or an object that another file has, what it said
//! before stays.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use serde::Serialize;

use super::document::{Content, Problem};
use crate::{
    objects::{Object, ObjectKey},
    world::Event,
};

/// What happened to a file; its path is relative to the folder.
#[derive(Clone, Debug)]
pub enum Change {
    /// It says this now.
    Content(ArcStr, Content),
    /// It is there but cannot be read.
    Unreadable(ArcStr, String),
    /// It is gone.
    Gone(ArcStr),
}

/// What changes brought.
#[derive(Debug, Default)]
pub struct Outcome {
    /// For the World.
    pub events: Vec<Event>,
    /// Files whose new content is in force.
    pub accepted: Vec<ArcStr>,
    /// Files that came to be broken, or are broken in another way than before.
    pub broken: Vec<ArcStr>,
}

/// A file as `/status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FileStatus {
    /// Path, relative to the folder.
    pub file: ArcStr,
    /// Whether what it says now is in force.
    pub state: FileState,
    /// Its objects that are in force.
    pub objects: Vec<Placed>,
    /// What keeps it from coming into force.
    pub problems: Vec<Problem>,
    /// Documents that are not read.
    pub ignored: Vec<Problem>,
}

/// An object and the line that it starts in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The object.
    pub object: ObjectKey,
    /// Its line.
    pub line: u64,
}

/// See [`FileStatus`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// It is in force.
    Good,
    /// It is not; what it said before, if anything, is.
    Broken,
}

/// The files.
#[derive(Debug, Default)]
pub struct Folder {
    files: BTreeMap<ArcStr, File>,
}

#[derive(Debug, Default)]
struct File {
    /// Objects in force and their lines.
    in_force: BTreeMap<ObjectKey, u64>,
    /// Valid content that is not in force, new or because of another file.
    waiting: Option<BTreeMap<ObjectKey, (Object, u64)>>,
    /// Errors in the file itself.
    own: Vec<Problem>,
    /// Objects that other files have.
    conflicts: Vec<Problem>,
    ignored: Vec<Problem>,
    gone: bool,
}

impl File {
    /// The objects that it would have if nothing spoke against it.
    fn claims(&self, refused: bool) -> Vec<(&ObjectKey, u64)> {
        match &self.waiting {
            Some(waiting) if !refused => waiting.iter().map(|(key, (_, line))| (key, *line)).collect(),
            Some(_) | None => self.in_force.iter().map(|(key, line)| (key, *line)).collect(),
        }
    }

    fn problems(&self) -> Vec<Problem> {
        self.own.iter().chain(&self.conflicts).cloned().collect()
    }
}

impl Folder {
    /// An empty folder.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what happened to files.
    pub fn update(&mut self, changes: impl IntoIterator<Item = Change>) -> Outcome {
        let before: BTreeMap<ArcStr, Vec<Problem>> =
            self.files.iter().map(|(path, file)| (path.clone(), file.problems())).collect();
        for change in changes {
            self.note(change);
        }
        let refused = self.conflicts();
        let mut outcome = self.enforce(&refused);
        self.files.retain(|_, file| !file.gone);
        for (path, file) in &self.files {
            let problems = file.problems();
            if !problems.is_empty() && before.get(path) != Some(&problems) {
                outcome.broken.push(path.clone());
            }
        }
        outcome
    }

    /// Every file.
    pub fn status(&self) -> Vec<FileStatus> {
        let files = self.files.iter();
        files
            .map(|(path, file)| {
                let problems = file.problems();
                let state = if problems.is_empty() { FileState::Good } else { FileState::Broken };
                let placed =
                    |(object, line): (&ObjectKey, &u64)| Placed { object: object.clone(), line: *line };
                let objects = file.in_force.iter().map(placed).collect();
                FileStatus { file: path.clone(), state, objects, problems, ignored: file.ignored.clone() }
            })
            .collect()
    }

    /// Whether there is such a file.
    pub fn has(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// What is wrong with a file.
    pub fn problems(&self, path: &str) -> Vec<Problem> {
        self.files.get(path).map(File::problems).unwrap_or_default()
    }

    fn note(&mut self, change: Change) {
        match change {
            Change::Content(path, content) => {
                let file = self.files.entry(path).or_default();
                file.gone = false;
                file.ignored = content.ignored;
                file.waiting = content.problems.is_empty().then(|| {
                    let objects = content.objects.into_iter();
                    objects.map(|(object, line)| (object.key(), (object, line))).collect()
                });
                file.own = content.problems;
            }
            Change::Unreadable(path, why) => {
                let file = self.files.entry(path).or_default();
                file.gone = false;
                file.waiting = None;
                let (field, object) = (String::new(), String::new());
                file.own =
                    vec![Problem { line: 0, field, object, message: format!("cannot be read: {why}") }];
            }
            Change::Gone(path) => {
                if let Some(file) = self.files.get_mut(&path) {
                    *file = File { in_force: std::mem::take(&mut file.in_force), ..File::default() };
                    file.waiting = Some(BTreeMap::new());
                    file.gone = true;
                }
            }
        }
    }

    /// Finds objects that several files want to have, and the files that may not come into force because of it. Who has
    /// an object keeps it; of newcomers the first path wins. A refused file keeps what it had, which can refuse another
    /// one: hence the loop, which refuses at least one more file in each round.
    fn conflicts(&mut self) -> BTreeSet<ArcStr> {
        let mut refused: BTreeMap<ArcStr, Vec<Problem>> = BTreeMap::new();
        loop {
            let mut claims: BTreeMap<&ObjectKey, Vec<(&ArcStr, u64)>> = BTreeMap::new();
            for (path, file) in &self.files {
                for (key, line) in file.claims(refused.contains_key(path)) {
                    claims.entry(key).or_default().push((path, line));
                }
            }
            let mut round: BTreeMap<ArcStr, Vec<Problem>> = BTreeMap::new();
            for (key, claimants) in claims.iter().filter(|(_, claimants)| claimants.len() > 1) {
                let has =
                    |path: &ArcStr| self.files.get(path).is_some_and(|file| file.in_force.contains_key(*key));
                let Some((owner, at)) =
                    claimants.iter().find(|(path, _)| has(path)).or_else(|| claimants.first())
                else {
                    continue;
                };
                for (path, line) in claimants.iter().filter(|(path, _)| path != owner) {
                    let message =
                        format!("is already in {owner} at line {at}: remove it from {owner} or from {path}");
                    let problem =
                        Problem { line: *line, field: String::new(), object: key.to_string(), message };
                    round.entry((*path).clone()).or_default().push(problem);
                }
            }
            if round.is_empty() {
                break;
            }
            refused.extend(round);
        }
        for (path, file) in &mut self.files {
            file.conflicts = refused.get(path).cloned().unwrap_or_default();
        }
        refused.into_keys().collect()
    }

    /// Puts into force what waits and was not refused. An object that moved between files is applied, never deleted.
    fn enforce(&mut self, refused: &BTreeSet<ArcStr>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut left: BTreeSet<ObjectKey> = BTreeSet::new();
        let mut came: BTreeSet<ObjectKey> = BTreeSet::new();
        for (path, file) in self.files.iter_mut().filter(|(path, _)| !refused.contains(*path)) {
            let Some(objects) = file.waiting.take() else { continue };
            left.extend(std::mem::take(&mut file.in_force).into_keys());
            for (key, (object, line)) in objects {
                came.insert(key.clone());
                file.in_force.insert(key, line);
                outcome.events.push(Event::Applied(Box::new(object)));
            }
            if !file.gone {
                outcome.accepted.push(path.clone());
            }
        }
        outcome.events.extend(left.difference(&came).cloned().map(Event::Deleted));
        outcome
    }
}

#[cfg(test)]
mod tests;
