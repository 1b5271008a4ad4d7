// SPDX-License-Identifier: Apache-2.0
//! Overlays: pieces of objects that are laid over what control would deploy, by the rules of a strategic merge. Lists whose
//! elements have a name of their own are merged by it, all others are replaced; `null` removes a field.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Fault, PartKind};

/// What tells a list's elements from each other; `$patch` is an instruction.
const PATCH: &str = "$patch";
/// What would be no waypoint of the Gateway any more.
const FIXED: [&str; 6] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/ownerReferences",
    "/spec/selector",
];

/// A ConfigMap with overlays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Namespace and name.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) data: BTreeMap<String, String>,
}

/// Overlays in the order in which they are laid: those of the class, then those of the Gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Overlays(pub(crate) Vec<Source>);

impl Overlays {
    /// Whether all of them can be read.
    pub(super) fn check(&self) -> Result<(), Fault> {
        for source in &self.0 {
            let known = |key: &str| PartKind::ALL.iter().any(|kind| kind.key() == key);
            if let Some(key) = source.data.keys().find(|key| !known(key)) {
                let keys = PartKind::ALL.map(PartKind::key).join(", ");
                return Err(source.fault(key, "", format!("is not one of {keys}")));
            }
            for kind in PartKind::ALL {
                if let Some(overlay) = source.overlay(kind)? {
                    source.check(kind, &overlay)?;
                }
            }
        }
        Ok(())
    }

    /// Whether there is one for a kind.
    pub(super) fn has(&self, kind: PartKind) -> bool {
        self.0.iter().any(|source| source.data.contains_key(kind.key()))
    }

    /// What the last of them says of a field.
    pub(super) fn pointer(&self, kind: PartKind, pointer: &str) -> Result<Option<Value>, Fault> {
        let mut found = None;
        for source in &self.0 {
            let overlay = source.overlay(kind)?;
            found = overlay.as_ref().and_then(|overlay| overlay.pointer(pointer)).cloned().or(found);
        }
        Ok(found.filter(|value| !value.is_null()))
    }

    /// Lays all of them over an object.
    pub(super) fn lay_over(&self, kind: PartKind, object: &mut Value) -> Result<(), Fault> {
        for source in &self.0 {
            if let Some(overlay) = source.overlay(kind)? {
                merge(object, overlay, &kind.key().into())
                    .map_err(|(field, message)| source.fault(kind.key(), &field, message))?;
            }
        }
        Ok(())
    }

    /// Where a key was said last, for faults that only the API server finds.
    pub(crate) fn place(&self, kind: PartKind) -> Option<String> {
        let source = self.0.iter().rev().find(|source| source.data.contains_key(kind.key()))?;
        Some(format!("ConfigMap {} key {}", source.name, kind.key()))
    }
}

impl Source {
    fn overlay(&self, kind: PartKind) -> Result<Option<Value>, Fault> {
        let Some(text) = self.data.get(kind.key()) else { return Ok(None) };
        let read: Value = serde_saphyr::from_str(text)
            .map_err(|error| self.fault(kind.key(), "", format!("is not YAML: {error}")))?;
        match read {
            Value::Null => Ok(None),
            Value::Object(_) => Ok(Some(read)),
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                Err(self.fault(kind.key(), "", format!("is not a piece of a {}", kind.as_str())))
            }
        }
    }

    fn check(&self, kind: PartKind, overlay: &Value) -> Result<(), Fault> {
        for pointer in FIXED {
            let Some(found) = overlay.pointer(pointer) else { continue };
            let expected = match pointer {
                "/apiVersion" => Some(kind.api_version()),
                "/kind" => Some(kind.as_str()),
                _ => None,
            };
            if expected.is_none_or(|expected| found != expected) {
                let field = pointer.trim_start_matches('/').replace('/', ".");
                return Err(self.fault(kind.key(), &field, "cannot be another one".to_owned()));
            }
        }
        Ok(())
    }

    fn fault(&self, key: &str, field: &str, message: String) -> Fault {
        let field = if field.is_empty() { String::new() } else { format!(" field {field}") };
        Fault { place: format!("ConfigMap {} key {key}{field}", self.name), message }
    }
}

/// A field by its way from the object.
struct Path<'a> {
    above: Option<&'a Self>,
    name: String,
}

impl From<&str> for Path<'_> {
    fn from(name: &str) -> Self {
        Self { above: None, name: name.to_owned() }
    }
}

impl Path<'_> {
    fn below<'a>(&'a self, name: impl Into<String>) -> Path<'a> {
        Path { above: Some(self), name: name.into() }
    }

    /// Without the object itself.
    fn text(&self) -> String {
        match self.above {
            None => String::new(),
            Some(above) => {
                let above = above.text();
                if above.is_empty() || self.name.starts_with('[') {
                    format!("{above}{}", self.name)
                } else {
                    format!("{above}.{}", self.name)
                }
            }
        }
    }
}

type Wrong = (String, String);

fn merge(base: &mut Value, overlay: Value, path: &Path<'_>) -> Result<(), Wrong> {
    match (base, overlay) {
        (Value::Object(base), Value::Object(overlay)) => fields(base, overlay, path),
        (Value::Array(base), Value::Array(overlay)) => elements(base, overlay, path),
        (Value::Object(_), _) => Err((path.text(), "is an object".to_owned())),
        (Value::Array(_), _) => Err((path.text(), "is a list".to_owned())),
        (base, overlay) => {
            *base = overlay;
            Ok(())
        }
    }
}

fn fields(
    base: &mut Map<String, Value>,
    mut overlay: Map<String, Value>,
    path: &Path<'_>,
) -> Result<(), Wrong> {
    match overlay.remove(PATCH).as_ref().map(|word| word.as_str()) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => base.clear(),
        Some(_) => return Err((path.below(PATCH).text(), "is neither merge nor replace".to_owned())),
    }
    for (name, value) in overlay {
        let path = path.below(name.clone());
        match base.get_mut(&name) {
            _ if value.is_null() => drop(base.remove(&name)),
            Some(field) if !field.is_null() => merge(field, value, &path)?,
            Some(_) | None => drop(base.insert(name, value)),
        }
    }
    Ok(())
}

fn elements(base: &mut Vec<Value>, overlay: Vec<Value>, path: &Path<'_>) -> Result<(), Wrong> {
    let Some(key) = merge_key(&path.name, &base.iter().chain(&overlay).collect::<Vec<_>>()) else {
        *base = overlay;
        return Ok(());
    };
    let is_instruction = |element: &Value| {
        element.as_object().is_some_and(|fields| {
            fields.len() == 1 && fields.get(PATCH).is_some_and(|word| word == "replace")
        })
    };
    if overlay.iter().any(is_instruction) {
        *base = overlay.into_iter().filter(|element| !is_instruction(element)).collect();
        return Ok(());
    }
    for (index, mut element) in overlay.into_iter().enumerate() {
        let path = path.below(format!("[{index}]"));
        let Some(name) = element.get(key).cloned() else {
            return Err((path.text(), format!("has no {key}, by which it is told from others")));
        };
        let at = base.iter().position(|other| other.get(key) == Some(&name));
        if element.get(PATCH).is_some_and(|word| word == "delete") {
            at.map(|at| base.remove(at));
            continue;
        }
        match at.and_then(|at| base.get_mut(at)) {
            Some(other) => merge(other, element.take(), &path)?,
            None => base.push(element),
        }
    }
    Ok(())
}

/// The field by which elements of a list are told from each other; without one the list is replaced.
fn merge_key(list: &str, elements: &[&Value]) -> Option<&'static str> {
    match list {
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" | "secrets" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "volumeDevices" => Some("devicePath"),
        "topologySpreadConstraints" => Some("topologyKey"),
        "hostAliases" => Some("ip"),
        "ports" if elements.iter().any(|port| port.get("containerPort").is_some()) => Some("containerPort"),
        "ports" => Some("port"),
        _ => None,
    }
}
