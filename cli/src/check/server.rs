// SPDX-License-Identifier: Apache-2.0
//! The API server, what this user may do, and the nodes: what an installation needs.

use finding::Finding;
use kubernetes::{Api, Resource, Within};
use serde_json::{Value, json};

use crate::{
    facts::{Facts, Node},
    gather::at_once,
    kinds,
    output::{count, some},
};

/// The node of a token is said since this version.
const OLDEST: (u32, u32) = (1, 30);
/// What capture needs at least.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// tcx, which nothing in a pod can take away.
const TCX: (u32, u32) = (6, 6);
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
const REVIEWS: Resource = Resource::new("authorization.k8s.io", "v1", "selfsubjectaccessreviews");
/// What the chart makes: verb, group, resource. For roles also `escalate`, for bindings `bind`, or what the new role allows.
const NEEDED: [(&str, &str); 16] = [
    ("", "namespaces"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("", "configmaps"),
    ("", "secrets"),
    ("apps", "deployments"),
    ("apps", "daemonsets"),
    ("batch", "jobs"),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "networkpolicies"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
];
const RELEASE: &str = "meta.helm.sh/release-name";

/// What this user may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Permission {
    pub(crate) group: &'static str,
    pub(crate) resource: &'static str,
    /// The answer, or why there is none.
    pub(crate) allowed: Result<bool, String>,
}

/// Asks for every permission that an installation needs.
pub(super) async fn permissions(api: &Api) -> Vec<Permission> {
    let asking = NEEDED.iter().map(|(group, resource)| async move {
        let attributes = json!({"verb": "create", "group": group, "resource": resource});
        let question = json!({
            "apiVersion": REVIEWS.api_version(), "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let answer = api.create::<Value>(&REVIEWS.path(&Within::Cluster), &question).await;
        let allowed = answer
            .map(|answer| answer.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default())
            .map_err(|error| error.to_string());
        Permission { group, resource, allowed }
    });
    at_once(asking).await
}

pub(super) fn version(facts: &Facts) -> Vec<Finding> {
    let server = &facts.server;
    let found = format!("{} answers", server.version);
    if (server.major, server.minor) >= OLDEST {
        return vec![Finding::ok("API server", found)];
    }
    let (major, minor) = OLDEST;
    vec![Finding::failure(
        "API server",
        format!(
            "{}, and {major}.{minor} or later is needed: earlier tokens do not say their node",
            server.version
        ),
        "upgrade the control plane of the cluster",
    )]
}

pub(super) fn allowed(permissions: &[Permission]) -> Vec<Finding> {
    let mut names: Vec<String> = Vec::new();
    let mut findings = Vec::new();
    for Permission { group, resource, allowed } in permissions {
        let name = if group.is_empty() { (*resource).to_owned() } else { format!("{resource}.{group}") };
        match allowed {
            Ok(true) => {}
            Ok(false) => names.push(name),
            Err(error) => findings.push(Finding::warning(
                "permissions",
                format!("whether {name} may be created is not known: {error}"),
                "try again, or go on: helm says what it may not do",
            )),
        }
    }
    names.sort();
    if !names.is_empty() {
        findings.push(Finding::failure(
            "permissions",
            format!("this user may not create {}", names.join(", ")),
            "install as a user with the role cluster-admin, or have one install it",
        ));
    } else if findings.is_empty() {
        findings.push(Finding::ok("permissions", "this user may make all that the chart has"));
    }
    findings
}

/// Definitions of another release are read as well as our own, but Helm does not take them over.
pub(super) fn definitions(facts: &Facts) -> Vec<Finding> {
    let names = kinds::ISTIO.iter().map(kinds::definition);
    let there: Vec<_> = names.filter_map(|name| facts.crds.get(&name).map(|crd| (name, crd))).collect();
    let foreign: Vec<String> = there
        .iter()
        .filter(|(_, crd)| crd.labels.get("app.kubernetes.io/part-of").is_none_or(|part| part != "ambit"))
        .map(|(name, crd)| {
            let owner = crd.annotations.get(RELEASE).map(|release| format!("helm release {release}"));
            format!("{name} ({})", owner.unwrap_or_else(|| "not by helm".to_owned()))
        })
        .collect();
    if !foreign.is_empty() {
        return vec![Finding::warning(
            "definitions",
            format!("somebody else has defined {}", some(&foreign)),
            "they serve as well: install with --set base.crds.install=false, or helm refuses to take them over",
        )];
    }
    let found = match there.len() {
        0 => "no kind of Istio's API is defined yet, the chart defines them".to_owned(),
        number => format!("{} of Istio's API defined by Ambit already", count(number, "kind")),
    };
    vec![Finding::ok("definitions", found)]
}

pub(super) fn nodes(facts: &Facts) -> Vec<Finding> {
    let (ours, foreign): (Vec<&Node>, Vec<&Node>) =
        facts.nodes.iter().partition(|node| node.system == "linux");
    let mut findings = kernels(&ours);
    let other = ours.iter().filter(|node| !ARCHITECTURES.contains(&node.architecture.as_str()));
    let other: Vec<String> = other.map(|node| format!("{} ({})", node.name, node.architecture)).collect();
    if !other.is_empty() {
        findings.push(Finding::failure(
            "architecture",
            format!("there are no images for {}", some(&other)),
            "keep the mesh off these nodes (nodeSelector), or build images for them",
        ));
    }
    if !foreign.is_empty() {
        let foreign: Vec<String> =
            foreign.iter().map(|node| format!("{} ({})", node.name, node.system)).collect();
        let found = format!("no Linux, so outside the mesh: {}", some(&foreign));
        findings.push(Finding::warning("nodes", found, "keep pods that need the mesh off these nodes"));
    }
    if facts.nodes.is_empty() {
        let found = "the cluster has no nodes that this user sees";
        findings.push(Finding::warning("nodes", found, "add nodes; until then no pod of the mesh runs"));
    }
    if findings.is_empty() {
        let text = format!("{}, each Linux 6.6 or later on amd64 or arm64", count(facts.nodes.len(), "node"));
        findings.push(Finding::ok("nodes", text));
    }
    findings
}

fn kernels(nodes: &[&Node]) -> Vec<Finding> {
    let (mut old, mut weak, mut unknown) = (Vec::new(), Vec::new(), Vec::new());
    for node in nodes {
        match kernel(&node.kernel) {
            Some(version) if version >= TCX => {}
            Some(version) if version >= OLDEST_KERNEL => {
                weak.push(format!("{} ({})", node.name, node.kernel));
            }
            Some(_) => old.push(format!("{} ({})", node.name, node.kernel)),
            None => unknown.push(format!("{} ({:?})", node.name, node.kernel)),
        }
    }
    let mut findings = Vec::new();
    if !old.is_empty() {
        findings.push(Finding::failure(
            "kernel",
            format!("older than 5.15: {}", some(&old)),
            "upgrade these nodes to an image with Linux 6.6 or later, or keep the mesh and its pods off them",
        ));
    }
    if !weak.is_empty() {
        findings.push(Finding::warning(
            "kernel",
            format!("older than 6.6, so that a pod with CAP_NET_ADMIN can leave the mesh: {}", some(&weak)),
            "upgrade these nodes to an image with Linux 6.6 or later, or give no pod that capability",
        ));
    }
    if !unknown.is_empty() {
        let found = format!("not to be told for {}", some(&unknown));
        findings.push(Finding::warning("kernel", found, "compare `uname -r` on these nodes with 6.6"));
    }
    findings
}

/// `6.8.0-31-generic`.
fn kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

pub(super) fn hidden(facts: &Facts) -> Vec<Finding> {
    let warn = |what: &String| {
        Finding::warning("looking", format!("not seen, so not checked: {what}"), "let this user list them")
    };
    facts.hidden.iter().map(warn).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_by_their_first_two_numbers() {
        for (text, version) in [
            ("6.6.0", Some((6, 6))),
            ("6.12.58+deb12-cloud-amd64", Some((6, 12))),
            ("5.15.0-1061-gke", Some((5, 15))),
            ("6.6", Some((6, 6))),
            ("", None),
            ("linux", None),
        ] {
            assert_eq!(kernel(text), version, "{text}");
        }
    }
}
