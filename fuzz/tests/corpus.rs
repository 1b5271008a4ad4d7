// SPDX-License-Identifier: Apache-2.0
//! Every file of the corpora through its target, whole and cut off in many places. One that `cargo xtask fuzz` has
//! found is tried alone by `cargo test --workspace --test corpus -- <target>/<file>`.
#![expect(clippy::panic, reason = "a failing test panics")]

use std::{fs, io, path::Path, process::ExitCode};

use libtest_mimic::{Arguments, Trial};

/// Places at most where one file is cut off.
const CUTS: usize = 200;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => panic!("the corpora cannot be read: {error}"),
    }
}

fn trials() -> io::Result<Vec<Trial>> {
    let mut trials = Vec::new();
    for target in fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        for entry in fs::read_dir(&folder)
            .map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))?
        {
            let entry = entry?;
            let bytes = fs::read(entry.path())?;
            let name = format!("{}/{}", target.name, entry.file_name().display());
            trials.push(Trial::test(name, move || {
                (target.run)(&bytes);
                for end in (0..bytes.len()).step_by(bytes.len() / CUTS + 1) {
                    (target.run)(&bytes[..end]);
                }
                Ok(())
            }));
        }
    }
    trials.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(trials)
}
