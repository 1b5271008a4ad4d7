// SPDX-License-Identifier: Apache-2.0
//! What may be combined with what, and what kind comes of it. Kinds are never mixed: `200 == "200"` is an error and not
//! false, as nobody means it.

use regex::RegexBuilder;

use super::{
    InvalidExpression,
    evaluate::{Comparison, Function, Node, Operation},
    moment,
    value::{Kind, Value},
};

/// Most bytes of a compiled pattern.
const COMPILED: usize = 64 << 10;

/// A part of an expression, with its kind and where it begins.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) node: Node,
    pub(super) kind: Kind,
    pub(super) at: usize,
}

type Result<T> = std::result::Result<T, InvalidExpression>;

impl Term {
    pub(super) fn constant(value: Value<'static>, at: usize) -> Self {
        Self { kind: value.kind(), node: Node::Constant(value), at }
    }

    pub(super) fn wrong<T>(&self, reason: impl Into<String>) -> Result<T> {
        Err(InvalidExpression { reason: reason.into(), at: self.at })
    }

    /// It must be of a kind for what is done with it.
    pub(super) fn must_be(self, kind: Kind, what: &str) -> Result<Self> {
        if self.kind == kind {
            return Ok(self);
        }
        self.wrong(format!("{what} needs {kind}, and this is {}", self.kind))
    }

    /// The text, where it is written out.
    pub(super) fn literal(&self) -> Option<&str> {
        match &self.node {
            Node::Constant(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

pub(super) fn not(term: Term) -> Result<Term> {
    let term = term.must_be(Kind::Bool, "!")?;
    Ok(Term { node: Node::Not(Box::new(term.node)), ..term })
}

pub(super) fn negative(term: Term) -> Result<Term> {
    match (&term.node, term.kind) {
        (Node::Constant(Value::Int(number)), _) => Ok(Term::constant(Value::Int(-*number), term.at)),
        (Node::Constant(Value::Double(number)), _) => Ok(Term::constant(Value::Double(-*number), term.at)),
        (_, Kind::Int | Kind::Double) => {
            Ok(Term { node: Node::Negative(Box::new(term.node)), kind: term.kind, at: term.at })
        }
        (_, kind) => term.wrong(format!("- needs a number, and this is {kind}")),
    }
}

pub(super) fn compared(how: Comparison, one: Term, other: Term) -> Result<Term> {
    same(&one, &other, "are compared")?;
    let at = one.at;
    Ok(Term { node: Node::Compare(how, Box::new((one.node, other.node))), kind: Kind::Bool, at })
}

pub(super) fn within(one: Term, list: Vec<Term>) -> Result<Term> {
    for other in &list {
        same(&one, other, "are compared")?;
    }
    let list = list.into_iter().map(|term| term.node).collect();
    Ok(Term { node: Node::Within(Box::new(one.node), list), kind: Kind::Bool, at: one.at })
}

pub(super) fn chosen(condition: Term, yes: Term, no: Term) -> Result<Term> {
    let condition = condition.must_be(Kind::Bool, "?")?;
    same(&yes, &no, "are the two sides of one choice")?;
    let (kind, at) = (yes.kind, condition.at);
    Ok(Term { node: Node::Choose(Box::new([condition.node, yes.node, no.node])), kind, at })
}

fn same(one: &Term, other: &Term, what: &str) -> Result<()> {
    if one.kind == Kind::Fields || one.kind != other.kind {
        return other.wrong(format!("{} and {} {what}", one.kind, other.kind));
    }
    Ok(())
}

pub(super) fn calculated(operation: Operation, one: Term, other: Term) -> Result<Term> {
    let kind = match (operation, one.kind, other.kind) {
        (_, Kind::Int, Kind::Int) => Kind::Int,
        (
            Operation::Add | Operation::Subtract | Operation::Multiply | Operation::Divide,
            Kind::Double,
            Kind::Double,
        ) => Kind::Double,
        (Operation::Add, Kind::Text, Kind::Text) => Kind::Text,
        (Operation::Add | Operation::Subtract, Kind::Duration, Kind::Duration)
        | (Operation::Subtract, Kind::Time, Kind::Time) => Kind::Duration,
        (Operation::Add | Operation::Subtract, Kind::Time, Kind::Duration)
        | (Operation::Add, Kind::Duration, Kind::Time) => Kind::Time,
        (_, first, second) => {
            return other.wrong(format!("{first} and {second} cannot be combined by {}", operation.sign()));
        }
    };
    Ok(Term { node: Node::Calculate(operation, Box::new((one.node, other.node))), kind, at: one.at })
}

/// `name(of, ...)` or `of.name(...)`.
pub(super) fn called(name: &str, of: Term, arguments: Vec<Term>) -> Result<Term> {
    let at = of.at;
    let mut arguments = arguments.into_iter();
    let made = match name {
        "contains" | "startsWith" | "endsWith" => {
            let function = match name {
                "contains" => Function::Contains,
                "startsWith" => Function::StartsWith,
                _ => Function::EndsWith,
            };
            let of = of.must_be(Kind::Text, name)?;
            let part = argument(&mut arguments, name, at)?.must_be(Kind::Text, name)?;
            Term { node: Node::Call(function, vec![of.node, part.node]), kind: Kind::Bool, at }
        }
        "matches" => {
            let of = of.must_be(Kind::Text, name)?;
            matching(of, &argument(&mut arguments, name, at)?)?
        }
        "size" => {
            let of = of.must_be(Kind::Text, name)?;
            Term { node: Node::Call(Function::Size, vec![of.node]), kind: Kind::Int, at }
        }
        "int" | "double" | "string" => converted(name, of)?,
        "duration" | "timestamp" => moment(name, &of)?,
        "all" | "exists" | "exists_one" | "map" | "filter" => {
            return of.wrong(format!("{name} is a loop, and there are none here"));
        }
        _ => return of.wrong(format!("{name} is no function that is known here")),
    };
    match arguments.next() {
        Some(more) => more.wrong(format!("is one more than {name} takes")),
        None => Ok(made),
    }
}

fn argument(arguments: &mut impl Iterator<Item = Term>, name: &str, at: usize) -> Result<Term> {
    let missing = || InvalidExpression { reason: format!("{name} lacks an argument"), at };
    arguments.next().ok_or_else(missing)
}

fn matching(of: Term, pattern: &Term) -> Result<Term> {
    let Some(text) = pattern.literal() else {
        return pattern.wrong("a pattern must be written out: it is read once and not for each request");
    };
    match RegexBuilder::new(text).size_limit(COMPILED).build() {
        Ok(regex) => {
            Ok(Term { node: Node::Match(Box::new(of.node), Box::new(regex)), kind: Kind::Bool, at: of.at })
        }
        Err(error) => {
            let reason = error.to_string().lines().last().unwrap_or_default().to_owned();
            pattern.wrong(format!("{text:?} is no regular expression that can be used: {reason}"))
        }
    }
}

fn converted(name: &str, of: Term) -> Result<Term> {
    let (function, kind, fits) = match name {
        "int" => {
            let fits = matches!(of.kind, Kind::Int | Kind::Double | Kind::Text | Kind::Time);
            (Function::Int, Kind::Int, fits)
        }
        "double" => {
            (Function::Double, Kind::Double, matches!(of.kind, Kind::Int | Kind::Double | Kind::Text))
        }
        _ => {
            let fits = matches!(of.kind, Kind::Bool | Kind::Int | Kind::Double | Kind::Text);
            (Function::Text, Kind::Text, fits)
        }
    };
    if !fits {
        return of.wrong(format!("{name} makes nothing of {}", of.kind));
    }
    Ok(Term { node: Node::Call(function, vec![of.node]), kind, at: of.at })
}

fn moment(name: &str, of: &Term) -> Result<Term> {
    let Some(text) = of.literal() else {
        return of.wrong(format!("{name} needs a text that is written out"));
    };
    let (value, form) = match name {
        "duration" => (moment::duration(text).map(Value::Duration), "1h30m or 500ms"),
        _ => (moment::timestamp(text).map(Value::Time), "2026-01-31T12:00:00Z"),
    };
    match value {
        Some(value) => Ok(Term::constant(value, of.at)),
        None => of.wrong(format!("{text:?} is no {name}: write it like {form}")),
    }
}
