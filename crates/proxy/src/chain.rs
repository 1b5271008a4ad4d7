// SPDX-License-Identifier: Apache-2.0
//! An error and its causes in one line: printed once, where the record is written.

/// An error with everything below it, `a: b: c`.
pub fn chain(error: &dyn std::error::Error) -> Chain<'_> {
    Chain(error)
}

/// See [`chain`].
pub struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |error| error.source())
            .try_for_each(|error| write!(f, ": {error}"))
    }
}
