// SPDX-License-Identifier: Apache-2.0
//! Builds the object. Paths of this machine are replaced, because the compiler writes them into BTF.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    strip::strip,
    toolchain::{Tools, run},
};

const TARGET: &str = "bpfel-unknown-none";
/// The programs use nothing that depends on the architecture, only the bindings' file is chosen by it.
const FLAGS: [&str; 4] =
    ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Clink-arg=--btf", "-Clink-arg=-O3"];
/// What stands for folders of this machine, in the order of [`remapped`].
const STAND_INS: [&str; 3] = ["/rust", "/crates", "/ambit"];

/// The flags, for the record.
pub(super) fn flags_as_recorded() -> String {
    FLAGS.into_iter().chain(STAND_INS).collect::<Vec<_>>().join(" ")
}

/// Builds and strips the object.
pub(super) fn build(root: &Path, tools: &Tools) -> Result<Vec<u8>> {
    let folder = root.join("ebpf/programs");
    let target = folder.join("target");
    run(
        cargo(tools, &folder).args(["fetch", "--locked", "--quiet"]),
        "the crates of ebpf/programs/Cargo.lock",
    )?;
    let from = remapped(root, tools)?;
    let remaps =
        from.iter().zip(STAND_INS).map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    let flags: Vec<String> = FLAGS.into_iter().map(str::to_owned).chain(remaps).collect();
    let mut build = cargo(tools, &folder);
    build
        .args(["build", "--release", "--locked", "--quiet", "--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", tools.linker())
        // Separated by a character that no path has.
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    run(&mut build, "what the compiler says above")?;
    let built = target.join(TARGET).join("release/capture");
    let object = fs::read(&built).with_context(|| format!("reading {}", built.display()))?;
    strip(&object)
}

/// Debian's cargo, free of what the running cargo and rustup say to their children.
fn cargo(tools: &Tools, folder: &Path) -> Command {
    let mut cargo = Command::new(tools.cargo());
    let foreign = |name: &str| {
        name == "RUSTUP_TOOLCHAIN"
            || name == "RUSTFLAGS"
            || (name.starts_with("CARGO") && name != "CARGO_HOME")
    };
    for (name, _value) in env::vars_os() {
        if name.to_str().is_some_and(foreign) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(folder)
        .env("RUSTC", tools.rustc())
        // -Zbuild-std with a released compiler.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("LD_LIBRARY_PATH", tools.libraries());
    cargo
}

/// Folders of this machine that would show in the object.
fn remapped(root: &Path, tools: &Tools) -> Result<[PathBuf; 3]> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| env::home_dir().map(|home| home.join(".cargo"))).context("finding cargo's home")?;
    let sources = home.join("registry/src");
    // A registry's folder is named after its address, which differs where a mirror is used.
    let registries = fs::read_dir(&sources).with_context(|| format!("listing {}", sources.display()))?;
    let crates = registries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.join("aya-ebpf-0.2.1").exists())
        .context("finding aya-ebpf in cargo's registry")?;
    Ok([tools.sysroot(), crates, root.join("ebpf")])
}
