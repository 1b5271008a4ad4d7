// SPDX-License-Identifier: Apache-2.0
//! Expressions of users about one request: whether it is logged, and what a label of a metric says. They are written in the
//! part of CEL that such questions need, with Envoy's names for what they ask about.
//!
//! ```text
//! text → lex → parse (asks typing about each step) → Node → evaluate(facts) → value, or none
//! ```
//!
//! What one costs is bounded before it is in force: its length, its depth, the patterns in it; there are no loops. Types
//! and names are checked then too, so all that can go wrong with a request is that it lacks what is asked for.

mod attribute;
mod evaluate;
mod lex;
mod moment;
mod parse;
mod typing;
mod value;

use std::{fmt, sync::Arc};

use arcstr::ArcStr;

pub use attribute::{Attribute, Facts, Side};
pub use value::{Kind, Value};

use evaluate::{Node, evaluate};

/// The longest expression, in bytes.
pub const LONGEST: usize = 4096;

/// An expression that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason} (at character {at})")]
pub struct InvalidExpression {
    /// What is wrong, and what to do.
    pub reason: String,
    /// Where it begins, counted from 1.
    pub at: usize,
}

/// Which requests: those for which an expression is true.
#[derive(Clone, PartialEq, Eq)]
pub struct Filter(Expression);

/// A text that is made of a request.
#[derive(Clone, PartialEq, Eq)]
pub struct Formula(Expression);

/// What must be kept of a request so that it can be asked when it has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Headers of the request.
    pub request_headers: bool,
    /// Headers of the answer.
    pub response_headers: bool,
}

#[derive(Clone)]
struct Expression {
    text: ArcStr,
    root: Arc<Node>,
    uses: Uses,
}

impl Filter {
    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed, asks for what is not known, or does not come to true or false.
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        Expression::parse(text, |kind| match kind {
            Kind::Bool => Ok(()),
            other => {
                Err(format!("comes to {other}, and a filter to true or false: compare it with something"))
            }
        })
        .map(Self)
    }

    /// Whether a request fits. One that lacks what is asked for does not.
    pub fn holds(&self, facts: &dyn Facts) -> bool {
        matches!(evaluate(&self.0.root, facts), Some(Value::Bool(true)))
    }

    /// As it was written.
    pub fn as_str(&self) -> &ArcStr {
        &self.0.text
    }

    /// What it needs.
    pub fn uses(&self) -> Uses {
        self.0.uses
    }
}

impl Formula {
    /// Reads one.
    ///
    /// # Errors
    /// When it is malformed, asks for what is not known, or does not come to what can be written.
    pub fn parse(text: &str) -> Result<Self, InvalidExpression> {
        Expression::parse(text, |kind| match kind {
            Kind::Bool | Kind::Int | Kind::Double | Kind::Text => Ok(()),
            Kind::Duration | Kind::Time | Kind::Fields => {
                Err(format!("comes to {kind}, and a label is a text, a number, true or false"))
            }
        })
        .map(Self)
    }

    /// The text for a request; nothing for one that lacks what is asked for.
    pub fn text(&self, facts: &dyn Facts) -> Option<String> {
        evaluate(&self.0.root, facts)?.printed()
    }

    /// Whether it says the same of every request.
    pub fn is_constant(&self) -> bool {
        matches!(*self.0.root, Node::Constant(_))
    }

    /// As it was written.
    pub fn as_str(&self) -> &ArcStr {
        &self.0.text
    }

    /// What it needs.
    pub fn uses(&self) -> Uses {
        self.0.uses
    }
}

impl Uses {
    /// What both need.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            request_headers: self.request_headers || other.request_headers,
            response_headers: self.response_headers || other.response_headers,
        }
    }
}

impl Expression {
    fn parse(text: &str, fits: impl Fn(Kind) -> Result<(), String>) -> Result<Self, InvalidExpression> {
        if text.len() > LONGEST {
            let reason = format!("has {} bytes, and the longest that is read {LONGEST}", text.len());
            return Err(InvalidExpression { reason, at: 1 });
        }
        let (term, uses) = parse::parse(text)?;
        fits(term.kind).map_err(|reason| InvalidExpression { reason, at: 1 })?;
        Ok(Self { text: text.into(), root: Arc::new(term.node), uses })
    }
}

/// One text means one thing.
impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Filter").field(&self.0.text).finish()
    }
}

impl fmt::Debug for Formula {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Formula").field(&self.0.text).finish()
    }
}

#[cfg(test)]
mod tests;
