// SPDX-License-Identifier: Apache-2.0
//! A folder of YAML as the source of objects: standalone mode.
//!
//! ```text
//!   watch ─► scan (disk) ─► document (text → objects, errors) ─► folder (what is in force) ─► World
//! ```

mod document;
mod folder;
mod keep;
mod scan;
mod source;
mod watch;

pub use self::{
    document::{Content, Problem, read},
    folder::{Change, FileState, FileStatus, Folder, Outcome, Placed},
    watch::{FolderSettings, FolderStatus, FolderView, watch},
};
