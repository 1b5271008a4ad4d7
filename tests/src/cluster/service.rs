// SPDX-License-Identifier: Apache-2.0
//! Services: virtual addresses or names in front of pods with a label.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use super::Cluster;
use crate::{
    echo,
    net::addresses::{self, Pair},
};

/// A service that is to be made.
#[derive(Clone, Debug)]
#[must_use = "a service begins with `create`"]
pub struct ServiceBuilder {
    cluster: Cluster,
    name: String,
    namespace: String,
    selector: BTreeMap<String, String>,
    ports: Vec<Value>,
    headless: bool,
    spec: Value,
    metadata: Value,
}

/// A service.
#[derive(Clone, Debug)]
pub struct Service {
    cluster: Cluster,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its virtual addresses; none when it is headless.
    pub addresses: Option<Pair>,
}

impl ServiceBuilder {
    pub(super) fn new(cluster: &Cluster, name: &str) -> Self {
        Self {
            cluster: cluster.clone(),
            name: name.to_owned(),
            namespace: "default".to_owned(),
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            headless: false,
            spec: json!({}),
            metadata: json!({}),
        }
    }

    /// In another namespace than `default`.
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// For pods with this label instead of `app: <name>`.
    pub fn selector(mut self, key: &str, value: &str) -> Self {
        self.selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        self
    }

    /// With a port that leads to `target` in the pod; without any, the sample application's ports are served as they
    /// are.
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push(
            json!({"name": format!("tcp-{port}"), "port": port, "targetPort": target, "protocol": "TCP"}),
        );
        self
    }

    /// With a port whose protocol is declared (`appProtocol`), or, where that is empty, not.
    pub fn declared(mut self, port: u16, target: u16, protocol: &str) -> Self {
        let mut entry =
            json!({"name": format!("p{port}"), "port": port, "targetPort": target, "protocol": "TCP"});
        if !protocol.is_empty() {
            merge(&mut entry, &json!({"appProtocol": protocol}));
        }
        self.ports.push(entry);
        self
    }

    /// Behind a waypoint of its namespace.
    pub fn behind(self, waypoint: &str) -> Self {
        self.metadata(&json!({"labels": {"istio.io/use-waypoint": waypoint}}))
    }

    /// Without a virtual address.
    pub fn headless(mut self) -> Self {
        self.headless = true;
        self
    }

    /// With more fields in `spec`.
    pub fn spec(mut self, fields: &Value) -> Self {
        merge(&mut self.spec, fields);
        self
    }

    /// With more fields in `metadata`.
    pub fn metadata(mut self, fields: &Value) -> Self {
        merge(&mut self.metadata, fields);
        self
    }

    /// Publishes it and waits until the whole mesh knows it.
    ///
    /// # Errors
    /// When it cannot be published or the mesh does not take notice.
    pub async fn create(self) -> Result<Service> {
        let Self { cluster, name, namespace, selector, mut ports, headless, mut spec, mut metadata } = self;
        let addresses = (!headless).then(|| addresses::service(cluster.next_service()));
        if ports.is_empty() {
            for (label, port) in [("http", echo::HTTP), ("tcp", echo::TCP), ("banner", echo::BANNER)] {
                ports.push(json!({"name": label, "port": port, "targetPort": port, "protocol": "TCP"}));
            }
        }
        let ips = addresses.map_or_else(|| json!(["None"]), |pair| json!(pair.both()));
        let first = addresses.map_or_else(|| json!("None"), |pair| json!(pair.v4));
        merge(
            &mut spec,
            &json!({
                "selector": selector,
                "ports": ports,
                "clusterIP": first,
                "clusterIPs": ips,
                "ipFamilies": ["IPv4", "IPv6"],
                "ipFamilyPolicy": "PreferDualStack",
            }),
        );
        merge(&mut metadata, &json!({"name": name, "namespace": namespace}));
        let object = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec});
        cluster.manifests().ensure_account(&namespace, "default")?;
        cluster.manifests().write_objects(&format!("service-{namespace}.{name}"), &[object])?;
        cluster.settle().await?;
        Ok(Service { cluster, name, namespace, addresses })
    }
}

impl Service {
    /// Its full DNS name.
    #[must_use]
    pub fn host(&self) -> String {
        format!("{}.{}.svc.cluster.local", self.name, self.namespace)
    }

    /// Removes it and waits until the whole mesh has forgotten it.
    ///
    /// # Errors
    /// When the mesh does not take notice.
    pub async fn delete(&self) -> Result<()> {
        self.cluster.withdraw(&format!("service-{}.{}", self.namespace, self.name)).await
    }
}

fn merge(into: &mut Value, fields: &Value) {
    if let (Some(into), Some(fields)) = (into.as_object_mut(), fields.as_object()) {
        into.extend(fields.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}
