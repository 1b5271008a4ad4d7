// SPDX-License-Identifier: Apache-2.0
//! Which package may import which. The list is complete: a package that is not in it may import nothing of ours.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Breach;
use crate::step::output;

/// Allowed arrows, test dependencies included.
const ARROWS: &[(&str, &[&str])] = &[
    ("mesh", &[]),
    ("plan", &["mesh"]),
    ("proto", &[]),
    ("xds", &["proto", "mesh"]),
    ("identity", &["proto", "mesh"]),
    ("hbone", &[]),
    ("runtime", &[]),
    ("kubernetes", &[]),
    ("membership", &[]),
    ("finding", &[]),
    ("cni", &[]),
    ("pages", &[]),
    ("proxy", &["hbone", "plan", "xds", "identity", "runtime", "mesh", "pages"]),
    ("ztunnel", &["proxy", "hbone", "plan", "xds", "identity", "runtime", "mesh", "proto", "ebpf-claim"]),
    ("waypoint", &["proxy", "hbone", "plan", "xds", "identity", "runtime", "mesh", "proto"]),
    ("control", &["plan", "xds", "identity", "runtime", "mesh", "kubernetes"]),
    ("node", &["ebpf-loader", "proto", "runtime", "kubernetes", "membership", "finding", "cni"]),
    ("cli", &["kubernetes", "membership", "finding"]),
    ("ebpf-abi", &[]),
    ("ebpf-loader", &["ebpf-abi"]),
    ("ebpf-claim", &["ebpf-abi"]),
    ("hot", &["hbone", "plan", "mesh"]),
    ("xtask", &["lab", "proto"]),
    ("lab", &[]),
    (
        "fuzz",
        &[
            "ztunnel", "waypoint", "control", "node", "proxy", "hbone", "plan", "xds", "identity", "mesh",
            "proto",
        ],
    ),
];

/// What the scenarios may import besides: everything but the binaries, which they start by path.
const SCENARIOS: &[&str] = &[
    "mesh",
    "plan",
    "proto",
    "xds",
    "identity",
    "hbone",
    "runtime",
    "ebpf-abi",
    "ebpf-loader",
    "ebpf-claim",
];

/// Packages that decide and never do: no runtime, network, clock, randomness or wire format.
const PURE: &[&str] = &["mesh", "plan", "membership", "finding"];
const IMPURE: &[&str] = &[
    "futures-util",
    "h2",
    "hyper",
    "hyper-util",
    "kube",
    "metrics",
    "nix",
    "prost",
    "rand",
    "rustls",
    "socket2",
    "tokio",
    "tokio-util",
    "tonic",
    "tower",
    "tracing",
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev`, `build`, or none for an ordinary one.
    kind: Option<String>,
    /// Set when it is one of ours.
    path: Option<String>,
}

/// Every arrow that the list does not have.
pub(super) fn breaches() -> Result<Vec<Breach>> {
    let text = output("cargo", &["metadata", "--format-version", "1", "--no-deps", "--offline"])?;
    let metadata: Metadata = serde_json::from_str(&text).context("reading cargo's metadata")?;
    Ok(metadata.packages.iter().flat_map(of_package).collect())
}

fn of_package(package: &Package) -> Vec<Breach> {
    let name = package.name.as_str();
    let allowed = ARROWS.iter().find(|(from, _)| *from == name).map(|(_, to)| *to);
    let mut breaches = Vec::new();
    if allowed.is_none() {
        breaches.push(Breach::new(name, "the list of arrows does not have this package"));
    }
    let allowed: BTreeSet<&str> = allowed.into_iter().flatten().copied().collect();
    for dependency in &package.dependencies {
        let to = dependency.name.as_str();
        let scenario = name == "lab" && dependency.kind.as_deref() == Some("dev") && SCENARIOS.contains(&to);
        if dependency.path.is_some() && !allowed.contains(to) && !scenario {
            breaches.push(Breach::new(name, format!("must not import {to}")));
        }
        let ordinary = dependency.kind.is_none();
        if ordinary && PURE.contains(&name) && IMPURE.contains(&to) {
            breaches.push(Breach::new(name, format!("is pure and must not import {to}")));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dependency(name: &str, kind: Option<&str>, ours: bool) -> Dependency {
        Dependency {
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            path: ours.then(|| "/somewhere".to_owned()),
        }
    }

    #[test]
    fn an_arrow_outside_the_list_is_a_breach() {
        for (from, to, expected) in [
            ("plan", dependency("mesh", None, true), 0),
            ("mesh", dependency("plan", None, true), 1),
            ("mesh", dependency("plan", Some("dev"), true), 1),
            ("mesh", dependency("tokio", None, false), 1),
            ("mesh", dependency("arcstr", None, false), 0),
            ("hbone", dependency("tokio", None, false), 0),
            ("lab", dependency("hbone", Some("dev"), true), 0),
            ("lab", dependency("hbone", None, true), 1),
            ("lab", dependency("ztunnel", Some("dev"), true), 1),
            ("unheard-of", dependency("arcstr", None, false), 1),
        ] {
            let to_name = to.name.clone();
            let package = Package { name: from.to_owned(), dependencies: vec![to] };
            assert_eq!(of_package(&package).len(), expected, "{from} to {to_name}");
        }
    }
}
