// SPDX-License-Identifier: Apache-2.0
//! A folder of YAML as the source of objects: standalone mode.

mod document;
mod folder;
mod tree;

pub use self::{
    document::{Content, Problem, read},
    folder::{Change, FileState, FileStatus, Folder, Outcome},
};
