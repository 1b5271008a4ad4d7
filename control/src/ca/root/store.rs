// SPDX-License-Identifier: Apache-2.0
//! The root's files: written whole or not at all, the key for its owner alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use super::RootError;

/// Who may read a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Secrecy {
    Secret,
    Public,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RootError {
    let path = path.to_owned();
    move |source| RootError::File { what, path, source }
}

/// Makes the folder; others may read the certificate in it.
pub(super) fn prepare(folder: &Path) -> Result<(), RootError> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed("create", folder))
}

/// The text of a file, if there is one.
pub(super) fn read(path: &Path) -> Result<Option<String>, RootError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// The text of a file that nobody else may read.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, RootError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let mode = fs::metadata(path).map_err(failed("read", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(RootError::Exposed { path: path.to_owned(), mode });
    }
    Ok(Some(text))
}

/// Writes a file so that after a crash it is there whole or not at all.
pub(super) fn write(path: &Path, text: &str, secrecy: Secrecy) -> Result<(), RootError> {
    let mode = if secrecy == Secrecy::Secret { 0o600 } else { 0o644 };
    let draft = path.with_extension("new");
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&draft).and_then(
            |mut file| {
                // A leftover of an earlier start keeps its mode when it is opened again.
                file.set_permissions(fs::Permissions::from_mode(mode))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            },
        );
    written.and_then(|()| fs::rename(&draft, path)).map_err(failed("write", path))?;
    // The rename itself survives a crash only once the folder is written.
    let folder = path.parent().unwrap_or(path);
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("write", folder))
}
