// SPDX-License-Identifier: Apache-2.0
//! Differences between istiod's resources and ours that are meant, each with its reason; docs/interop.md has the same list.

use super::Difference;

/// A difference that is meant.
struct Known {
    sort: &'static str,
    field: &'static str,
    /// Whether a difference is this one: name, ours, theirs.
    is: fn(&str, &str, &str) -> bool,
    reason: &'static str,
}

const KNOWN: &[Known] = &[];

/// Why a difference is meant; nothing when nobody has said so.
pub(super) fn reason(difference: &Difference) -> Option<&'static str> {
    let Difference { sort, field, name, ours, theirs } = difference;
    let is = |known: &&Known| known.sort == *sort && known.field == *field && (known.is)(name, ours, theirs);
    KNOWN.iter().find(is).map(|known| known.reason)
}
