// SPDX-License-Identifier: Apache-2.0
//! The charts beside the programs that they run: the same version, one set of shared values, and no variable of the
//! environment that the program does not read.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Breach, sources};
use crate::step::root;

/// Parts that are programs, with the files that read their environment.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("control", &["control/src/config.rs"]),
    ("node", &["node/src/config.rs"]),
    ("ztunnel", &["ztunnel/src/config.rs", "crates/proxy/src/settings.rs"]),
];
/// Where metrics are named, and how their names begin.
const SOURCES: [&str; 5] = ["control/src", "node", "ztunnel/src", "waypoint/src", "crates"];
const PREFIXES: [&str; 2] = ["ambit_", "istio_"];
const UMBRELLA: &str = "ambit";
const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn breaches() -> Result<Vec<Breach>> {
    let mut breaches = Vec::new();
    let shared = yaml(&format!("charts/{UMBRELLA}/values.yaml"))?;
    for chart in [UMBRELLA, "base"].into_iter().chain(PROGRAMS.map(|(chart, _)| chart)) {
        let place = format!("charts/{chart}/Chart.yaml");
        let about = yaml(&place)?;
        for field in ["version", "appVersion"] {
            if about[field] != VERSION {
                breaches.push(Breach::new(place.as_str(), format!("{field} is not {VERSION}")));
            }
        }
    }
    for (chart, config) in PROGRAMS {
        let place = format!("charts/{chart}/values.yaml");
        if yaml(&place)?["global"] != shared["global"] {
            breaches.push(Breach::new(place, format!("global is not that of charts/{UMBRELLA}/values.yaml")));
        }
        let place = format!("charts/{chart}/templates");
        let files = config.iter().map(|file| read(&root().join(file)));
        let config = files.collect::<Result<Vec<_>>>()?.join("\n");
        for name in variables(&root().join(&place))? {
            if !config.contains(&format!("\"{name}\"")) && !is_prefixed(&name, &config) {
                breaches.push(Breach::new(place.as_str(), format!("{chart} does not read {name}")));
            }
        }
    }
    breaches.extend(unknown_metrics()?);
    Ok(breaches)
}

/// Metrics in the dashboard and the alert rules that no program has.
fn unknown_metrics() -> Result<Vec<Breach>> {
    let mut files = Vec::new();
    for folder in SOURCES {
        sources::collect(&root().join(folder), &mut files)?;
    }
    let mut sources = String::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "rs")) {
        sources.push_str(&read(file)?);
    }
    let mut breaches = Vec::new();
    for file in ["alerts.yaml", "dashboard.json"] {
        let place = format!("charts/{UMBRELLA}/files/{file}");
        let text = read(&root().join(&place))?;
        let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let metrics = words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix)));
        for metric in metrics.collect::<BTreeSet<_>>() {
            // The parts of a histogram.
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|part| metric.strip_suffix(part));
            let is_named = |name: &str| sources.contains(&format!("\"{name}\""));
            if !is_named(metric) && !whole.is_some_and(is_named) {
                breaches.push(Breach::new(place.as_str(), format!("no program has the metric {metric}")));
            }
        }
    }
    Ok(breaches)
}

/// `XDS_ADDRESS` is read as `{which}_ADDRESS`.
fn is_prefixed(name: &str, config: &str) -> bool {
    name.split_once('_').is_some_and(|(which, rest)| {
        config.contains(&format!("\"{which}\")")) && config.contains(&format!("\"{{which}}_{rest}\""))
    })
}

/// Variables that templates set: keys of `$ours`, and names in lists.
fn variables(templates: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(templates).with_context(|| format!("reading {}", templates.display()))? {
        for line in read(&entry?.path())?.lines() {
            let line = line.trim();
            let key = line.strip_prefix('"').and_then(|rest| rest.split_once('"'));
            let item = line.strip_prefix("- {name: ").and_then(|rest| rest.split_once(','));
            let long = line.strip_prefix("- name: ").map(|name| (name, ""));
            let name = key.or(item).or(long).map(|(name, _)| name).unwrap_or_default();
            let upper = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            if !name.is_empty() && name.bytes().all(upper) {
                names.insert(name.to_owned());
            }
        }
    }
    Ok(names)
}

fn yaml(path: &str) -> Result<Value> {
    serde_saphyr::from_str(&read(&root().join(path))?).with_context(|| format!("{path} is not YAML"))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
