// SPDX-License-Identifier: Apache-2.0
//! The pieces of an expression's text.

use super::InvalidExpression;

/// A piece.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name or a word.
    Name(String),
    /// A whole number.
    Int(i64),
    /// Another number.
    Double(f64),
    /// A text, without quotes and escapes.
    Text(String),
    /// Anything else.
    Sign(&'static str),
}

/// A longer one before those that it begins with.
const SIGNS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "<", ">", "!", "+", "-", "*", "/", "%", "?", ":", ".", ",", "(", ")",
    "[", "]", "{", "}", ";",
];

/// All of them, each with where it begins.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token, usize)>, InvalidExpression> {
    let mut lexer = Lexer { text, at: 0 };
    let mut found = Vec::new();
    loop {
        lexer.skip();
        let at = lexer.at;
        let Some(first) = lexer.rest().chars().next() else { return Ok(found) };
        let token = match first {
            '"' | '\'' => lexer.text(first, false)?,
            '0'..='9' => lexer.number()?,
            letter if is_word(letter) => lexer.word()?,
            _ => lexer.sign()?,
        };
        found.push((token, lexer.place(at)));
    }
}

fn is_word(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}

struct Lexer<'a> {
    text: &'a str,
    /// In bytes.
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// As users count.
    fn place(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or_default().chars().count() + 1
    }

    fn wrong<T>(&self, reason: impl Into<String>) -> Result<T, InvalidExpression> {
        Err(InvalidExpression { reason: reason.into(), at: self.place(self.at) })
    }

    /// Space, and what is commented.
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest().trim_start();
            self.at = self.text.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    /// What begins here and goes on as long as letters fit.
    fn run(&mut self, fits: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let length = rest.find(|letter| !fits(letter)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length).unwrap_or_default()
    }

    fn sign(&mut self) -> Result<Token, InvalidExpression> {
        let Some(sign) = SIGNS.into_iter().find(|sign| self.rest().starts_with(sign)) else {
            let letter = self.rest().chars().next().unwrap_or_default();
            return self.wrong(format!("{letter:?} means nothing"));
        };
        self.at += sign.len();
        Ok(Token::Sign(sign))
    }

    fn word(&mut self) -> Result<Token, InvalidExpression> {
        let word = self.run(is_word);
        let quote = self.rest().chars().next().filter(|letter| matches!(letter, '"' | '\''));
        match (word, quote) {
            (_, None) => Ok(Token::Name(word.to_owned())),
            ("r" | "R", Some(quote)) => self.text(quote, true),
            (_, Some(_)) => self.wrong(format!("texts that begin with {word} are not known here")),
        }
    }

    fn number(&mut self) -> Result<Token, InvalidExpression> {
        let begin = self.at;
        let digits = self.run(|letter| letter.is_ascii_alphanumeric());
        if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            return match i64::from_str_radix(digits, 16) {
                Ok(number) => Ok(Token::Int(number)),
                Err(_) => self.wrong("is no hexadecimal number of 64 bits"),
            };
        }
        if digits.ends_with(['u', 'U']) {
            return self.wrong("unsigned numbers are not known here: write it without the u");
        }
        let is_part = |rest: &str| {
            let mut letters = rest.chars();
            letters.next() == Some('.') && letters.next().is_some_and(|letter| letter.is_ascii_digit())
        };
        if is_part(self.rest()) {
            self.at += 1;
            self.run(|letter| letter.is_ascii_alphanumeric());
        }
        let is_exponent = self.text.get(begin..self.at).is_some_and(|text| text.ends_with(['e', 'E']));
        if is_exponent && self.rest().starts_with(['+', '-']) {
            self.at += 1;
            self.run(|letter| letter.is_ascii_digit());
        }
        let text = self.text.get(begin..self.at).unwrap_or_default();
        if let Ok(number) = text.parse() {
            return Ok(Token::Int(number));
        }
        let number: Option<f64> = text.parse().ok().filter(|number: &f64| number.is_finite());
        match number {
            // A whole number that does not fit is none of another kind.
            Some(number) if text.contains(['.', 'e', 'E']) => Ok(Token::Double(number)),
            Some(_) | None => self.wrong(format!("{text:?} is no number of 64 bits")),
        }
    }

    fn text(&mut self, quote: char, raw: bool) -> Result<Token, InvalidExpression> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(letter) = self.rest().chars().next() else { return self.wrong("a text has no end") };
            self.at += letter.len_utf8();
            match letter {
                '\n' => return self.wrong("a text has no end on its line"),
                '\\' if !raw => text.push(self.escaped()?),
                letter if letter == quote => return Ok(Token::Text(text)),
                letter => text.push(letter),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, InvalidExpression> {
        let Some(letter) = self.rest().chars().next() else { return self.wrong("a text has no end") };
        self.at += letter.len_utf8();
        let plain = match letter {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\x07',
            'b' => '\x08',
            'f' => '\x0c',
            'v' => '\x0b',
            '\\' | '\'' | '"' | '`' | '?' => letter,
            'x' | 'X' => return self.digits(2),
            'u' => return self.digits(4),
            'U' => return self.digits(8),
            other => return self.wrong(format!("\\{other} is no escape; a backslash is written twice")),
        };
        Ok(plain)
    }

    /// A character by its hexadecimal number.
    fn digits(&mut self, count: usize) -> Result<char, InvalidExpression> {
        let digits =
            self.rest().get(..count).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let Some(letter) = number.and_then(char::from_u32) else {
            return self.wrong(format!("an escape needs {count} hexadecimal digits of a character"));
        };
        self.at += count;
        Ok(letter)
    }
}
