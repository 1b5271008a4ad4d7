// SPDX-License-Identifier: Apache-2.0
//! From JSON to a tree: without lines, as it came from no file.

use serde_json::Value as Json;

use super::{Entry, Node, Value};

impl From<Json> for Node {
    fn from(json: Json) -> Self {
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Integer(value),
                (None, Some(value)) => Value::Unsigned(value),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::Text(text.into()),
            Json::Array(items) => Value::Sequence(items.into_iter().map(Self::from).collect()),
            Json::Object(fields) => Value::Mapping(
                fields
                    .into_iter()
                    .map(|(key, value)| Entry { line: 0, key: key.into(), node: value.into() })
                    .collect(),
            ),
        };
        Self { line: 0, value }
    }
}
