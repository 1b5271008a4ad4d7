// SPDX-License-Identifier: Apache-2.0
//! The toolchain of the capture programs: Debian's rustc-web, whose LLVM is Debian's too, so that bpf-linker can use the
//! same one. Nothing is installed: packages are downloaded and unpacked below `target`, which needs no root and leaves the
//! machine's own Rust alone.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

const COMPILER: &str = "1.96.0+dfsg1-1~deb12u2";
const LLVM: &str = "1:22.1.8-1~deb12u1";
const LINKER: &str = "0.13.0";

/// Packages whose version decides what is built.
const PINNED: [(&str, &str); 6] = [
    ("rustc-web", COMPILER),
    ("cargo-web", COMPILER),
    ("rust-web-src", COMPILER),
    ("libstd-rust-web-1.96", COMPILER),
    ("libstd-rust-web-dev", COMPILER),
    ("libllvm22", LLVM),
];
/// Libraries that Debian's cargo and LLVM need and a small machine may lack. Any version does.
const LIBRARIES: [&str; 8] = [
    "libgit2-1.5",
    "libssh2-1",
    "libmbedtls14",
    "libmbedx509-1",
    "libmbedcrypto7",
    "libhttp-parser2.9",
    "libz3-4",
    "libedit2",
];
const LIBRARY_PATH: &str = "usr/lib/x86_64-linux-gnu";

/// Where the tools are.
#[derive(Debug)]
pub(super) struct Tools {
    folder: PathBuf,
}

impl Tools {
    pub(super) fn cargo(&self) -> PathBuf {
        self.sysroot().join("bin/cargo")
    }

    pub(super) fn rustc(&self) -> PathBuf {
        self.sysroot().join("bin/rustc")
    }

    /// The installation prefix: the standard library's source is below it.
    pub(super) fn sysroot(&self) -> PathBuf {
        self.folder.join("root/usr")
    }

    pub(super) fn libraries(&self) -> PathBuf {
        self.folder.join("root").join(LIBRARY_PATH)
    }

    pub(super) fn linker(&self) -> PathBuf {
        self.folder.join("tools/bin/bpf-linker")
    }
}

/// The versions that decide what is built, for the record.
pub(super) fn versions() -> String {
    format!("rustc-web={COMPILER} libllvm22={LLVM} bpf-linker={LINKER}")
}

/// The toolchain, downloaded and built unless it is there.
///
/// # Errors
/// When a version cannot be had any more, or a tool of the machine is missing; the message says what to do.
pub(super) fn provide(root: &Path) -> Result<Tools> {
    let tools = Tools { folder: root.join("target/ebpf-toolchain") };
    let stamp = tools.folder.join("complete");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == versions()) {
        return Ok(tools);
    }
    ensure!(cfg!(target_arch = "x86_64"), "the capture programs are built on x86-64 only");
    if tools.folder.exists() {
        fs::remove_dir_all(&tools.folder).context("removing the old toolchain")?;
    }
    unpack(&tools.folder)?;
    let llvm = tools.folder.join("llvm/lib");
    fs::create_dir_all(&llvm)?;
    symlink(tools.libraries().join("libLLVM.so.22.1"), llvm.join("libLLVM.so")).context("linking LLVM")?;
    build_linker(&tools.folder)?;
    fs::write(&stamp, versions()).context("marking the toolchain as complete")?;
    Ok(tools)
}

fn unpack(folder: &Path) -> Result<()> {
    let (packages, tree) = (folder.join("packages"), folder.join("root"));
    fs::create_dir_all(&packages)?;
    fs::create_dir_all(&tree)?;
    let pinned = PINNED.iter().map(|(name, version)| format!("{name}={version}"));
    let wanted: Vec<String> = pinned.chain(LIBRARIES.iter().map(|name| (*name).to_owned())).collect();
    let mut download = Command::new("apt-get");
    // Without its sandbox, whose user could not write here.
    download.args(["download", "-qq", "-o", "APT::Sandbox::User=root"]).args(&wanted).current_dir(&packages);
    run(&mut download, "a Debian 12 with bookworm-security; try `sudo apt-get update`")?;
    for package in fs::read_dir(&packages)? {
        let mut extract = Command::new("dpkg-deb");
        run(extract.arg("--extract").arg(package?.path()).arg(&tree), "`sudo apt-get install dpkg`")?;
    }
    fs::remove_dir_all(&packages).context("removing the packages")
}

fn build_linker(folder: &Path) -> Result<()> {
    let mut install = Command::new("cargo");
    install
        .args(["install", "bpf-linker", "--quiet", "--locked", "--version", LINKER])
        .args(["--no-default-features", "--features", "llvm-22"])
        .arg("--root")
        .arg(folder.join("tools"))
        .arg("--target-dir")
        .arg(folder.join("linker-target"))
        .env("LLVM_PREFIX", folder.join("llvm"));
    run(&mut install, "a C compiler: `sudo apt-get install gcc libc6-dev`")?;
    fs::remove_dir_all(folder.join("linker-target")).context("removing what the linker was built from")
}

/// Runs a tool whose absence or failure `needs` explains.
pub(super) fn run(command: &mut Command, needs: &str) -> Result<()> {
    let line = format!("{command:?}");
    let short: String = line.chars().take(200).collect();
    match command.status() {
        Err(error) => bail!("cannot execute {short} ({error}); it needs {needs}"),
        Ok(status) if !status.success() => bail!("{short} failed ({status}); it needs {needs}"),
        Ok(_success) => Ok(()),
    }
}
