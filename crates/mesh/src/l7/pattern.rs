// SPDX-License-Identifier: Apache-2.0
//! Texts of a request against what a route asks for.

use std::{fmt, sync::Arc};

use arcstr::ArcStr;
use regex::{Regex, RegexBuilder};

/// Most bytes of a compiled expression: a route must not take the memory of the others.
const COMPILED: usize = 256 << 10;

/// A regular expression that must match the whole text.
#[derive(Clone)]
pub struct Pattern {
    text: ArcStr,
    compiled: Arc<Regex>,
}

/// A regular expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no regular expression that can be used: {reason}")]
pub struct InvalidPattern {
    /// The expression.
    pub text: String,
    /// Why not.
    pub reason: String,
}

impl Pattern {
    /// Compiles it.
    ///
    /// # Errors
    /// When it is malformed, uses look-around or back-references, or is larger than 256 KiB once compiled.
    pub fn parse(text: &str) -> Result<Self, InvalidPattern> {
        let invalid = |error: regex::Error| InvalidPattern {
            text: text.to_owned(),
            reason: error.to_string().lines().last().unwrap_or_default().to_owned(),
        };
        // By itself first: in the group below a stray parenthesis would close the group.
        let bounded = |text: &str| RegexBuilder::new(text).size_limit(COMPILED).build();
        bounded(text).map_err(invalid)?;
        let compiled = bounded(&format!("^(?:{text})$")).map_err(invalid)?;
        Ok(Self { text: text.into(), compiled: Arc::new(compiled) })
    }

    /// Whether it matches the whole text.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// As it was written.
    pub fn as_str(&self) -> &ArcStr {
        &self.text
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pattern").field(&self.text).finish()
    }
}

/// What a header, query parameter or part of a method's name must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMatch {
    /// This text.
    Exact(ArcStr),
    /// A text that the expression matches as a whole.
    Pattern(Pattern),
}

impl TextMatch {
    /// Whether a text fits.
    pub fn is_match(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }

    /// How much it says: the longer one goes first where two fit.
    pub(crate) fn length(&self) -> usize {
        match self {
            Self::Exact(text) => text.len(),
            Self::Pattern(pattern) => pattern.as_str().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_matches_the_whole_text_or_not_at_all() {
        let pattern = Pattern::parse("a|bc").unwrap();
        for (text, expected) in [("a", true), ("bc", true), ("ac", false), ("xa", false), ("", false)] {
            assert_eq!(pattern.is_match(text), expected, "{text:?}");
        }
    }

    #[test]
    fn an_expression_that_would_break_out_of_its_group_or_eat_memory_is_refused() {
        for text in ["a)(b", "(", "a{1000}{1000}", "(?=a)", r"(a)\1"] {
            let error = Pattern::parse(text).unwrap_err();
            assert!(error.to_string().starts_with(&format!("{text:?} is no regular expression")), "{error}");
        }
    }
}
