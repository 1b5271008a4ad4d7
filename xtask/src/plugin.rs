// SPDX-License-Identifier: Apache-2.0
//! The CNI plugin, linked statically: the node agent copies it onto the node's own file system, where there may be
//! another C library than the image's, or none.

use std::{env::consts::ARCH, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

use crate::step::{output, root, run};

/// With which optimizations it is built.
#[derive(Clone, Copy)]
pub(crate) enum Profile {
    /// As tests run it.
    Dev,
    /// As images for clusters have it.
    Release,
}

/// Builds it, in a folder of its own: another C library, and the features of this package alone. Where it is.
///
/// # Errors
/// When the target cannot be installed, or it does not build.
pub(crate) fn build(profile: Profile, flags: Option<&str>) -> Result<PathBuf> {
    let target = format!("{ARCH}-unknown-linux-musl");
    if !output("rustup", &["target", "list", "--installed"])?.lines().any(|line| line == target) {
        run("rustup", &["target", "add", &target])?;
    }
    let folder = root().join("target/static");
    let mut cargo = Command::new("cargo");
    cargo.args([
        "build",
        "--package",
        "cni",
        "--bin",
        "cni",
        "--locked",
        "--target",
        &target,
        "--target-dir",
    ]);
    cargo.arg(&folder).current_dir(root());
    let built = match profile {
        Profile::Dev => "debug",
        Profile::Release => {
            cargo.arg("--release");
            "release"
        }
    };
    if let Some(flags) = flags {
        cargo.env("RUSTFLAGS", flags);
    }
    let status = cargo.status().context("executing cargo")?;
    ensure!(status.success(), "building the plugin for {target}: {status}");
    Ok(folder.join(target).join(built).join("cni"))
}
