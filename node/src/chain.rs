// SPDX-License-Identifier: Apache-2.0
//! An error with everything that caused it, on one line; for the places where an error leaves the program.

use std::{error::Error, fmt};

/// Displays the whole chain.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        std::iter::successors(self.0.source(), |error| (*error).source())
            .try_for_each(|cause| write!(f, ": {cause}"))
    }
}
