// SPDX-License-Identifier: Apache-2.0
//! Puts the folder `charts/` into the program: a table of paths and contents. Links are followed, so that a chart may
//! point to its parts; while there is no folder the table is empty.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// A link to a folder above it would go on for ever.
const DEEPEST: usize = 12;

fn main() -> io::Result<()> {
    let here = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let charts = here.join("../charts");
    println!("cargo::rerun-if-changed={}", charts.display());
    let mut files = Vec::new();
    if charts.is_dir() {
        collect(&charts, Path::new(""), DEEPEST, &mut files)?;
    }
    files.sort();
    let mut code = String::from("&[\n");
    for (path, file) in files {
        code.push_str(&format!(
            "    ({path:?}, include_bytes!({:?}) as &[u8]),\n",
            file.display().to_string()
        ));
    }
    code.push_str("]\n");
    fs::write(PathBuf::from(variable("OUT_DIR")?).join("charts.rs"), code)
}

fn variable(name: &str) -> io::Result<String> {
    // Set by cargo for every build script.
    env::var_os(name)
        .and_then(|value| value.into_string().ok())
        .ok_or_else(|| io::Error::other(format!("no {name}")))
}

fn collect(folder: &Path, below: &Path, deeper: usize, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    // Also links of which the target is changed.
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let (name, path) = (entry.file_name(), entry.path().canonicalize()?);
        let shown = below.join(&name);
        if path.is_dir() && deeper > 0 {
            collect(&path, &shown, deeper - 1, files)?;
        } else if path.is_file() {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push((shown.display().to_string(), path));
        }
    }
    Ok(())
}
