// SPDX-License-Identifier: Apache-2.0
//! The rules as a mesh has them: objects of Kubernetes in the lab's folder of manifests.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use lab::{
    Cluster,
    cluster::manifests::PodObject,
    eventually,
    net::addresses::{self, Pair},
};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::rules::{Route, Rules, VERSION};

/// Namespace of everything.
const NAMESPACE: &str = "default";
/// Port of every service.
pub(super) const PORT: u16 = 80;
/// Numbers of services that only exist as objects begin here, far above those that the lab gives out.
const FIRST: u16 = 20_000;
/// How long the mesh may take to learn of ten thousand endpoints at once.
const LARGE: Duration = Duration::from_secs(60);
/// Objects in one file.
const TOGETHER: usize = 1000;

/// Objects that follow rules, for the services that a waypoint serves. The first of them has all the routes.
pub(super) struct Objects {
    cluster: Cluster,
    services: Vec<String>,
    written: Mutex<BTreeMap<String, String>>,
}

impl Objects {
    /// None yet.
    pub(super) fn new(cluster: &Cluster, services: &[&str]) -> Self {
        let services = services.iter().map(|name| (*name).to_owned()).collect();
        Self { cluster: cluster.clone(), services, written: Mutex::default() }
    }

    /// Writes what differs from before, and waits until the mesh knows it.
    pub(super) async fn apply(&self, rules: &Rules) -> Result<()> {
        self.publish(rules)?;
        eventually(LARGE, "the mesh learning of new rules", async || self.cluster.settle().await).await
    }

    /// Writes what differs from before.
    pub(super) fn publish(&self, rules: &Rules) -> Result<()> {
        self.changes(rules)?.into_iter().try_for_each(|(name, text)| self.cluster.publish(&name, &text))
    }

    fn changes(&self, rules: &Rules) -> Result<Vec<(String, String)>> {
        let wanted = files(rules, &self.services)?;
        let mut written = self.written.lock();
        let changes = difference(&written, &wanted);
        *written = wanted;
        Ok(changes)
    }
}

/// What is new or other than it was, and, as nothing, what is to go.
fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), "# Nothing is left here.\n".to_owned()));
    let other = after.iter().filter(|(name, text)| before.get(*name) != Some(text));
    other.map(|(name, text)| (name.clone(), text.clone())).chain(gone).collect()
}

/// Files by their names. The route that changes is alone in its own, as a change in a cluster is of one object.
fn files(rules: &Rules, services: &[String]) -> Result<BTreeMap<String, String>> {
    let everything = Route { path: "/".to_owned(), backend: 0, version: 1 };
    let mut files = BTreeMap::new();
    let roots: Vec<_> = services.iter().map(|service| route(service, &everything)).collect();
    files.insert("bench-everything".to_owned(), yaml(&roots)?);
    let first = services.first().context("no service")?;
    let changing = rules.changing();
    let (changing, steady): (Vec<_>, Vec<_>) = rules.routes().partition(|route| route.path == changing);
    for (name, routes) in [("bench-changing", changing), ("bench-steady", steady)] {
        let objects: Vec<_> = routes.iter().map(|one| route(first, one)).collect();
        if !objects.is_empty() {
            files.insert(name.to_owned(), yaml(&objects)?);
        }
    }
    let mut bulk = Vec::new();
    for (backend, endpoints) in rules.others() {
        bulk.push(service(backend)?);
        bulk.extend(endpoints.iter().enumerate().map(|(number, at)| {
            let v4 = match at.ip() {
                IpAddr::V4(ip) => ip,
                IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
            };
            pod(backend, number, Pair { v4, v6: beside(v4) })
        }));
    }
    for (number, objects) in bulk.chunks(TOGETHER).enumerate() {
        files.insert(format!("bench-bulk-{number}"), yaml(objects)?);
    }
    Ok(files)
}

fn yaml(objects: &[Value]) -> Result<String> {
    let documents: Result<Vec<String>, _> = objects.iter().map(serde_saphyr::to_string).collect();
    Ok(documents.context("writing YAML")?.join("---\n"))
}

fn route(service: &str, Route { path, backend, version }: &Route) -> Value {
    let name = format!("{service}{}", path.replace('/', "-"));
    let to = if *backend == 0 { service.to_owned() } else { bulk(*backend) };
    let header = json!({"name": VERSION, "value": version.to_string()});
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": name.trim_end_matches('-'), "namespace": NAMESPACE},
        "spec": {
            "parentRefs": [{"group": "", "kind": "Service", "name": service}],
            "rules": [{
                "matches": [{"path": {"type": "PathPrefix", "value": path}}],
                "filters": [{
                    "type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [header]},
                }],
                "backendRefs": [{"name": to, "port": PORT}],
            }],
        },
    })
}

fn bulk(backend: usize) -> String {
    format!("bulk-{backend:03}")
}

fn service(backend: usize) -> Result<Value> {
    let name = bulk(backend);
    let ips = addresses::service(FIRST + u16::try_from(backend)?);
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "selector": {"app": name},
            "ports": [{"name": "http", "port": PORT, "targetPort": PORT, "protocol": "TCP", "appProtocol": "http"}],
            "clusterIP": ips.v4, "clusterIPs": ips.both(),
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "PreferDualStack",
        },
    }))
}

fn pod(backend: usize, number: usize, at: Pair) -> Value {
    let app = bulk(backend);
    let name = format!("{app}-{number:03}");
    let object = PodObject {
        uid: format!("00000000-0000-4000-8000-{backend:06}{number:06}"),
        labels: BTreeMap::from([("app".to_owned(), app)]),
        namespace: NAMESPACE.to_owned(),
        service_account: "default".to_owned(),
        node: "b".to_owned(),
        annotations: BTreeMap::new(),
        addresses: at,
        ready: true,
        captured: false,
        name,
    };
    object.object()
}

/// An IPv6 address for a pod that has this one.
fn beside(v4: Ipv4Addr) -> Ipv6Addr {
    let [first, second, third, fourth] = v4.octets().map(u16::from);
    Ipv6Addr::new(0xfd00, 0x99, 0, 0, first, second, third, fourth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changes: &[(String, String)]) -> Vec<&str> {
        changes.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn a_change_of_one_route_is_a_change_of_one_file() {
        let services = ["web".to_owned()];
        let before = files(&Rules::ROUTES, &services).unwrap();
        let after = files(&Rules { version: 2, ..Rules::ROUTES }, &services).unwrap();
        assert_eq!(names(&difference(&before, &after)), ["bench-changing"]);
        let one = files(&Rules::ONE, &services).unwrap();
        let gone = difference(&before, &one);
        assert_eq!(names(&gone), ["bench-changing", "bench-steady"]);
        assert!(gone.iter().all(|(_, text)| text.starts_with('#')));
    }

    #[test]
    fn every_endpoint_is_a_pod_of_its_service() {
        let rules = Rules { backends: 2, endpoints: 3, ..Rules::ONE };
        let files = files(&rules, &["web".to_owned()]).unwrap();
        let text = files.get("bench-bulk-0").unwrap();
        assert_eq!(text.matches("kind: Pod").count(), 6);
        assert_eq!(text.matches("kind: Service").count(), 2);
        assert!(text.contains("198.18.0.5"), "{text}");
    }
}
