// SPDX-License-Identifier: Apache-2.0
//! `ambit version`: this program's, and what runs in the cluster.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;

use crate::{
    VERSION,
    arguments::To,
    exit::Outcome,
    facts::{Facts, Role},
    gather,
    output::{Table, show},
    reach, say,
};

/// `ambit version`.
#[derive(Debug, Args)]
pub(crate) struct VersionCommand {
    /// Only this program's version; asks no cluster
    #[arg(long)]
    client: bool,
}

#[derive(Debug, Serialize)]
struct Versions {
    client: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    parts: Vec<Part>,
}

/// Pods of a part that run one version.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Part {
    part: &'static str,
    version: String,
    pods: usize,
}

impl VersionCommand {
    pub(crate) async fn run(&self, to: &To) -> anyhow::Result<Outcome> {
        let mut versions = Versions { client: VERSION, server: None, parts: Vec::new() };
        if !self.client {
            let found = match reach::open(to).await {
                Ok(api) => gather::cluster(&api, to.home()).await.map_err(anyhow::Error::from),
                Err(error) => Err(error.into()),
            };
            match found {
                Ok(facts) => {
                    versions.parts = parts(&facts);
                    versions.server = Some(facts.server.version);
                }
                // The client's version is an answer, so this is no failure.
                Err(error) => say::note(&format!("no cluster: {error:#}")),
            }
        }
        show(to.output, &versions, table)?;
        Ok(Outcome::Well)
    }
}

/// By what the images of running pods are called.
fn parts(facts: &Facts) -> Vec<Part> {
    let mut parts = Vec::new();
    for role in Role::ALL {
        let mut by_version: BTreeMap<String, usize> = BTreeMap::new();
        for pod in facts.pods_of(role) {
            *by_version.entry(pod.version()).or_default() += 1;
        }
        let part = |(version, pods)| Part { part: role.text(), version, pods };
        parts.extend(by_version.into_iter().map(part));
    }
    parts
}

fn table(versions: &Versions) -> String {
    let mut table = Table::new(&["PART", "VERSION", "PODS"]);
    table.row(["ambit (this program)".to_owned(), versions.client.to_owned(), String::new()]);
    if let Some(server) = &versions.server {
        table.row(["Kubernetes".to_owned(), server.clone(), String::new()]);
    }
    for Part { part, version, pods } in &versions.parts {
        table.row([(*part).to_owned(), version.clone(), pods.to_string()]);
    }
    let mut text = table.text("");
    if versions.server.is_some() && versions.parts.is_empty() {
        text.push_str("no mesh is installed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::fixtures;

    #[test]
    fn a_roll_out_shows_both_versions() {
        let mut facts = fixtures::installed();
        facts.pods.push(fixtures::part_pod(Role::Ztunnel, "ztunnel-b", "node-b", "0.2.0"));
        let shown: Vec<_> =
            parts(&facts).into_iter().map(|part| (part.part, part.version, part.pods)).collect();
        let part = |part, version: &str, pods| (part, version.to_owned(), pods);
        let expected = [
            part("control", "0.1.0", 1),
            part("node", "0.1.0", 1),
            part("ztunnel", "0.1.0", 1),
            part("ztunnel", "0.2.0", 1),
        ];
        assert_eq!(shown, expected);
    }
}
