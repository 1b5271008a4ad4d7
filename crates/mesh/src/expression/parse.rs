// SPDX-License-Identifier: Apache-2.0
//! From text to a tree, by CEL's precedence. It descends no deeper than [`DEEPEST`], and a chain of sums or calls has an end:
//! whoever walks the tree needs little stack, whatever users write.

use std::borrow::Cow;

use http::HeaderName;

use super::{
    Attribute, InvalidExpression, Side, Uses,
    evaluate::{Comparison, Node, Operation},
    lex::{Token, tokens},
    typing::{self, Term},
    value::{Kind, Value},
};

/// Brackets, signs and choices inside one another.
const DEEPEST: usize = 24;
/// Sums, products and so on in all.
const CALCULATIONS: usize = 32;
/// Calls one after another, `a.f().g()`.
const CALLS: usize = 4;
/// Patterns in all: each is kept compiled.
const PATTERNS: usize = 16;
/// Where attributes of Envoy's begin that nothing here has.
const FOREIGN: [&str; 6] =
    ["xds", "node", "metadata", "filter_state", "upstream_filter_state", "plugin_name"];

type Result<T> = std::result::Result<T, InvalidExpression>;

/// The tree of a text, and what it needs.
pub(super) fn parse(text: &str) -> Result<(Term, Uses)> {
    let end = text.chars().count() + 1;
    let mut parser = Parser { tokens: tokens(text)?, end, ..Parser::default() };
    let term = parser.choice()?;
    match parser.tokens.get(parser.next) {
        Some((token, at)) => wrong(*at, format!("{} is not expected here", shown(token))),
        None => Ok((term, parser.uses)),
    }
}

fn wrong<T>(at: usize, reason: impl Into<String>) -> Result<T> {
    Err(InvalidExpression { reason: reason.into(), at })
}

fn shown(token: &Token) -> String {
    match token {
        Token::Name(name) => name.clone(),
        Token::Int(number) => number.to_string(),
        Token::Double(number) => number.to_string(),
        Token::Text(text) => format!("{text:?}"),
        Token::Sign(sign) => (*sign).to_owned(),
    }
}

#[derive(Default)]
struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    end: usize,
    depth: usize,
    calculations: usize,
    patterns: usize,
    uses: Uses,
}

impl Parser {
    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(_, at)| *at)
    }

    fn sign(&self) -> Option<&'static str> {
        match self.tokens.get(self.next) {
            Some((Token::Sign(sign), _)) => Some(sign),
            Some(_) | None => None,
        }
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = self.sign() == Some(sign);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        if self.take(sign) { Ok(()) } else { wrong(self.at(), format!("{sign} is missing")) }
    }

    fn name(&mut self) -> Result<String> {
        let Some((Token::Name(name), _)) = self.tokens.get(self.next) else {
            return wrong(self.at(), "a name is missing");
        };
        self.next += 1;
        Ok(name.clone())
    }

    /// One level further down.
    fn inside(&mut self, read: fn(&mut Self) -> Result<Term>) -> Result<Term> {
        if self.depth == DEEPEST {
            return wrong(self.at(), format!("is more than {DEEPEST} levels deep"));
        }
        self.depth += 1;
        let term = read(self);
        self.depth -= 1;
        term
    }

    fn choice(&mut self) -> Result<Term> {
        let condition = self.either()?;
        if !self.take("?") {
            return Ok(condition);
        }
        let yes = self.inside(Self::choice)?;
        self.expect(":")?;
        typing::chosen(condition, yes, self.inside(Self::choice)?)
    }

    fn either(&mut self) -> Result<Term> {
        self.chain("||", Self::both, Node::Any)
    }

    fn both(&mut self) -> Result<Term> {
        self.chain("&&", Self::relation, Node::All)
    }

    fn chain(
        &mut self,
        sign: &str,
        part: fn(&mut Self) -> Result<Term>,
        make: fn(Vec<Node>) -> Node,
    ) -> Result<Term> {
        let first = part(self)?;
        if self.sign() != Some(sign) {
            return Ok(first);
        }
        let first = first.must_be(Kind::Bool, sign)?;
        let (at, mut parts) = (first.at, vec![first.node]);
        while self.take(sign) {
            parts.push(part(self)?.must_be(Kind::Bool, sign)?.node);
        }
        Ok(Term { node: make(parts), kind: Kind::Bool, at })
    }

    fn relation(&mut self) -> Result<Term> {
        let one = self.sum()?;
        let term = match self.sign().and_then(Comparison::of_sign) {
            Some(how) => {
                self.next += 1;
                typing::compared(how, one, self.sum()?)?
            }
            None if self.is_in() => {
                self.next += 1;
                self.within(one)?
            }
            None => return Ok(one),
        };
        if self.is_in() || self.sign().and_then(Comparison::of_sign).is_some() {
            return wrong(self.at(), "only two can be compared at a time: write brackets, or &&");
        }
        Ok(term)
    }

    fn is_in(&self) -> bool {
        matches!(self.tokens.get(self.next), Some((Token::Name(name), _)) if name == "in")
    }

    /// What follows `in`: a list, or all headers.
    fn within(&mut self, one: Term) -> Result<Term> {
        if !self.take("[") {
            let fields = self.postfix()?;
            let Node::Fields(side) = fields.node else {
                return fields.wrong("what follows `in` is a list in [], or headers");
            };
            let Some(name) = one.literal() else {
                return one.wrong("the name of a header must be written out");
            };
            let header = self.header(side, name, one.at)?;
            return Ok(Term { node: Node::Has(Box::new(header.node)), kind: Kind::Bool, at: one.at });
        }
        let list = self.list("]")?;
        typing::within(one, list)
    }

    /// Parts between commas, up to a sign.
    fn list(&mut self, end: &str) -> Result<Vec<Term>> {
        let mut list = Vec::new();
        while !self.take(end) {
            if !list.is_empty() {
                self.expect(",")?;
            }
            list.push(self.inside(Self::choice)?);
        }
        Ok(list)
    }

    fn sum(&mut self) -> Result<Term> {
        self.calculated(&["+", "-"], Self::product)
    }

    fn product(&mut self) -> Result<Term> {
        self.calculated(&["*", "/", "%"], Self::unary)
    }

    fn calculated(&mut self, signs: &[&str], part: fn(&mut Self) -> Result<Term>) -> Result<Term> {
        let mut term = part(self)?;
        while let Some(operation) =
            self.sign().filter(|sign| signs.contains(sign)).and_then(Operation::of_sign)
        {
            self.calculations += 1;
            if self.calculations > CALCULATIONS {
                return wrong(self.at(), format!("calculates more than {CALCULATIONS} times"));
            }
            self.next += 1;
            term = typing::calculated(operation, term, part(self)?)?;
        }
        Ok(term)
    }

    fn unary(&mut self) -> Result<Term> {
        if self.take("!") {
            return typing::not(self.inside(Self::unary)?);
        }
        if self.take("-") {
            return typing::negative(self.inside(Self::unary)?);
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Result<Term> {
        let mut term = self.primary()?;
        for _ in 0..CALLS {
            if !self.take(".") {
                break;
            }
            let (at, name) = (self.at(), self.name()?);
            if !self.take("(") {
                return wrong(at, format!("{name} is no part of what is before it"));
            }
            let arguments = self.list(")")?;
            term = self.call(&name, term, arguments)?;
        }
        match self.sign() {
            Some(".") => wrong(self.at(), format!("more than {CALLS} calls follow one another")),
            Some("[" | "{") => wrong(self.at(), "only headers are asked for by name in []"),
            Some(_) | None => Ok(term),
        }
    }

    fn call(&mut self, name: &str, of: Term, arguments: Vec<Term>) -> Result<Term> {
        self.patterns += usize::from(name == "matches");
        if self.patterns > PATTERNS {
            return of.wrong(format!("has more than {PATTERNS} patterns"));
        }
        typing::called(name, of, arguments)
    }

    fn primary(&mut self) -> Result<Term> {
        let at = self.at();
        let Some((token, _)) = self.tokens.get(self.next) else { return wrong(at, "something is missing") };
        let token = token.clone();
        self.next += 1;
        match token {
            Token::Int(number) => Ok(Term::constant(Value::Int(number), at)),
            Token::Double(number) => Ok(Term::constant(Value::Double(number), at)),
            Token::Text(text) => Ok(Term::constant(Value::Text(Cow::Owned(text)), at)),
            Token::Sign("(") => {
                let term = self.inside(Self::choice)?;
                self.expect(")")?;
                Ok(term)
            }
            Token::Name(name) => self.named(&name, at),
            Token::Sign("[") => wrong(at, "a list stands only behind `in`"),
            Token::Sign("{") => wrong(at, "maps are not known here"),
            Token::Sign(sign) => wrong(at, format!("{sign} is not expected here")),
        }
    }

    fn named(&mut self, name: &str, at: usize) -> Result<Term> {
        match name {
            "true" => Ok(Term::constant(Value::Bool(true), at)),
            "false" => Ok(Term::constant(Value::Bool(false), at)),
            "null" => wrong(at, "null is not known here: ask with has(...)"),
            "has" if self.take("(") => self.has(at),
            _ if self.take("(") => {
                let mut arguments = self.list(")")?;
                if arguments.is_empty() {
                    return wrong(at, format!("{name} lacks an argument, or is no function"));
                }
                let of = arguments.remove(0);
                self.call(name, of, arguments)
            }
            _ => self.attribute(name, at),
        }
    }

    fn has(&mut self, at: usize) -> Result<Term> {
        let what = self.inside(Self::postfix)?;
        self.expect(")")?;
        if !matches!(what.node, Node::Attribute(_) | Node::Header(..) | Node::Fields(_)) {
            return what.wrong("has() asks for an attribute or a header");
        }
        Ok(Term { node: Node::Has(Box::new(what.node)), kind: Kind::Bool, at })
    }

    fn attribute(&mut self, root: &str, at: usize) -> Result<Term> {
        if FOREIGN.contains(&root) {
            return wrong(at, format!("{root} is about Envoy's inside, which is not here"));
        }
        if !self.take(".") {
            return wrong(at, format!("{root} is no attribute that is known here; a text stands in quotes"));
        }
        let full = format!("{root}.{}", self.name()?);
        if let Some(side) = Side::named(&full) {
            return self.fields(side, at);
        }
        let Some((attribute, kind)) = Attribute::named(&full) else {
            return wrong(at, format!("{full} is no attribute that is known here"));
        };
        self.uses = self.uses.and(attribute.uses());
        Ok(Term { node: Node::Attribute(attribute), kind, at })
    }

    /// `request.headers`, and what of them: `['x']` or `.x`.
    fn fields(&mut self, side: Side, at: usize) -> Result<Term> {
        if self.take("[") {
            let name = self.inside(Self::choice)?;
            self.expect("]")?;
            let Some(text) = name.literal() else {
                return name.wrong("the name of a header must be a text that is written out");
            };
            return self.header(side, text, name.at);
        }
        let following = (self.tokens.get(self.next + 1), self.tokens.get(self.next + 2));
        if self.sign() == Some(".")
            && let (Some((Token::Name(name), name_at)), call) = following
            && !matches!(call, Some((Token::Sign("("), _)))
        {
            let (name, name_at) = (name.clone(), *name_at);
            self.next += 2;
            return self.header(side, &name, name_at);
        }
        self.uses = self.uses.and(side.uses());
        Ok(Term { node: Node::Fields(side), kind: Kind::Fields, at })
    }

    fn header(&mut self, side: Side, name: &str, at: usize) -> Result<Term> {
        let name = name.to_ascii_lowercase();
        if let Some((attribute, kind)) = Attribute::for_header(side, &name) {
            let term = Term { node: Node::Attribute(attribute), kind, at };
            return if kind == Kind::Text { Ok(term) } else { typing::called("string", term, Vec::new()) };
        }
        self.uses = self.uses.and(side.uses());
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => Ok(Term { node: Node::Header(side, name), kind: Kind::Text, at }),
            Err(_invalid) => wrong(at, format!("{name:?} is no name of a header")),
        }
    }
}
