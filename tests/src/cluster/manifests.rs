// SPDX-License-Identifier: Apache-2.0
//! The folder of Kubernetes YAML that is the lab's cluster, as far as control knows.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::net::addresses::Pair;

/// The annotation by which an agent says that it has captured a pod.
pub const REDIRECTION: &str = "ambient.istio.io/redirection";

/// The folder of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
    staging: PathBuf,
}

/// What the object of a pod says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodObject {
    /// Name.
    pub name: String,
    /// Kubernetes namespace.
    pub namespace: String,
    /// Unique id.
    pub uid: String,
    /// Service account.
    pub service_account: String,
    /// Node.
    pub node: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations other than the agent's.
    pub annotations: BTreeMap<String, String>,
    /// Addresses.
    pub addresses: Pair,
    /// Whether the Ready condition is true.
    pub ready: bool,
    /// Whether the agent has captured it.
    pub captured: bool,
}

impl Manifests {
    /// Makes the folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(state: &Path) -> Result<Self> {
        let manifests = Self { folder: state.join("manifests"), staging: state.join("staging") };
        for folder in [&manifests.folder, &manifests.staging] {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        Ok(manifests)
    }

    /// Where the files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes or replaces `<name>.yaml` as one step: its reader never sees half a file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let file = format!("{name}.yaml");
        let staged = self.staging.join(&file);
        fs::write(&staged, yaml).with_context(|| format!("writing {file}"))?;
        fs::rename(&staged, self.folder.join(&file)).with_context(|| format!("putting {file} in place"))
    }

    /// Takes back what `<name>.yaml` says, at once: control waits a moment before it believes that a file is gone, since
    /// it may be in the middle of being replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.write(name, "# Nothing is left here.\n")
    }

    /// Writes one object, or several, given as JSON.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_objects(&self, name: &str, objects: &[Value]) -> Result<()> {
        let documents: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
        self.write(name, &documents.context("writing YAML")?.join("---\n"))
    }

    /// Writes a namespace and one of its service accounts, where they are not there yet.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn ensure_account(&self, namespace: &str, account: &str) -> Result<()> {
        let objects = [
            (
                format!("namespace-{namespace}"),
                json!({
                    "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace},
                }),
            ),
            (
                format!("serviceaccount-{namespace}.{account}"),
                json!({
                    "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace},
                }),
            ),
        ];
        for (file, object) in objects {
            if !self.folder.join(format!("{file}.yaml")).exists() {
                self.write_objects(&file, &[object])?;
            }
        }
        Ok(())
    }
}

impl PodObject {
    /// Name of its file.
    #[must_use]
    pub fn file(&self) -> String {
        format!("pod-{}.{}", self.namespace, self.name)
    }

    /// The object as Kubernetes would show it.
    #[must_use]
    pub fn object(&self) -> Value {
        let mut annotations = self.annotations.clone();
        if self.captured {
            annotations.insert(REDIRECTION.to_owned(), "enabled".to_owned());
        }
        let ready = if self.ready { "True" } else { "False" };
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
                "annotations": annotations,
            },
            "spec": {
                "serviceAccountName": self.service_account,
                "nodeName": self.node,
                "containers": [{"name": "app", "image": "lab-app"}],
            },
            "status": {
                "phase": "Running",
                "podIP": self.addresses.v4,
                "podIPs": ips(self.addresses),
                "conditions": [{"type": "Ready", "status": ready}],
            },
        })
    }
}

/// The object of a node.
#[must_use]
pub fn node(name: &str, addresses: Pair) -> Value {
    let internal = |ip: IpAddr| json!({"type": "InternalIP", "address": ip});
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                "kubernetes.io/hostname": name,
                "topology.kubernetes.io/region": "lab",
                "topology.kubernetes.io/zone": format!("lab-{name}"),
            },
        },
        "status": {"addresses": addresses.both().map(internal)},
    })
}

fn ips(addresses: Pair) -> [Value; 2] {
    addresses.both().map(|ip| json!({"ip": ip}))
}
