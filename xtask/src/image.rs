// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask image`: the images of Ambit, for a cluster or a registry, without a daemon.

use std::{env, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use lab::image::product::{PRODUCTS, Source};

use crate::{
    lab::build,
    plugin::{self, Profile},
    step::{root, say, step},
};

/// Where the charts look for images.
const HUB: &str = "localhost/ambit";

/// Build the container images, as archives in OCI layout, for this machine's architecture.
#[derive(Args)]
pub(crate) struct Image {
    /// Optimized programs whose bytes do not depend on where they were built. Without it: those that tests run.
    #[arg(long)]
    release: bool,
    /// What comes before the images' names: a registry and a folder in it.
    #[arg(long, default_value = HUB)]
    hub: String,
    /// Their tag.
    #[arg(long, default_value = Source::version())]
    tag: String,
    /// Folder for the archives [default: target/images].
    #[arg(long, short)]
    output: Option<PathBuf>,
}

impl Image {
    pub(crate) fn run(self) -> Result<()> {
        let output = self.output.unwrap_or_else(|| root().join("target/images"));
        let flags = if self.release { Some(pathless()?) } else { None };
        let binaries = step("programs", || flags.as_deref().map_or_else(tested, release))?;
        let profile = if self.release { Profile::Release } else { Profile::Dev };
        let plugin = Some(step("CNI plugin", || plugin::build(profile, flags.as_deref()))?);
        let source = Source { root: root(), binaries, plugin, output, hub: self.hub, tag: self.tag };
        for product in &PRODUCTS {
            let archive = step(product.name, || source.write(product))?;
            say(format!("   {}", archive.display()));
        }
        Ok(())
    }
}

/// The folder of the programs that tests run.
fn tested() -> Result<PathBuf> {
    build()?;
    Ok(root().join("target/debug"))
}

/// Flags for programs that know nothing of this machine's paths, which cargo's own profiles cannot leave out yet.
fn pathless() -> Result<String> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = match home {
        Some(home) => home,
        None => {
            PathBuf::from(env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?).join(".cargo")
        }
    };
    Ok(format!(
        "--remap-path-prefix={}=/cargo --remap-path-prefix={}=/ambit",
        home.display(),
        root().display()
    ))
}

/// The folder of optimized programs.
fn release(flags: &str) -> Result<PathBuf> {
    let target = root().join("target/image");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--workspace", "--bins", "--release", "--locked", "--target-dir"]).arg(&target);
    let status = cargo.current_dir(root()).env("RUSTFLAGS", flags).status().context("executing cargo")?;
    ensure!(status.success(), "building the programs: {status}");
    Ok(target.join("release"))
}
