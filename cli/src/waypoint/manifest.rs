// SPDX-License-Identifier: Apache-2.0
//! The Gateway that stands for a waypoint.

use clap::ValueEnum;
use serde_json::{Value, json};

/// For which traffic a waypoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum For {
    /// What is addressed to services.
    Service,
    /// What is addressed to workloads.
    Workload,
    /// Both.
    All,
    /// Nothing.
    None,
}

impl For {
    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Workload => "workload",
            Self::All => "all",
            Self::None => "none",
        }
    }
}

/// Whose namespaces may use a waypoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Admits {
    /// Its own.
    Same,
    /// All.
    All,
}

/// What a waypoint is to be.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) name: &'a str,
    /// Whatever the context says, if it is not said.
    pub(super) namespace: Option<String>,
    pub(super) class: &'a str,
    pub(super) covers: Option<For>,
    pub(super) revision: Option<&'a str>,
    pub(super) enforce: bool,
    pub(super) admits: Admits,
}

impl Wish<'_> {
    /// The Gateway.
    pub(super) fn gateway(&self) -> Value {
        let mut labels = serde_json::Map::new();
        let wanted = [
            ("istio.io/waypoint-for", self.covers.map(For::as_str)),
            ("istio.io/rev", self.revision),
            ("ambit.mesh/waypoint-enforcement", self.enforce.then_some("enforce")),
        ];
        labels.extend(wanted.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))));
        let mut metadata = json!({"name": self.name});
        if let Some(namespace) = &self.namespace {
            metadata["namespace"] = json!(namespace);
        }
        if !labels.is_empty() {
            metadata["labels"] = Value::Object(labels);
        }
        let mut listener = json!({"name": "mesh", "port": 15008, "protocol": "HBONE"});
        if self.admits == Admits::All {
            listener["allowedRoutes"] = json!({"namespaces": {"from": "All"}});
        }
        json!({
            "apiVersion": crate::kinds::GATEWAYS.api_version(),
            "kind": "Gateway",
            "metadata": metadata,
            "spec": {"gatewayClassName": self.class, "listeners": [listener]},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_says_what_was_asked_for_and_no_more() {
        let mut wish = Wish {
            name: "waypoint",
            namespace: None,
            class: "ambit-waypoint",
            covers: None,
            revision: None,
            enforce: false,
            admits: Admits::Same,
        };
        let gateway = wish.gateway();
        assert_eq!(gateway["metadata"], json!({"name": "waypoint"}));
        assert_eq!(
            gateway["spec"]["listeners"],
            json!([{"name": "mesh", "port": 15008, "protocol": "HBONE"}])
        );
        wish = Wish {
            namespace: Some("shop".to_owned()),
            covers: Some(For::All),
            revision: Some("blue"),
            enforce: true,
            admits: Admits::All,
            ..wish
        };
        let gateway = wish.gateway();
        assert_eq!(gateway["metadata"]["namespace"], "shop");
        let labels = json!({
            "istio.io/waypoint-for": "all", "istio.io/rev": "blue", "ambit.mesh/waypoint-enforcement": "enforce",
        });
        assert_eq!(gateway["metadata"]["labels"], labels);
        assert_eq!(gateway["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["from"], "All");
    }
}
