// SPDX-License-Identifier: Apache-2.0
//! Removes what the kernel does not need from an object: DWARF, and the line information of BTF, which would be kept in
//! kernel memory for each pod. The types of BTF stay, because socket storage is declared by them.

use anyhow::{Context as _, Result};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// Strips an object.
pub(super) fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("reading the built object")?;
    for section in &mut builder.sections {
        let name = section.name.as_slice();
        let dead = [&b".debug_"[..], b".rel.debug_", b".BTF.ext", b".rel.BTF", b".llvm_addrsig", b".comment"];
        section.delete = dead.iter().any(|prefix| name.starts_with(prefix));
    }
    builder.delete_orphans();
    // The compiler keeps names of sections and symbols in one table; the writer wants two.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped).context("writing the stripped object")?;
    Ok(stripped)
}
