// SPDX-License-Identifier: Apache-2.0
//! A serde deserializer over a tree. Every error carries the path of the field it is about.

use std::fmt;

use serde::{
    de::{self, IntoDeserializer, Unexpected, Visitor},
    forward_to_deserialize_any,
};

use super::{Entry, Node, Path, Segment, Value};

/// A position in a tree.
pub(super) struct Cursor<'a> {
    node: &'a Node,
    path: Path,
}

/// What serde's visitors report, later with its place.
#[derive(Debug)]
pub(super) struct Error {
    place: Option<Path>,
    missing: Option<&'static str>,
    message: String,
    unknown: bool,
}

/// An error with its place.
pub(super) struct Located {
    pub(super) path: Path,
    pub(super) line: u64,
    pub(super) missing: Option<&'static str>,
    pub(super) message: String,
    pub(super) unknown: bool,
}

impl Error {
    fn new(message: String) -> Self {
        Self { place: None, missing: None, message, unknown: false }
    }

    fn at(mut self, path: &Path) -> Self {
        if self.place.is_none() {
            self.place = Some(path.clone());
        }
        self
    }

    pub(super) fn located(self, root: &Node) -> Located {
        let path = self.place.unwrap_or_default();
        let line = root.line_of(&path);
        Located { path, line, missing: self.missing, message: self.message, unknown: self.unknown }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::new(format!("the field {field:?} is missing")) }
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        let known = expected.iter().map(|field| format!("{field:?}")).collect::<Vec<_>>().join(", ");
        Self { unknown: true, ..Self::new(format!("unknown field; known are {known}")) }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let message = format!("{variant:?} is not one of {}", expected.join(", "));
        Self::new(message)
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let message = format!("found {unexpected} where {} is expected", plainly(expected));
        Self::new(message)
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let scalar = matches!(
            unexpected,
            Unexpected::Bool(_) | Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_)
        );
        let wanted = plainly(expected);
        if unexpected == Unexpected::Unit {
            let message = format!("has no value, {wanted} is expected: write one or remove the field");
            return Self::new(message);
        }
        let fix = if scalar && wanted.contains("string") { ": put it in quotes" } else { "" };
        Self::new(format!("found {unexpected} where {wanted} is expected{fix}"))
    }
}

/// A type's own name says nothing to the author of a manifest.
fn plainly(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "u16" => "a number from 0 to 65535".to_owned(),
        other if other.starts_with("struct ") => "a mapping".to_owned(),
        other => other.to_owned(),
    }
}

impl<'a> Cursor<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node, path: Path::default() }
    }

    fn visit<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let path = self.path.clone();
        let result = match &self.node.value {
            Value::Null | Value::Removed => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Integer(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::Sequence(nodes) => {
                visitor.visit_seq(Elements { nodes: nodes.iter().enumerate(), path: &self.path })
            }
            Value::Mapping(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), value: None, path: &self.path })
            }
        };
        result.map_err(|error| error.at(&path))
    }
}

impl<'de> de::Deserializer<'de> for Cursor<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if matches!(self.node.value, Value::Null | Value::Removed) {
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// Our enums have only plain variants.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let path = self.path.clone();
        let result = match &self.node.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            other => Err(de::Error::invalid_type(other.unexpected(), &"one of the names of this field")),
        };
        result.map_err(|error: Error| error.at(&path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string
        bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

impl Value {
    fn unexpected(&self) -> Unexpected<'_> {
        match self {
            Self::Null | Self::Removed => Unexpected::Unit,
            Self::Bool(value) => Unexpected::Bool(*value),
            Self::Integer(value) => Unexpected::Signed(*value),
            Self::Unsigned(value) => Unexpected::Unsigned(*value),
            Self::Float(value) => Unexpected::Float(*value),
            Self::Text(text) => Unexpected::Str(text),
            Self::Sequence(_) => Unexpected::Seq,
            Self::Mapping(_) => Unexpected::Map,
        }
    }
}

struct Elements<'a> {
    nodes: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    path: &'a Path,
}

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = Error;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let next = self.nodes.find(|(_, node)| !matches!(node.value, Value::Removed));
        let Some((index, node)) = next else { return Ok(None) };
        let path = self.path.with(Segment::Index(index));
        seed.deserialize(Cursor { node, path: path.clone() }).map(Some).map_err(|error| error.at(&path))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    value: Option<&'a Entry>,
    path: &'a Path,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(entry);
        let path = self.path.with(Segment::Key(entry.key.clone()));
        seed.deserialize(KeyCursor(&entry.key)).map(Some).map_err(|error| error.at(&path))
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some(entry) = self.value.take() else { return Err(de::Error::custom("a value without a key")) };
        let path = self.path.with(Segment::Key(entry.key.clone()));
        seed.deserialize(Cursor { node: &entry.node, path: path.clone() }).map_err(|error| error.at(&path))
    }
}

/// A key may also be read as a number.
struct KeyCursor<'a>(&'a str);

impl<'de> de::Deserializer<'de> for KeyCursor<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_str(self.0)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.parse::<u16>() {
            Ok(number) if number != 0 => visitor.visit_u16(number),
            Ok(_) | Err(_) => {
                Err(de::Error::custom(format_args!("{:?} is not a port from 1 to 65535", self.0)))
            }
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u32 u64 u128 f32 f64 char str string
        bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
