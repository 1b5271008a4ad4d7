// SPDX-License-Identifier: Apache-2.0
//! Kinds by their place in the API: `/apis/<group>/<version>/namespaces/<namespace>/<plural>/<name>`.

/// A kind, under one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Resource {
    /// API group; empty for the core.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Name in paths, `pods`.
    pub plural: &'static str,
}

/// Which objects of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Within {
    /// All of the cluster; also for kinds that have no namespace.
    #[default]
    Cluster,
    /// Those of a namespace.
    Namespace(String),
}

impl Resource {
    /// A kind of the core.
    pub const fn core(plural: &'static str) -> Self {
        Self { group: "", version: "v1", plural }
    }

    /// A kind of a group.
    pub const fn new(group: &'static str, version: &'static str, plural: &'static str) -> Self {
        Self { group, version, plural }
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// The path of the objects.
    pub fn path(&self, within: &Within) -> String {
        let root = if self.group.is_empty() { "/api" } else { "/apis" };
        let plural = self.plural;
        match within {
            Within::Cluster => format!("{root}/{}/{plural}", self.api_version()),
            Within::Namespace(namespace) => {
                format!("{root}/{}/namespaces/{}/{plural}", self.api_version(), encode(namespace))
            }
        }
    }

    /// The path of one object; `namespace` is empty for kinds that have none.
    pub fn object(&self, namespace: &str, name: &str) -> String {
        let within =
            if namespace.is_empty() { Within::Cluster } else { Within::Namespace(namespace.to_owned()) };
        format!("{}/{}", self.path(&within), encode(name))
    }
}

/// A value inside a path or query (RFC 3986 §2.1): names come from objects, and nothing in them may end a segment.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let pods = Resource::core("pods");
        let leases = Resource::new("coordination.k8s.io", "v1", "leases");
        let shop = Within::Namespace("shop".to_owned());
        assert_eq!(pods.path(&Within::Cluster), "/api/v1/pods");
        assert_eq!(pods.path(&shop), "/api/v1/namespaces/shop/pods");
        assert_eq!(leases.object("a", "b"), "/apis/coordination.k8s.io/v1/namespaces/a/leases/b");
        assert_eq!(Resource::core("nodes").object("", "a/../b"), "/api/v1/nodes/a%2F..%2Fb");
    }
}
