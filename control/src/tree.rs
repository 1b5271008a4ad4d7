// SPDX-License-Identifier: Apache-2.0
//! A YAML or JSON document as a tree that remembers its lines, and the way from there into our types.
//!
//! serde stops at the first error and does not say where; here every error has its field and line, and the faulty field
//! can be taken out so that the next one is found too.

mod de;
mod json;
mod yaml;

use std::fmt;

use arcstr::ArcStr;
use serde::de::DeserializeOwned;

pub(crate) use self::yaml::documents;
use crate::objects::Fields;

/// A value and the line it starts in.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// First line, from 1; 0 where YAML does not tell.
    pub(crate) line: u64,
    /// The value.
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(ArcStr),
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Was faulty and has been reported; its place in a sequence stays.
    Removed,
}

/// One entry of a mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) line: u64,
    pub(crate) key: ArcStr,
    pub(crate) node: Node,
}

/// One step into a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Key(ArcStr),
    Index(usize),
}

/// Where a value is, in the notation of `kubectl`: `spec.rules[0].from`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(pub(crate) Vec<Segment>);

impl Path {
    fn with(&self, segment: Segment) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment);
        Self(segments)
    }

    /// Reads the notation; what does not fit it ends the path.
    pub(crate) fn parse(text: &str) -> Self {
        let mut segments = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            if let Some((index, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
                let index = index.trim_matches('"');
                segments.push(index.parse().map_or_else(|_| Segment::Key(index.into()), Segment::Index));
                rest = after;
                continue;
            }
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            let (key, after) = rest.split_at(end);
            if key.is_empty() {
                break;
            }
            segments.push(Segment::Key(key.into()));
            rest = after;
        }
        Self(segments)
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                // A label or annotation: its dots are its own.
                Segment::Key(key) if key.contains(['.', '/']) => write!(f, "[{key:?}]")?,
                Segment::Key(key) if position == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

/// What is wrong in a document, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) path: Path,
    pub(crate) line: u64,
    pub(crate) message: String,
    /// Whether it is that the field is not known at all.
    pub(crate) unknown: bool,
}

/// More errors of one document are not worth the reading.
const MOST_ERRORS: usize = 20;

impl Node {
    /// The child of a mapping.
    pub(crate) fn child(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Mapping(entries) => entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&ArcStr> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Whether there is nothing in it.
    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The line of a field; of the closest thing around it when the field itself is not there.
    pub(crate) fn line_of(&self, path: &Path) -> u64 {
        let mut node = self;
        let mut line = self.line;
        for segment in &path.0 {
            let step = match (segment, &node.value) {
                (Segment::Key(key), Value::Mapping(entries)) => {
                    entries.iter().find(|entry| entry.key == *key).map(|entry| (entry.line, &entry.node))
                }
                (Segment::Index(index), Value::Sequence(nodes)) => {
                    nodes.get(*index).map(|node| (node.line, node))
                }
                _ => None,
            };
            let Some((at, next)) = step else { break };
            (line, node) = (at, next);
        }
        line
    }

    /// The child of a mapping, to be changed.
    pub(crate) fn child_mut(&mut self, key: &str) -> Option<&mut Self> {
        match &mut self.value {
            Value::Mapping(entries) => {
                entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node)
            }
            _ => None,
        }
    }

    /// Gives a mapping a child of this value.
    pub(crate) fn set(&mut self, key: &str, value: Value) {
        let line = self.line;
        if let Some(child) = self.child_mut(key) {
            child.value = value;
        } else if let Value::Mapping(entries) = &mut self.value {
            entries.push(Entry { line, key: key.into(), node: Self { line, value } });
        }
    }

    /// Reads the tree as a type. What is wrong is given to `mend`, which changes the tree so that it can be gone on, or
    /// says that it cannot; in the end there is a value or there is none, and everything that was wrong.
    pub(crate) fn mended<T: DeserializeOwned>(
        mut self,
        mut mend: impl FnMut(&mut Self, &FieldError) -> bool,
    ) -> (Option<T>, Vec<FieldError>) {
        let mut errors: Vec<FieldError> = Vec::new();
        loop {
            let located = match T::deserialize(de::Cursor::new(&self)) {
                Ok(value) => return (Some(value), errors),
                Err(error) => error.located(&self),
            };
            let de::Located { path, line, missing, message, unknown } = located;
            // A required field that is missing because it was faulty has been told.
            let told = missing.is_some_and(|field| {
                errors.iter().any(|earlier| earlier.path == path.with(Segment::Key(field.into())))
            });
            let error = FieldError { path, line, message, unknown };
            let mended = mend(&mut self, &error);
            if !told {
                errors.push(error);
            }
            if !mended || errors.len() >= MOST_ERRORS {
                return (None, errors);
            }
        }
    }

    /// Takes a field away; says whether it was there.
    pub(crate) fn remove(&mut self, path: &[Segment]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        match (first, &mut self.value) {
            (Segment::Key(key), Value::Mapping(entries)) => {
                let Some(position) = entries.iter().position(|entry| entry.key == *key) else { return false };
                if rest.is_empty() {
                    entries.remove(position);
                    return true;
                }
                entries.get_mut(position).is_some_and(|entry| entry.node.remove(rest))
            }
            (Segment::Index(index), Value::Sequence(nodes)) => {
                let Some(node) = nodes.get_mut(*index) else { return false };
                if rest.is_empty() {
                    node.value = Value::Removed;
                    return true;
                }
                node.remove(rest)
            }
            _ => false,
        }
    }
}

/// The whole tree, or everything that is wrong with it.
impl Fields for Node {
    type Error = Vec<FieldError>;

    fn read<T: DeserializeOwned>(self) -> Result<T, Vec<FieldError>> {
        match self.mended(|tree, error| tree.remove(&error.path.0)) {
            (Some(value), errors) if errors.is_empty() => Ok(value),
            (_, errors) => Err(errors),
        }
    }
}

#[cfg(test)]
mod tests;
