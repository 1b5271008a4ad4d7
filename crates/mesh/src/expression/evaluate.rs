// SPDX-License-Identifier: Apache-2.0
//! What an expression comes to for one request. What cannot be told, because the request lacks it or a number would not
//! fit, is no value; `&&` and `||` come to one all the same where the other side alone decides.

use std::{borrow::Cow, cmp::Ordering};

use http::HeaderName;
use regex::Regex;

use super::{Attribute, Facts, Side, Value};

/// The longest text that is put together, in bytes.
const LONGEST_TEXT: usize = 8192;

/// A part of an expression. Kinds fit: nothing else is built.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    Attribute(Attribute),
    Header(Side, HeaderName),
    /// All headers of one side.
    Fields(Side),
    /// Whether there is such a thing.
    Has(Box<Self>),
    Not(Box<Self>),
    Negative(Box<Self>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Compare(Comparison, Box<(Self, Self)>),
    Calculate(Operation, Box<(Self, Self)>),
    Within(Box<Self>, Vec<Self>),
    Match(Box<Self>, Box<Regex>),
    Call(Function, Vec<Self>),
    /// A condition, what holds if so, and what if not.
    Choose(Box<[Self; 3]>),
}

/// How two values are compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is made of two values.
#[derive(Clone, Copy, Debug)]
pub(super) enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

/// What is made of a value by name.
#[derive(Clone, Copy, Debug)]
pub(super) enum Function {
    Contains,
    StartsWith,
    EndsWith,
    Size,
    Int,
    Double,
    Text,
}

impl Comparison {
    pub(super) fn of_sign(sign: &str) -> Option<Self> {
        Some(match sign {
            "==" => Self::Equal,
            "!=" => Self::Unequal,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    /// `None` is what a number and no number come to.
    fn holds(self, order: Option<Ordering>) -> bool {
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::Unequal => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
        }
    }
}

impl Operation {
    pub(super) fn of_sign(sign: &str) -> Option<Self> {
        Some(match sign {
            "+" => Self::Add,
            "-" => Self::Subtract,
            "*" => Self::Multiply,
            "/" => Self::Divide,
            "%" => Self::Remainder,
            _ => return None,
        })
    }

    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
        }
    }

    fn of_ints(self, one: i64, other: i64) -> Option<i64> {
        match self {
            Self::Add => one.checked_add(other),
            Self::Subtract => one.checked_sub(other),
            Self::Multiply => one.checked_mul(other),
            Self::Divide => one.checked_div(other),
            Self::Remainder => one.checked_rem(other),
        }
    }

    fn of_doubles(self, one: f64, other: f64) -> Option<f64> {
        match self {
            Self::Add => Some(one + other),
            Self::Subtract => Some(one - other),
            Self::Multiply => Some(one * other),
            Self::Divide => Some(one / other),
            Self::Remainder => None,
        }
    }
}

/// The value for a request, if it can be told.
pub(super) fn evaluate<'a>(node: &'a Node, facts: &'a dyn Facts) -> Option<Value<'a>> {
    match node {
        Node::Constant(value) => Some(value.clone()),
        Node::Attribute(attribute) => facts.attribute(*attribute),
        Node::Header(side, name) => facts.header(*side, name).map(Value::Text),
        // Only asked whether something is in them.
        Node::Fields(_) => None,
        Node::Has(what) => Some(Value::Bool(has(what, facts))),
        Node::Not(of) => truth(of, facts).map(|value| Value::Bool(!value)),
        Node::Negative(of) => match evaluate(of, facts)? {
            Value::Int(number) => number.checked_neg().map(Value::Int),
            Value::Double(number) => Some(Value::Double(-number)),
            _ => None,
        },
        Node::All(parts) => decided(parts, facts, false),
        Node::Any(parts) => decided(parts, facts, true),
        Node::Compare(how, sides) => {
            let (one, other) = (evaluate(&sides.0, facts)?, evaluate(&sides.1, facts)?);
            Some(Value::Bool(how.holds(one.order(&other))))
        }
        Node::Calculate(operation, sides) => {
            calculate(*operation, evaluate(&sides.0, facts)?, evaluate(&sides.1, facts)?)
        }
        Node::Within(of, list) => within(&evaluate(of, facts)?, list, facts),
        Node::Match(of, regex) => match evaluate(of, facts)? {
            Value::Text(text) => Some(Value::Bool(regex.is_match(&text))),
            _ => None,
        },
        Node::Call(function, arguments) => call(*function, arguments, facts),
        Node::Choose(sides) => {
            let [condition, yes, no] = sides.as_ref();
            evaluate(if truth(condition, facts)? { yes } else { no }, facts)
        }
    }
}

fn truth(node: &Node, facts: &dyn Facts) -> Option<bool> {
    match evaluate(node, facts)? {
        Value::Bool(value) => Some(value),
        _ => None,
    }
}

fn has(what: &Node, facts: &dyn Facts) -> bool {
    match what {
        Node::Attribute(attribute) => facts.attribute(*attribute).is_some(),
        Node::Header(side, name) => facts.header(*side, name).is_some(),
        _ => true,
    }
}

/// One part that decides is enough, whatever becomes of the others.
fn decided<'a>(parts: &'a [Node], facts: &'a dyn Facts, deciding: bool) -> Option<Value<'a>> {
    let mut known = true;
    for part in parts {
        match truth(part, facts) {
            Some(value) if value == deciding => return Some(Value::Bool(deciding)),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(Value::Bool(!deciding))
}

fn within<'a>(of: &Value<'_>, list: &'a [Node], facts: &'a dyn Facts) -> Option<Value<'a>> {
    let mut known = true;
    for one in list {
        match evaluate(one, facts) {
            Some(value) if of.order(&value) == Some(Ordering::Equal) => return Some(Value::Bool(true)),
            Some(_) => {}
            None => known = false,
        }
    }
    known.then_some(Value::Bool(false))
}

fn calculate<'a>(operation: Operation, one: Value<'a>, other: Value<'a>) -> Option<Value<'a>> {
    match (one, other) {
        (Value::Int(one), Value::Int(other)) => operation.of_ints(one, other).map(Value::Int),
        (Value::Double(one), Value::Double(other)) => operation.of_doubles(one, other).map(Value::Double),
        (Value::Text(one), Value::Text(other)) => {
            let fits = one.len() + other.len() <= LONGEST_TEXT;
            fits.then(|| Value::Text(Cow::Owned(one.into_owned() + &other)))
        }
        (Value::Duration(one), Value::Duration(other)) => operation.of_ints(one, other).map(Value::Duration),
        (Value::Time(one), Value::Time(other)) => operation.of_ints(one, other).map(Value::Duration),
        (Value::Time(one), Value::Duration(other)) | (Value::Duration(one), Value::Time(other)) => {
            operation.of_ints(one, other).map(Value::Time)
        }
        _ => None,
    }
}

fn call<'a>(function: Function, arguments: &'a [Node], facts: &'a dyn Facts) -> Option<Value<'a>> {
    let mut values = arguments.iter().map(|argument| evaluate(argument, facts));
    let of = values.next()??;
    match function {
        Function::Contains | Function::StartsWith | Function::EndsWith => {
            let (Value::Text(text), Value::Text(part)) = (of, values.next()??) else { return None };
            let part = part.as_ref();
            Some(Value::Bool(match function {
                Function::Contains => text.contains(part),
                Function::StartsWith => text.starts_with(part),
                _ => text.ends_with(part),
            }))
        }
        Function::Size => match of {
            Value::Text(text) => i64::try_from(text.chars().count()).ok().map(Value::Int),
            _ => None,
        },
        Function::Int => whole(&of).map(Value::Int),
        Function::Double => match of {
            Value::Double(number) => Some(Value::Double(number)),
            #[expect(clippy::cast_precision_loss, reason = "as CEL converts it")]
            Value::Int(number) => Some(Value::Double(number as f64)),
            Value::Text(text) => text.parse().ok().map(Value::Double),
            _ => None,
        },
        Function::Text => of.printed().map(|text| Value::Text(Cow::Owned(text))),
    }
}

fn whole(of: &Value<'_>) -> Option<i64> {
    match of {
        Value::Int(number) => Some(*number),
        Value::Text(text) => text.parse().ok(),
        Value::Time(nanoseconds) => Some(nanoseconds.div_euclid(1_000_000_000)),
        #[expect(
            clippy::cast_possible_truncation,
            reason = "it is in range, and CEL cuts off what follows the point"
        )]
        Value::Double(number) => (number.abs() < 9.2e18).then_some(*number as i64),
        _ => None,
    }
}
