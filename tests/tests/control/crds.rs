// SPDX-License-Identifier: Apache-2.0
//! Definitions of Istio's kinds without a schema: the API server keeps what it is given, also what nobody knows.

use serde_json::{Value, json};

/// A kind of Istio's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Custom {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const AUTHORIZATION: Custom =
    Custom { group: "security.istio.io", kind: "AuthorizationPolicy", plural: "authorizationpolicies" };
pub(crate) const PEER: Custom =
    Custom { group: "security.istio.io", kind: "PeerAuthentication", plural: "peerauthentications" };
pub(crate) const ENTRY: Custom =
    Custom { group: "networking.istio.io", kind: "ServiceEntry", plural: "serviceentries" };

impl Custom {
    /// As YAML (JSON is YAML).
    pub(crate) fn definition(self) -> String {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let schema: Value = json!({"type": "object", "properties": {"spec": open, "status": open}});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{}.{}", self.plural, self.group)},
            "spec": {
                "group": self.group,
                "scope": "Namespaced",
                "names": {"kind": self.kind, "plural": self.plural, "singular": self.kind.to_lowercase()},
                "versions": [{
                    "name": "v1",
                    "served": true,
                    "storage": true,
                    "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }],
            },
        });
        definition.to_string()
    }
}
