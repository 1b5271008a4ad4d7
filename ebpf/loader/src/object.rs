// SPDX-License-Identifier: Apache-2.0
//! The compiled programs as bytes: the embedded ones, their fingerprint, and copies that carry a pod's identity.

use std::{borrow::Cow, ops::Range};

use ebpf_abi::map::{IDENTITY, Identity};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use sha2::{Digest, Sha256};

/// The programs that `cargo xtask ebpf` made.
pub(crate) static EMBEDDED: &[u8] = aya::include_bytes_aligned!("../../capture.bpf.o");

/// Bytes of a fingerprint that are used: enough to tell generations apart.
const FINGERPRINT: usize = 8;

/// An object whose identity can be filled in. Copies are cheaper than a loader for each pod, which would read the types
/// of the whole kernel again.
#[derive(Debug)]
pub(crate) struct Template {
    bytes: Cow<'static, [u8]>,
    identity: Range<usize>,
}

/// Why bytes are not the capture programs.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// Not an object file at all.
    #[error("the capture programs are not an ELF object")]
    NotAnObject(#[source] object::Error),
    /// An object, but not of these programs.
    #[error("the object lacks the variable {name}")]
    Foreign {
        /// What is missing.
        name: &'static str,
    },
}

impl Template {
    pub(crate) fn parse(bytes: Cow<'static, [u8]>) -> Result<Self, ObjectError> {
        let identity = {
            let file = object::File::parse(&*bytes).map_err(ObjectError::NotAnObject)?;
            range_of(&file).ok_or(ObjectError::Foreign { name: IDENTITY })?
        };
        Ok(Self { bytes, identity })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The object with a pod's identity in its read-only data.
    pub(crate) fn identified(&self, identity: Identity) -> Vec<u8> {
        let mut copy = self.bytes.to_vec();
        let words = identity.into_iter().flat_map(u32::to_ne_bytes);
        if let Some(place) = copy.get_mut(self.identity.clone()) {
            place.iter_mut().zip(words).for_each(|(byte, value)| *byte = value);
        }
        copy
    }

    /// What tells generations apart: the programs and what they were loaded with.
    pub(crate) fn fingerprint(&self, settings: &str) -> String {
        let digest = Sha256::new().chain_update(&*self.bytes).chain_update(settings).finalize();
        hex::encode(digest.get(..FINGERPRINT).unwrap_or_default())
    }
}

/// Where the identity lies in the file.
fn range_of(file: &object::File<'_>) -> Option<Range<usize>> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(IDENTITY))?;
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let (start, length) = section.file_range()?;
    let offset = symbol.address().checked_sub(section.address())?;
    let size = u64::try_from(size_of::<Identity>()).ok()?;
    if offset.checked_add(size)? > length {
        return None;
    }
    let begin = usize::try_from(start.checked_add(offset)?).ok()?;
    Some(begin..begin.checked_add(size_of::<Identity>())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template() -> Template {
        Template::parse(Cow::Borrowed(EMBEDDED)).unwrap()
    }

    #[test]
    fn an_identity_changes_nothing_but_its_own_bytes() {
        let template = template();
        let copy = template.identified([1, 2, 3]);
        let changed: Vec<usize> = (0..copy.len()).filter(|&at| copy[at] != EMBEDDED[at]).collect();
        assert!(changed.iter().all(|at| template.identity.contains(at)), "{changed:?}");
        assert_eq!(copy[template.identity.clone()], [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn other_settings_are_another_generation() {
        assert_ne!(template().fingerprint("tcx"), template().fingerprint("clsact"));
    }

    #[test]
    fn bytes_that_are_no_object_are_refused() {
        assert!(matches!(Template::parse(Cow::Borrowed(b"nonsense")), Err(ObjectError::NotAnObject(_))));
    }
}
