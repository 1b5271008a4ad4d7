// SPDX-License-Identifier: Apache-2.0
//! `ambit status`: what runs, who is in the mesh, who is not and why, and what is not honoured.

use std::collections::BTreeMap;

use clap::Args;
use jiff::Timestamp;
use kubernetes::{Api, Resource};
use membership::{objects::Phase, rules::Reason};
use serde::Serialize;

use crate::{
    arguments::To,
    exit::Outcome,
    facts::{Captured, Facts, Judged, Role},
    gather, kinds,
    output::{Table, show},
    reach, tree,
};

/// Kinds of the core whose conditions say what became of them, as those of Istio's kinds and of Gateways do.
const CORE: [Resource; 2] = [Resource::core("namespaces"), Resource::core("services")];

/// `ambit status`.
#[derive(Debug, Args)]
pub(crate) struct StatusCommand {}

#[derive(Debug, Serialize)]
struct Status {
    installed: bool,
    components: Vec<Component>,
    nodes: Vec<Node>,
    namespaces: Vec<Namespace>,
    objects: Vec<Trouble>,
    /// What could not be looked at.
    unseen: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Component {
    name: String,
    version: String,
    ready: u64,
    wanted: u64,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Node {
    name: String,
    ready: bool,
    /// Of the ztunnel there, if it answers.
    ztunnel: String,
    /// Pods that ztunnel serves.
    captured: usize,
    /// Pods that belong in the mesh.
    belong: usize,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Namespace {
    name: String,
    /// Captured.
    inside: usize,
    /// They should be, and are not, or nobody can tell.
    waiting: usize,
    outside: usize,
    /// How many are out for each reason.
    why: BTreeMap<String, usize>,
    #[serde(skip_serializing_if = "String::is_empty")]
    bypass: String,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Trouble {
    object: String,
    condition: String,
    message: String,
    /// Whether it is a failure. What is not the mesh's own is only shown, and so are groups of workloads, of which something
    /// is never honoured.
    #[serde(skip)]
    counts: bool,
}

impl StatusCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let api = reach::open(to).await?;
        let facts = gather::everything(&api, to.home()).await?;
        let mut status = status(&facts, Timestamp::now());
        status.objects = objects(&api, &facts).await;
        show(to.output, &status, table)?;
        let down = status.components.iter().any(|component| component.ready < component.wanted);
        let waiting = status.namespaces.iter().any(|namespace| namespace.waiting > 0);
        let refused = status.objects.iter().any(|trouble| trouble.counts);
        let wrong = !status.installed || down || waiting || refused;
        Ok(if wrong { Outcome::Wrong } else { Outcome::Well })
    }
}

/// For a report of a fault.
pub(crate) fn report(facts: &Facts, now: Timestamp) -> String {
    table(&status(facts, now))
}

fn status(facts: &Facts, now: Timestamp) -> Status {
    let judged = facts.judged(now);
    let silent = |(pod, why): (&String, &String)| format!("{pod}: {why}");
    let controls = facts.controls.iter().filter_map(|(pod, answer)| Some((pod, answer.as_ref().err()?)));
    let ztunnels = facts.ztunnels.iter().filter_map(|(pod, answer)| Some((pod, answer.as_ref().err()?)));
    Status {
        installed: facts.is_installed(),
        components: components(facts),
        nodes: nodes(facts, &judged),
        namespaces: namespaces(facts, &judged, now),
        objects: Vec::new(),
        unseen: facts.hidden.iter().cloned().chain(controls.chain(ztunnels).map(silent)).collect(),
    }
}

fn components(facts: &Facts) -> Vec<Component> {
    let parts = Role::ALL.iter().filter_map(|role| facts.part(*role));
    let component = |part: &crate::facts::Workload| Component {
        name: part.name.clone(),
        version: part.version(),
        ready: part.ready,
        wanted: part.wanted,
    };
    parts.map(component).collect()
}

fn nodes(facts: &Facts, judged: &[Judged<'_>]) -> Vec<Node> {
    let ztunnels = facts.pods_of(Role::Ztunnel);
    let node = |node: &crate::facts::Node| {
        let here = judged.iter().filter(|judged| judged.pod.node == node.name);
        let ztunnel = ztunnels.iter().find(|pod| pod.node == node.name);
        let ztunnel = match ztunnel.map(|pod| facts.ztunnels.get(&pod.object.name)) {
            Some(Some(Ok(dump))) => dump.version.version.clone(),
            Some(Some(Err(_)) | None) => "silent".to_owned(),
            None => "none".to_owned(),
        };
        Node {
            name: node.name.clone(),
            ready: node.ready,
            ztunnel,
            captured: here.clone().filter(|judged| judged.captured == Captured::Yes).count(),
            belong: here.filter(|judged| judged.out.is_none()).count(),
        }
    };
    facts.nodes.iter().map(node).collect()
}

/// Those that have a pod in the mesh, or that ask for it.
fn namespaces(facts: &Facts, judged: &[Judged<'_>], now: Timestamp) -> Vec<Namespace> {
    let mut found: BTreeMap<&str, Namespace> = BTreeMap::new();
    for judged in judged {
        let name = judged.pod.object.namespace.as_str();
        let namespace =
            found.entry(name).or_insert_with(|| Namespace { name: name.to_owned(), ..Namespace::default() });
        match (&judged.out, judged.captured) {
            (None, Captured::Yes) => namespace.inside += 1,
            // One that is only starting waits for nobody.
            (None, Captured::No | Captured::Unknown) if judged.pod.object.phase == Phase::Running => {
                namespace.waiting += 1
            }
            (None, Captured::No | Captured::Unknown) => {}
            (Some(reason), _) => {
                namespace.outside += 1;
                *namespace.why.entry(word(reason)).or_default() += 1;
            }
        }
    }
    for (name, namespace) in &facts.namespaces {
        let asks =
            namespace.object.labels.get("istio.io/dataplane-mode").is_some_and(|mode| mode == "ambient");
        if asks {
            found.entry(name).or_insert_with(|| Namespace { name: name.clone(), ..Namespace::default() });
        }
        if let Some((bypass, shown)) = namespace.object.bypass(now).zip(found.get_mut(name.as_str())) {
            shown.bypass = bypass.to_string();
        }
    }
    let counts = |namespace: &Namespace| {
        let asks = facts.namespaces.get(&namespace.name);
        let asks = asks.and_then(|found| found.object.labels.get("istio.io/dataplane-mode"));
        asks.is_some_and(|mode| mode == "ambient") || namespace.inside + namespace.waiting > 0
    };
    found.into_values().filter(counts).collect()
}

fn word(reason: &Reason) -> String {
    match reason {
        Reason::Terminated => "ended",
        Reason::HostNetwork => "node's network",
        Reason::Own => "the mesh's own",
        Reason::Excluded => "namespace excluded",
        Reason::Sidecar => "has a sidecar",
        Reason::OptedOut => "opted out",
        Reason::NotLabelled => "no label",
        Reason::OtherRevision { .. } => "another revision",
        Reason::Bypassed(_) => "bypassed",
    }
    .to_owned()
}

/// Objects that are not honoured, as control has written it.
async fn objects(api: &Api, facts: &Facts) -> Vec<Trouble> {
    let others = kinds::ISTIO.into_iter().chain([kinds::GATEWAYS]);
    let defined = others.filter(|kind| facts.crds.contains_key(&kinds::definition(kind)));
    let asked = CORE.into_iter().chain(defined);
    let lists = gather::at_once(asked.map(|kind| async move { (kind, gather::all(api, kind).await) })).await;
    let mut found = Vec::new();
    for (kind, list) in lists {
        for object in list.unwrap_or_default() {
            let (namespace, name) =
                (tree::text(&object, "/metadata/namespace"), tree::text(&object, "/metadata/name"));
            let within = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
            let object_name = format!("{}/{within}{name}", kind.plural);
            // Others say in their conditions what is no trouble of the mesh.
            let ours = |condition: &str| matches!(condition, "AmbitAccepted" | "ZtunnelAccepted");
            let counts = kind.group.starts_with("security.") || kind.plural.ends_with("entries");
            let wrong = gather::refused(&object).into_iter().filter(|(condition, _)| ours(condition));
            found.extend(wrong.map(|(condition, message)| Trouble {
                object: object_name.clone(),
                condition,
                message,
                counts,
            }));
        }
    }
    found.sort();
    found
}

fn table(status: &Status) -> String {
    if !status.installed {
        return "no mesh is installed in this namespace: ambit check, then ambit install\n".to_owned();
    }
    let mut components = Table::new(&["COMPONENT", "VERSION", "READY"]);
    for part in &status.components {
        components.row([part.name.clone(), part.version.clone(), format!("{}/{}", part.ready, part.wanted)]);
    }
    let mut nodes = Table::new(&["NODE", "READY", "ZTUNNEL", "PODS IN THE MESH", "CAPTURED"]);
    for node in &status.nodes {
        let ready = if node.ready { "yes" } else { "no" };
        let (belong, captured) = (node.belong.to_string(), node.captured.to_string());
        nodes.row([node.name.clone(), ready.to_owned(), node.ztunnel.clone(), belong, captured]);
    }
    let mut namespaces = Table::new(&["NAMESPACE", "IN", "WAITING", "OUT", "WHY OUT"]);
    for found in &status.namespaces {
        let why = found.why.iter().map(|(why, number)| format!("{number} {why}")).collect::<Vec<_>>();
        let why = if found.bypass.is_empty() { why.join(", ") } else { found.bypass.clone() };
        let counts = [found.inside, found.waiting, found.outside].map(|count| count.to_string());
        let [inside, waiting, outside] = counts;
        namespaces.row([found.name.clone(), inside, waiting, outside, why]);
    }
    let mut text = [
        components.text("no component"),
        nodes.text("no node"),
        namespaces.text(
            "no namespace is in the mesh: kubectl label namespace NAME istio.io/dataplane-mode=ambient",
        ),
    ]
    .join("\n");
    for trouble in &status.objects {
        text.push_str(&format!("\n{} {}=False: {}\n", trouble.object, trouble.condition, trouble.message));
    }
    for unseen in &status.unseen {
        text.push_str(&format!("\nnot seen: {unseen}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::fixtures::{self, now};

    #[test]
    fn pods_are_counted_by_node_and_namespace_and_who_is_out_has_a_reason() {
        let mut facts = fixtures::installed();
        let mut host = fixtures::pod("shop", "host", "node-a");
        host.object.host_network = true;
        facts.pods.extend([
            host,
            fixtures::pod("shop", "late", "node-a"),
            fixtures::pod("shop", "away", "node-b"),
        ]);
        let status = status(&facts, now());
        assert_eq!((status.nodes[0].belong, status.nodes[0].captured), (2, 1));
        let [shop] = status.namespaces.as_slice() else { panic!("{:?}", status.namespaces) };
        assert_eq!((shop.inside, shop.waiting, shop.outside), (1, 2, 1));
        assert_eq!(shop.why, [("node's network".to_owned(), 1)].into());
        assert!(table(&status).contains("1 node's network"));
    }

    #[test]
    fn a_bypassed_namespace_says_until_when() {
        let mut facts = fixtures::installed();
        facts.namespaces.insert("shop".to_owned(), fixtures::bypassed("2026-01-31T18:30:00Z"));
        let status = status(&facts, now());
        assert_eq!(status.namespaces[0].outside, 1);
        assert!(table(&status).contains("bypassed until 2026-01-31T18:30:00Z by eva"), "{}", table(&status));
    }

    #[test]
    fn without_a_mesh_it_says_how_to_get_one() {
        let status = status(&fixtures::empty(), now());
        assert!(!status.installed && table(&status).contains("ambit install"));
    }
}
