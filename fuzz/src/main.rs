// SPDX-License-Identifier: Apache-2.0
//! `fuzz <target> <file>...`: tries files. Under `cargo xtask fuzz`: looks for bytes that break a target.
#![cfg_attr(ambit_fuzz, no_main)]

#[cfg(ambit_fuzz)]
mod engine;

#[cfg(not(ambit_fuzz))]
fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let Some(target) = fuzz::target(&wanted) else {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        return Err(std::io::Error::other(format!("no target {wanted:?}; there are {}", names.join(", "))));
    };
    for file in arguments {
        (target.run)(&std::fs::read(file)?);
    }
    Ok(())
}
