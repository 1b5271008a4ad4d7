// SPDX-License-Identifier: Apache-2.0
//! What expressions come to.

use std::{borrow::Cow, cmp::Ordering, fmt};

/// A value of an expression or attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// A time span, in nanoseconds.
    Duration(i64),
    /// A point in time, in nanoseconds since 1970.
    Time(i64),
}

/// Which values something can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `bool`.
    Bool,
    /// `int`.
    Int,
    /// `double`.
    Double,
    /// `string`.
    Text,
    /// `duration`.
    Duration,
    /// `timestamp`.
    Time,
    /// All headers of one side.
    Fields,
}

impl Value<'_> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Double(_) => Kind::Double,
            Self::Text(_) => Kind::Text,
            Self::Duration(_) => Kind::Duration,
            Self::Time(_) => Kind::Time,
        }
    }

    /// As a text, if it is of a kind that is written.
    pub(super) fn printed(self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Int(number) => Some(number.to_string()),
            Self::Double(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.into_owned()),
            Self::Duration(_) | Self::Time(_) => None,
        }
    }

    /// The order of two of one kind; none for what is no number.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Some(one.cmp(other)),
            (Self::Int(one), Self::Int(other))
            | (Self::Duration(one), Self::Duration(other))
            | (Self::Time(one), Self::Time(other)) => Some(one.cmp(other)),
            (Self::Double(one), Self::Double(other)) => one.partial_cmp(other),
            (Self::Text(one), Self::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Double => "a double",
            Self::Text => "a string",
            Self::Duration => "a duration",
            Self::Time => "a timestamp",
            Self::Fields => "all headers",
        })
    }
}
