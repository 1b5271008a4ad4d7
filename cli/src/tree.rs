// SPDX-License-Identifier: Apache-2.0
//! Fields of JSON objects of which we have no types, absent ones as empty.

use std::collections::BTreeMap;

use serde_json::Value;

pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

pub(crate) fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or_default()
}

pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

pub(crate) fn map(value: &Value, pointer: &str) -> BTreeMap<String, String> {
    let pairs = value.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}

/// `True`, `False` or `Unknown`; nothing, if there is no such condition.
pub(crate) fn condition<'a>(value: &'a Value, kind: &str) -> Option<&'a str> {
    let conditions = list(value, "/status/conditions").iter();
    let mut found = conditions.filter(|condition| condition.get("type").is_some_and(|found| found == kind));
    found.next()?.get("status")?.as_str()
}
