// SPDX-License-Identifier: Apache-2.0
//! One manifest file: from its text to objects, or to everything that is wrong with it. It reads no disk.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use serde::Serialize;

use crate::{
    objects::{Kind, Object, ObjectKey},
    translate::check,
    tree::{self, Node, Path, Value},
};

/// Something to say about a place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// Line, from 1; 0 when it is about the whole file.
    pub line: u64,
    /// Field, `spec.ports[0].port`; empty when it is about the whole object or file.
    pub field: String,
    /// Kind and name, as far as they could be read.
    pub object: String,
    /// What is wrong.
    pub message: String,
}

/// What is in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The objects and the lines they start in.
    pub objects: Vec<(Object, u64)>,
    /// What keeps the file from coming into force.
    pub problems: Vec<Problem>,
    /// Documents that are none of our business.
    pub ignored: Vec<Problem>,
}

/// Reads a file.
pub fn read(text: &str) -> Content {
    let mut content = Content::default();
    match tree::documents(text) {
        Ok(documents) => {
            for document in documents {
                content.document(document);
            }
        }
        Err(error) => content.problems.push(Problem {
            line: error.line,
            field: String::new(),
            object: String::new(),
            message: format!("is not YAML: {}", error.message),
        }),
    }
    content.find_twins();
    content.problems.sort();
    content
}

impl Content {
    fn document(&mut self, mut document: Node) {
        if document.is_null() {
            return;
        }
        let is_list = document.child("kind").and_then(Node::text).is_some_and(|kind| kind == "List");
        let Value::Mapping(entries) = &mut document.value else {
            self.problem(
                &document,
                "",
                "is not an object: it must have apiVersion, kind and metadata".to_owned(),
            );
            return;
        };
        // `kubectl get -o yaml` prints lists.
        let items = entries.iter_mut().find(|entry| entry.key == "items").map(|entry| &mut entry.node.value);
        if let Some(Value::Sequence(items)) = items
            && is_list
        {
            for item in std::mem::take(items) {
                self.document(item);
            }
            return;
        }
        self.object(document);
    }

    fn object(&mut self, document: Node) {
        let Some(kind) = document.child("kind").and_then(Node::text).cloned() else {
            self.problem(&document, "kind", "the field \"kind\" is missing".to_owned());
            return;
        };
        let Some(version) = document.child("apiVersion").and_then(Node::text).cloned() else {
            self.problem(&document, "apiVersion", "the field \"apiVersion\" is missing".to_owned());
            return;
        };
        let Some(known) = Kind::ALL.into_iter().find(|known| known.as_str() == kind) else {
            self.ignored.push(located(&document, "kind", format!("{version} {kind} is not read")));
            return;
        };
        if !known.api_versions().contains(&version.as_str()) {
            if group(&version) == known.api_versions().first().map_or("", |first| group(first)) {
                let wanted = known.api_versions().join(" or ");
                self.problem(
                    &document,
                    "apiVersion",
                    format!("{version:?} is not known for {kind}: use {wanted}"),
                );
            } else {
                // Another API's kind of the same name, as `serving.knative.dev/v1 Service`.
                self.ignored.push(located(&document, "kind", format!("{version} {kind} is not read")));
            }
            return;
        }
        let places = document.clone();
        match Object::read(known, document) {
            Ok(mut object) => {
                let metadata = object.metadata_mut();
                if known.is_namespaced() && metadata.namespace.is_empty() {
                    metadata.namespace = arcstr::literal!("default");
                }
                let errors = check(&object);
                for error in &errors {
                    self.problem(&places, &error.field, error.message.clone());
                }
                if errors.is_empty() {
                    self.objects.push((object, places.line));
                }
            }
            Err(errors) => {
                for error in errors {
                    let mut problem = located(&places, &error.path.to_string(), error.message);
                    problem.line = error.line;
                    self.problems.push(problem);
                }
            }
        }
    }

    fn problem(&mut self, document: &Node, field: &str, message: String) {
        self.problems.push(located(document, field, message));
    }

    /// The same object twice in one file: which of them is meant?
    fn find_twins(&mut self) {
        let mut seen: BTreeMap<ObjectKey, u64> = BTreeMap::new();
        for (object, line) in &self.objects {
            let key = object.key();
            if let Some(first) = seen.get(&key) {
                self.problems.push(Problem {
                    line: *line,
                    field: String::new(),
                    object: key.to_string(),
                    message: format!("is in this file already, at line {first}: remove one of them"),
                });
            } else {
                seen.insert(key, *line);
            }
        }
    }
}

fn group(version: &str) -> &str {
    version.split_once('/').map_or("", |(group, _)| group)
}

fn located(document: &Node, field: &str, message: String) -> Problem {
    let line = document.line_of(&Path::parse(field));
    Problem { line, field: field.to_owned(), object: called(document), message }
}

/// What a document calls itself, as far as it can be read.
fn called(document: &Node) -> String {
    let metadata =
        |field: &str| document.child("metadata").and_then(|metadata| metadata.child(field)?.text());
    let kind = document.child("kind").and_then(Node::text).map_or("", ArcStr::as_str);
    let name = match (metadata("namespace"), metadata("name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_string(),
        (_, None) => String::new(),
    };
    format!("{kind} {name}").trim().to_owned()
}

#[cfg(test)]
mod tests;
