// SPDX-License-Identifier: Apache-2.0
//! How far paths are normalised before anybody looks at them; `plan::guard::path` does it.

use std::{fmt, str::FromStr};

/// How far a path is normalised (Istio's `pathNormalization`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalisation {
    /// Not at all.
    Nothing,
    /// Letters, digits, `-`, `.`, `_` and `~` are written plainly, `\` is `/`, and `.` and `..` are resolved (RFC 3986
    /// §6.2.2).
    #[default]
    Base,
    /// Besides, several slashes are one.
    MergeSlashes,
    /// Besides, `%2F` and `%5C` are what they stand for.
    DecodeAndMergeSlashes,
}

/// Its names, which are Istio's.
const NAMES: [(&str, Normalisation); 5] = [
    ("NONE", Normalisation::Nothing),
    ("BASE", Normalisation::Base),
    ("DEFAULT", Normalisation::Base),
    ("MERGE_SLASHES", Normalisation::MergeSlashes),
    ("DECODE_AND_MERGE_SLASHES", Normalisation::DecodeAndMergeSlashes),
];

impl FromStr for Normalisation {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        NAMES.into_iter().find(|(name, _)| *name == text).map(|(_, known)| known).ok_or(())
    }
}

impl fmt::Display for Normalisation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = NAMES.into_iter().find(|(_, known)| known == self);
        f.write_str(name.map_or("BASE", |(name, _)| name))
    }
}

impl Normalisation {
    /// The names, for whoever is told of one that is none.
    pub const ACCEPTED: &str = "NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES";
}
