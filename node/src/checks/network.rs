// SPDX-License-Identifier: Apache-2.0
//! The node's CNI chain: our list first and our plugin last in it, and other meshes that are in a chain too.

use std::collections::BTreeMap;

use finding::Finding;
use serde_json::Value;

use crate::{
    chain::Chain,
    conflist::{self, PLUGIN},
    install::{Inspected, Installation},
};

const ORDER: &str = "CNI order";
const MESH: &str = "second mesh";
pub(super) const SOCKET_LB: &str = "socket LB";
pub(super) const CHECKS: [&str; 3] = [ORDER, MESH, SOCKET_LB];

/// Plugins of other meshes, by what a chain calls them.
const MESHES: [(&str, &str); 4] =
    [("istio-cni", "Istio"), ("linkerd-cni", "Linkerd"), ("kuma-cni", "Kuma"), ("consul-cni", "Consul")];

/// Looks into the folders.
pub(super) fn look(installation: &Installation, revision: Option<&str>) -> Vec<Finding> {
    match installation.inspect() {
        Ok(inspected) => vec![order(&inspected), meshes(&inspected.files, revision)],
        Err(error) => {
            let fix = "give the agent the node's CNI folders (node.cni.configurations, node.cni.plugins)";
            vec![Finding::failure(ORDER, Chain(&error).to_string(), fix)]
        }
    }
}

fn order(Inspected { plan, files, has_plugin }: &Inspected) -> Finding {
    let again = "the agent puts it right within a second: somebody undoes it if this stays, see its log";
    let Some((name, text)) = &plan.own else {
        let problems = plan.problems.join("; ");
        let found = if problems.is_empty() { "the node has no network yet".to_owned() } else { problems };
        return Finding::failure(ORDER, found, "install the cluster's network, or mend its configuration");
    };
    if !has_plugin {
        return Finding::failure(ORDER, format!("{PLUGIN} is not in the folder of plugins"), again);
    }
    let first = files.keys().find(|name| conflist::is_configuration(name));
    if first.map(String::as_str) != Some(*name) {
        let found = format!("the runtime uses {}, past us", first.map_or("nothing", String::as_str));
        return Finding::failure(ORDER, found, again);
    }
    if files.get(*name).map(Vec::as_slice) != Some(text.as_bytes()) {
        let types = files.get(*name).map(|bytes| plugins(bytes)).unwrap_or_default();
        let found = match types.last().map(String::as_str) {
            Some(PLUGIN) => format!("{name} is not what the primary network's list says now"),
            _ => format!("{PLUGIN} is not the last plugin of {name}: {}", types.join(", ")),
        };
        return Finding::failure(ORDER, found, again);
    }
    let primary = plan.primary.as_deref().unwrap_or_default();
    Finding::ok(ORDER, format!("{name} comes first and has {PLUGIN} last, behind the plugins of {primary}"))
}

fn meshes(files: &BTreeMap<String, Vec<u8>>, revision: Option<&str>) -> Finding {
    let mut found = Vec::new();
    for (name, bytes) in files {
        let plugins = plugins(bytes);
        let there = MESHES.iter().filter(|(plugin, _)| plugins.iter().any(|found| found == plugin));
        found.extend(there.map(|(plugin, owner)| (*owner, format!("{owner}'s {plugin} in {name}"))));
    }
    let text = found.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ");
    let istio = found.iter().any(|(owner, _)| *owner == "Istio");
    match (found.is_empty(), istio, revision) {
        (true, ..) => Finding::ok(MESH, "no other mesh in the CNI chain"),
        (false, true, None) => Finding::failure(
            MESH,
            format!("{text}: it reads the same labels, and each pod has one owner"),
            "install with --set global.revision=ambit (docs/interop.md), or remove Istio's CNI plugin",
        ),
        (false, true, Some(revision)) => {
            Finding::ok(MESH, format!("{text}; ours are only pods of istio.io/rev={revision}"))
        }
        (false, false, _) => {
            Finding::warning(MESH, text, "keep its injection off in namespaces that are to be in this mesh")
        }
    }
}

/// Types of a configuration's plugins, in their order.
fn plugins(bytes: &[u8]) -> Vec<String> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let kind = |plugin: &Value| plugin.get("type").and_then(Value::as_str).map(str::to_owned);
    match value.get("plugins").and_then(Value::as_array) {
        Some(list) => list.iter().filter_map(kind).collect(),
        None => kind(&value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use finding::Grade;

    use super::*;
    use crate::conflist::PluginSettings;

    const PRIMARY: &str = r#"{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}"#;

    fn inspected(files: &[(&str, &str)]) -> Inspected {
        let settings = PluginSettings { socket: "/s".to_owned(), pass_without_agent: Vec::new() };
        let files: BTreeMap<String, Vec<u8>> =
            files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        Inspected { plan: conflist::plan(&files, &settings), files, has_plugin: true }
    }

    fn check(inspected: &Inspected, grade: Grade, word: &str) {
        let finding = order(inspected);
        assert!(finding.grade == grade && finding.found.contains(word), "{finding:?}");
    }

    #[test]
    fn our_list_comes_first_and_our_plugin_last_or_it_is_said() {
        let bare = inspected(&[("10-net.conflist", PRIMARY)]);
        check(&bare, Grade::Failure, "the runtime uses 10-net.conflist, past us");
        let own = bare.plan.own.clone().unwrap().1;
        let mut good = inspected(&[("00-ambit.conflist", &own), ("10-net.conflist", PRIMARY)]);
        check(&good, Grade::Ok, "behind the plugins of 10-net.conflist");
        good.has_plugin = false;
        check(&good, Grade::Failure, "ambit-cni is not in the folder");
        let behind = own.replace("ambit-cni", "another");
        check(
            &inspected(&[("00-ambit.conflist", &behind), ("10-net.conflist", PRIMARY)]),
            Grade::Failure,
            "not the last",
        );
        check(&inspected(&[]), Grade::Failure, "no network yet");
    }

    #[test]
    fn another_mesh_in_the_chain_is_named() {
        let chain = |plugin: &str| {
            PRIMARY.replace(r#"{"type":"bridge"}"#, &format!(r#"{{"type":"bridge"}},{{"type":"{plugin}"}}"#))
        };
        for (plugin, revision, grade) in [
            ("portmap", None, Grade::Ok),
            ("istio-cni", None, Grade::Failure),
            ("istio-cni", Some("ambit"), Grade::Ok),
            ("linkerd-cni", None, Grade::Warning),
        ] {
            let finding = meshes(&inspected(&[("10-net.conflist", &chain(plugin))]).files, revision);
            assert_eq!(finding.grade, grade, "{finding:?}");
        }
    }
}
