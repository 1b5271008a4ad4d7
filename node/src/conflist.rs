// SPDX-License-Identifier: Apache-2.0
//! The CNI configuration that a node should have: the list of its primary network with our plugin at the end, under a
//! name that sorts before all others, because a runtime uses the first one. The primary's own file stays as it is, so
//! its owner may replace it at any time, and after a reboot ours is in force before any agent runs. Pure: the content of
//! the folder in, the content that ours should have out.

use std::collections::BTreeMap;

use cni::VERSIONS;
use serde_json::{Map, Value, json};

/// File name of our plugin, and its `type`.
pub const PLUGIN: &str = "ambit-cni";
/// Names of our list, the usual one first; the others for a node whose primary sorts before it.
const OWN: [&str; 3] = ["00-ambit.conflist", "0-ambit.conflist", "!-ambit.conflist"];
/// What runtimes load.
const SUFFIXES: [&str; 3] = [".conflist", ".conf", ".json"];

/// The settings of our plugin, on every node alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginSettings {
    /// Where it finds the agent.
    pub socket: String,
    /// Namespaces whose pods start although no agent answers.
    pub pass_without_agent: Vec<String>,
}

/// What the folder should have of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Our list: its name and text; none where there is nothing to add our plugin to.
    pub own: Option<(&'static str, String)>,
    /// File of the primary network that it continues.
    pub primary: Option<String>,
    /// Files of ours that are there and should not be.
    pub stale: Vec<&'static str>,
    /// What is wrong with other files, each with its name and the fix.
    pub problems: Vec<String>,
}

/// Whether a runtime would load a file of this name.
pub fn is_configuration(name: &str) -> bool {
    SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Whether a file of this name is ours.
pub fn is_own(name: &str) -> bool {
    OWN.contains(&name)
}

/// What the folder should have of ours, from what is in it.
pub fn plan(files: &BTreeMap<String, Vec<u8>>, settings: &PluginSettings) -> Plan {
    let mut problems = Vec::new();
    let others = files.iter().filter(|(name, _)| is_configuration(name) && !is_own(name));
    let mut primary = None;
    for (name, bytes) in others.clone() {
        match list(name, bytes) {
            Ok(list) if is_loopback(&list) => {}
            Ok(list) => {
                primary = Some((name.clone(), list));
                break;
            }
            Err(problem) => problems.push(format!("{name}: {problem}")),
        }
    }
    let first = others.map(|(name, _)| name.as_str()).next();
    let own = primary.as_ref().and_then(|(name, list)| match own_name(first) {
        Some(own) => Some((own, extended(list.clone(), settings))),
        None => {
            problems.push(format!(
                "{name}: sorts before every name that ours can have; rename it so that it begins with a digit"
            ));
            None
        }
    });
    let stale = match &own {
        Some((keep, _)) => OWN.into_iter().filter(|name| name != keep && files.contains_key(*name)).collect(),
        // A primary that is away or half written comes back, and until then no pod may start past us.
        None => Vec::new(),
    };
    Plan { own, primary: primary.map(|(name, _)| name), stale, problems }
}

fn own_name(first_other: Option<&str>) -> Option<&'static str> {
    OWN.into_iter().find(|own| first_other.is_none_or(|other| *own < other))
}

/// A file as a list: a single configuration becomes the list that a runtime makes of it.
fn list(name: &str, bytes: &[u8]) -> Result<Map<String, Value>, String> {
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| format!("is not JSON, as runtimes see it too: {error}"))?;
    let Value::Object(object) = value else { return Err("is not a JSON object".to_owned()) };
    let list = if name.ends_with(".conflist") { object } else { of_single(object)? };
    let plugins = list.get("plugins").and_then(Value::as_array).filter(|plugins| !plugins.is_empty());
    let plugins = plugins.ok_or("plugins: is not a list with at least one plugin")?;
    if plugins.iter().any(|plugin| type_of(plugin).is_none()) {
        return Err("plugins[].type: is not a name in every plugin".to_owned());
    }
    if list.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("name: is absent".to_owned());
    }
    let version = list.get("cniVersion").and_then(Value::as_str).unwrap_or_default();
    if !VERSIONS.contains(&version) {
        return Err(format!("cniVersion: {version:?} cannot be chained; set one of {}", VERSIONS.join(", ")));
    }
    Ok(list)
}

fn of_single(object: Map<String, Value>) -> Result<Map<String, Value>, String> {
    if object.get("type").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err("type: is absent; a file with a list of plugins is called .conflist".to_owned());
    }
    let mut list = Map::new();
    for key in ["cniVersion", "name"] {
        if let Some(value) = object.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), Value::Array(vec![Value::Object(object)]));
    Ok(list)
}

fn type_of(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str).filter(|name| !name.is_empty())
}

/// Runtimes make loopback themselves; a list of only that is nobody's network.
fn is_loopback(list: &Map<String, Value>) -> bool {
    let plugins = list.get("plugins").and_then(Value::as_array);
    plugins.into_iter().flatten().all(|plugin| type_of(plugin) == Some("loopback"))
}

/// The primary's list with our plugin as its last, and only once.
fn extended(mut list: Map<String, Value>, settings: &PluginSettings) -> String {
    if let Some(plugins) = list.get_mut("plugins").and_then(Value::as_array_mut) {
        plugins.retain(|plugin| type_of(plugin) != Some(PLUGIN));
        plugins.push(json!({
            "type": PLUGIN,
            "socket": settings.socket,
            "passWithoutAgent": settings.pass_without_agent,
        }));
    }
    format!("{:#}\n", Value::Object(list))
}

#[cfg(test)]
mod tests;
