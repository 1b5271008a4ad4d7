// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask crds`: the structure of the chart's definitions of Istio's kinds beside that of Istio's own. Structure is
//! what an object may look like: names, versions, columns, paths of fields, types, enums, what is required. Descriptions,
//! bounds and rules are not compared: they are written anew here, and the API server judges by ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::step::{root, say};

/// Where ours are.
const OWN: &str = "charts/base/files/crds";

/// Compare the chart's definitions of Istio's kinds with Istio's.
#[derive(Args)]
pub(crate) struct Crds {
    /// Istio's definitions: `kubernetes/customresourcedefinitions.gen.yaml` of github.com/istio/api.
    #[arg(long)]
    upstream: PathBuf,
}

/// Facts by place: `v1 spec.rules[].when[].key type` → `string`.
type Facts = BTreeMap<String, String>;

impl Crds {
    pub(crate) fn run(&self) -> Result<()> {
        let upstream = definitions(&self.upstream)?;
        let mut differences = Vec::new();
        let own = own()?;
        for (name, facts) in &own {
            match upstream.get(name) {
                Some(theirs) => {
                    differences.extend(differ(theirs, facts).map(|line| format!("{name}: {line}")))
                }
                None => differences.push(format!("{name}: upstream has no such kind")),
            }
            say(format!("   {name}: {} facts compared", facts.len()));
        }
        for difference in &differences {
            say(format!("   {difference}"));
        }
        ensure!(differences.is_empty(), "{} differences", differences.len());
        Ok(())
    }
}

fn own() -> Result<BTreeMap<String, Facts>> {
    let folder = root().join(OWN);
    let mut own = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        own.extend(definitions(&entry?.path())?);
    }
    ensure!(!own.is_empty(), "{} has no definitions", folder.display());
    Ok(own)
}

/// Every definition of a file, by name.
fn definitions(path: &Path) -> Result<BTreeMap<String, Facts>> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: 5_000_000, max_events: 20_000_000 },
    };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(&text, options)
        .with_context(|| format!("{} is not YAML", path.display()))?;
    Ok(documents.iter().filter(|document| !document.is_null()).map(definition).collect())
}

fn definition(definition: &Value) -> (String, Facts) {
    let mut facts = Facts::new();
    let spec = &definition["spec"];
    note(&mut facts, "", "group", &spec["group"]);
    note(&mut facts, "", "scope", &spec["scope"]);
    for name in ["kind", "listKind", "plural", "singular", "shortNames", "categories"] {
        note(&mut facts, "names", name, &spec["names"][name]);
    }
    for version in items(&spec["versions"]) {
        let name = text(&version["name"]);
        for fact in ["served", "storage", "subresources", "deprecated"] {
            note(&mut facts, &name, fact, &version[fact]);
        }
        for column in items(&version["additionalPrinterColumns"]) {
            let place = format!("{name} column {}", text(&column["name"]));
            note(&mut facts, &place, "type", &column["type"]);
            note(&mut facts, &place, "jsonPath", &column["jsonPath"]);
        }
        schema(&mut facts, &format!("{name} "), &version["schema"]["openAPIV3Schema"]);
    }
    (text(&definition["metadata"]["name"]), facts)
}

/// A field and everything in it.
fn schema(facts: &mut Facts, place: &str, field: &Value) {
    const PLAIN: [&str; 4] =
        ["type", "format", "x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"];
    const LISTS: [&str; 4] = ["enum", "required", "x-kubernetes-list-type", "x-kubernetes-list-map-keys"];
    for fact in PLAIN.into_iter().chain(LISTS) {
        note(facts, place, fact, &field[fact]);
    }
    for (name, inner) in field["properties"].as_object().into_iter().flatten() {
        let dot = if place.ends_with(' ') { "" } else { "." };
        schema(facts, &format!("{place}{dot}{name}"), inner);
    }
    for (part, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if field[part].is_object() {
            schema(facts, &format!("{place}{mark}"), &field[part]);
        }
    }
}

/// Notes a fact that is there; the order of a list says nothing.
fn note(facts: &mut Facts, place: &str, fact: &str, value: &Value) {
    let said = match value {
        Value::Null => return,
        Value::Array(values) => {
            let sorted: BTreeSet<String> = values.iter().map(text).collect();
            sorted.into_iter().collect::<Vec<_>>().join(", ")
        }
        value => text(value),
    };
    facts.insert(format!("{place} {fact}").trim_start().to_owned(), said);
}

fn differ<'a>(theirs: &'a Facts, ours: &'a Facts) -> impl Iterator<Item = String> + 'a {
    let places: BTreeSet<&String> = theirs.keys().chain(ours.keys()).collect();
    places.into_iter().filter_map(|place| match (theirs.get(place), ours.get(place)) {
        (Some(theirs), Some(ours)) if theirs == ours => None,
        (Some(theirs), Some(ours)) => Some(format!("{place} is {ours}, and upstream {theirs}")),
        (Some(theirs), None) => Some(format!("{place} is missing, upstream it is {theirs}")),
        (None, Some(ours)) => Some(format!("{place} is {ours}, and upstream has none")),
        (None, None) => None,
    })
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(field: &Value) -> Facts {
        let mut facts = Facts::new();
        schema(&mut facts, "v1 ", field);
        facts
    }

    #[test]
    fn a_difference_names_the_field_and_both_sides() {
        let theirs = facts(&json!({"type": "object", "required": ["a", "b"], "properties": {
            "a": {"type": "array", "items": {"type": "string", "enum": ["X", "Y"], "description": "theirs"}},
            "b": {"type": "object", "additionalProperties": {"type": "integer"}},
        }}));
        let ours = facts(&json!({"type": "object", "required": ["b", "a"], "properties": {
            "a": {"type": "array", "items": {"type": "string", "enum": ["Y"], "description": "ours"}},
            "c": {"type": "string"},
        }}));
        let found: Vec<_> = differ(&theirs, &ours).collect();
        let expected = [
            "v1 a[] enum is Y, and upstream X, Y",
            "v1 b type is missing, upstream it is object",
            "v1 b{} type is missing, upstream it is integer",
            "v1 c type is string, and upstream has none",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn our_own_definitions_can_be_read() {
        let own = own().unwrap();
        assert_eq!(own.len(), 7);
        assert_eq!(own["authorizationpolicies.security.istio.io"]["v1 spec.action type"], "string");
    }
}
