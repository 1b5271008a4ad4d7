// SPDX-License-Identifier: Apache-2.0
//! Waypoints as their Gateways say that they are.

use serde::Serialize;
use serde_json::Value;

use crate::{output::Table, tree};

/// A waypoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waypoint {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) class: String,
    pub(super) revision: String,
    /// For which traffic it is.
    #[serde(rename = "for")]
    pub(super) covers: String,
    /// `audit` or `enforce`.
    pub(super) enforcement: String,
    /// `True`, `False` or nothing.
    pub(super) programmed: String,
    pub(super) addresses: Vec<String>,
    /// What its conditions say that are not good.
    pub(super) problems: Vec<String>,
}

/// Whether a Gateway stands for a waypoint.
pub(super) fn is_waypoint(gateway: &Value) -> bool {
    tree::list(gateway, "/spec/listeners").iter().any(|listener| listener["protocol"] == "HBONE")
        && !tree::text(gateway, "/spec/gatewayClassName").ends_with("east-west")
}

impl Waypoint {
    pub(super) fn of(gateway: &Value) -> Self {
        let labels = tree::map(gateway, "/metadata/labels");
        let annotations = tree::map(gateway, "/metadata/annotations");
        let label = |key: &str| labels.get(key).cloned();
        let enforcement = label(ENFORCEMENT).or_else(|| annotations.get(ENFORCEMENT).cloned());
        let problems = tree::list(gateway, "/status/conditions").iter().filter(|condition| {
            let kind = condition["type"].as_str().unwrap_or_default();
            ["Accepted", "Programmed", "AmbitAccepted"].contains(&kind) && condition["status"] == "False"
        });
        Self {
            namespace: tree::text(gateway, "/metadata/namespace"),
            name: tree::text(gateway, "/metadata/name"),
            class: tree::text(gateway, "/spec/gatewayClassName"),
            revision: label("istio.io/rev").unwrap_or_default(),
            covers: label("istio.io/waypoint-for").unwrap_or_else(|| "service".to_owned()),
            enforcement: enforcement.unwrap_or_else(|| "audit".to_owned()),
            programmed: tree::condition(gateway, "Programmed").unwrap_or_default().to_owned(),
            addresses: tree::list(gateway, "/status/addresses")
                .iter()
                .map(|one| tree::text(one, "/value"))
                .collect(),
            problems: problems.map(|condition| tree::text(condition, "/message")).collect(),
        }
    }

    pub(super) fn is_programmed(&self) -> bool {
        self.programmed == "True"
    }

    /// Why it does not run.
    pub(super) fn why(&self) -> String {
        if self.problems.is_empty() {
            return format!("nobody runs Gateways of class {}: ambit check", self.class);
        }
        self.problems.join("; ")
    }
}

pub(super) const ENFORCEMENT: &str = "ambit.mesh/waypoint-enforcement";

/// For people.
pub(super) fn table(waypoints: &[Waypoint]) -> String {
    let mut table = Table::new(&[
        "NAMESPACE",
        "NAME",
        "CLASS",
        "REVISION",
        "FOR",
        "ENFORCEMENT",
        "PROGRAMMED",
        "ADDRESS",
    ]);
    for waypoint in waypoints {
        table.row([
            waypoint.namespace.clone(),
            waypoint.name.clone(),
            waypoint.class.clone(),
            waypoint.revision.clone(),
            waypoint.covers.clone(),
            waypoint.enforcement.clone(),
            waypoint.programmed.clone(),
            waypoint.addresses.first().cloned().unwrap_or_default(),
        ]);
    }
    table.text("no waypoints")
}
