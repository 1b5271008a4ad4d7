// SPDX-License-Identifier: Apache-2.0
//! Answers on standard output, everything else on standard error.

use std::io::{IsTerminal as _, Write as _};

/// An answer.
pub(crate) fn print(text: &str) {
    // Whoever reads us may have seen enough: `ambit status | head`.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// Where a slow command is. Only for people: nobody wants it in a log.
pub(crate) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        note(text);
    }
}

/// Something a person should know besides the answer.
pub(crate) fn note(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Why there is no answer.
pub(crate) fn error(error: &anyhow::Error) {
    note(&format!("ambit: {error:#}"));
}
