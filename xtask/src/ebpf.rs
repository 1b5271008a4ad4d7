// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask ebpf`: rebuilds the capture programs with the pinned toolchain, in a way that gives the same bytes in
//! every checkout, and writes `ebpf/capture.bpf.o` with `ebpf/capture.lock` beside it, or compares with them.

mod build;
mod lock;
mod strip;
mod toolchain;

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

use self::lock::Lock;
use crate::step::{root, say, step};

const OBJECT: &str = "ebpf/capture.bpf.o";
const LOCK: &str = "ebpf/capture.lock";
/// What to do about any difference.
const REMEDY: &str = "run `cargo xtask ebpf` and commit ebpf/capture.bpf.o with ebpf/capture.lock";

/// Rebuilds the capture programs. With `check_only` nothing is written: the hashes of sources, flags and object must be
/// as recorded, and where the recorded toolchain can be had, the rebuilt object the same byte for byte.
///
/// # Errors
/// When something differs, or, unless only checking, when the toolchain cannot be had.
pub(crate) fn run(check_only: bool) -> Result<()> {
    let root = root();
    if check_only { check(&root) } else { write(&root) }
}

fn check(root: &Path) -> Result<()> {
    let wanted = Lock::of_sources(root)?;
    let recorded = Lock::read(&root.join(LOCK))?;
    if let Some((what, now, then)) = recorded.differences(&wanted).into_iter().next() {
        bail!("{what} changed since {OBJECT} was built ({then} then, {now} now): {REMEDY}");
    }
    let committed = fs::read(root.join(OBJECT)).with_context(|| format!("reading {OBJECT}"))?;
    ensure!(recorded.object == lock::digest(&committed), "{OBJECT} is not the object of {LOCK}: {REMEDY}");
    let tools = match step("toolchain of the capture programs", || toolchain::provide(root)) {
        Ok(tools) => tools,
        Err(error) => {
            say(format!("   NOT REBUILT, only hashes were compared: {error:#}"));
            return Ok(());
        }
    };
    let rebuilt = step("rebuild the capture programs", || build::build(root, &tools))?;
    ensure!(rebuilt == committed, "{OBJECT} is not what its sources give, byte for byte: {REMEDY}");
    say(format!("   {OBJECT} is what its sources give, byte for byte"));
    Ok(())
}

fn write(root: &Path) -> Result<()> {
    let tools = step("toolchain of the capture programs", || toolchain::provide(root))?;
    let object = step("build the capture programs", || build::build(root, &tools))?;
    let mut lock = Lock::of_sources(root)?;
    lock.object = lock::digest(&object);
    let path = root.join(OBJECT);
    let same = fs::read(&path).is_ok_and(|committed| committed == object);
    fs::write(&path, &object).with_context(|| format!("writing {OBJECT}"))?;
    lock.write(&root.join(LOCK))?;
    say(format!("   {OBJECT}: {} bytes, {}", object.len(), if same { "unchanged" } else { "changed" }));
    Ok(())
}
