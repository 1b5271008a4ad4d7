// SPDX-License-Identifier: Apache-2.0
//! What goes into a report: objects, logs and answers of the mesh's parts, each a file of it.

use std::collections::BTreeSet;

use jiff::Timestamp;
use kubernetes::{Api, PodPort, Resource, Within};
use membership::rules::{AMBIENT, DATAPLANE_MODE};
use serde_json::Value;

use super::redact;
use crate::{
    facts::{Facts, Pod, Role},
    gather::{CONTROL, WAYPOINT, ZTUNNEL, at_once, chain},
    kinds,
    output::{count, some},
    say,
};

/// Of each log.
const LONGEST_LOG: u32 = 4 << 20;
/// Kinds of the mesh's own namespace.
const OWN: [Resource; 12] = [
    Resource::core("pods"),
    Resource::core("services"),
    Resource::core("endpoints"),
    Resource::core("configmaps"),
    Resource::core("secrets"),
    Resource::core("serviceaccounts"),
    Resource::core("events"),
    Resource::new("apps", "v1", "deployments"),
    Resource::new("apps", "v1", "daemonsets"),
    Resource::new("coordination.k8s.io", "v1", "leases"),
    Resource::new("networking.k8s.io", "v1", "networkpolicies"),
    Resource::new("rbac.authorization.k8s.io", "v1", "roles"),
];
const PODS: Resource = Resource::core("pods");
const NODES: Resource = Resource::core("nodes");
const NAMESPACES: Resource = Resource::core("namespaces");
const EVENTS: Resource = Resource::core("events");
/// On a pod of a Gateway (GEP-1762).
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// Of either proxy.
const METRICS: u16 = 15020;
const READY: u16 = 15021;

/// Files, and what could not be had.
pub(super) struct Collection<'a> {
    api: &'a Api,
    facts: &'a Facts,
    lines: u32,
    files: Vec<(String, String)>,
    missing: Vec<String>,
}

/// One file, or why there is none.
type Found = (String, Result<String, String>);

impl<'a> Collection<'a> {
    pub(super) fn new(api: &'a Api, facts: &'a Facts, lines: u32) -> Self {
        Self { api, facts, lines, files: Vec::new(), missing: facts.hidden.clone() }
    }

    /// Sorted.
    pub(super) fn done(mut self) -> (Vec<(String, String)>, Vec<String>) {
        self.files.sort();
        (self.files, self.missing)
    }

    /// What the other commands say.
    pub(super) fn said(&mut self, check: &str, status: &str) {
        self.files.push(("check.txt".to_owned(), check.to_owned()));
        self.files.push(("status.txt".to_owned(), status.to_owned()));
    }

    /// Objects of the mesh whole, of others what the mesh looks at.
    pub(super) async fn objects(&mut self) {
        say::progress("reading objects ...");
        let (api, home) = (self.api, Within::Namespace(self.facts.home.clone()));
        let own = OWN.iter().map(|kind| (format!("mesh/{}", kind.plural), kind.path(&home), true));
        let told = kinds::ISTIO.into_iter().chain([kinds::GATEWAYS]).chain(kinds::GATEWAY_API);
        let policies = told.filter(|kind| self.facts.crds.contains_key(&kinds::definition(kind)));
        let policies =
            policies.map(|kind| (format!("cluster/{}", kind.plural), kind.path(&Within::Cluster), true));
        let others = [NODES, NAMESPACES]
            .map(|kind| (format!("cluster/{}", kind.plural), kind.path(&Within::Cluster), false));
        let enrolled = self.enrolled().into_iter().flat_map(|name| {
            let within = Within::Namespace(name.clone());
            [
                (format!("namespaces/{name}/pods"), PODS.path(&within), false),
                (format!("namespaces/{name}/events"), EVENTS.path(&within), true),
            ]
        });
        let wanted: Vec<_> = own.chain(policies).chain(others).chain(enrolled).collect();
        let reading = wanted.into_iter().map(|(file, path, whole)| async move {
            let objects = api.list::<Value>(&path).await.map_err(|error| chain(&error));
            (format!("{file}.json"), objects.map(|objects| objects_text(objects, &file, whole)))
        });
        let found = at_once(reading).await;
        self.keep(found);
    }

    /// Namespaces that ask to be in the mesh.
    fn enrolled(&self) -> Vec<String> {
        let asks = |labels: &membership::objects::Labels| {
            labels.get(DATAPLANE_MODE).is_some_and(|mode| mode == AMBIENT)
        };
        let named = self.facts.namespaces.iter().filter(|(_, namespace)| asks(&namespace.object.labels));
        let pods = self.facts.pods.iter().filter(|pod| asks(&pod.object.labels));
        let names: BTreeSet<String> =
            named.map(|(name, _)| name.clone()).chain(pods.map(|pod| pod.object.namespace.clone())).collect();
        names.into_iter().collect()
    }

    /// Pods of the mesh: all of control, and of the nodes those that are wanted.
    pub(super) fn chosen(&self, nodes: &[String], most: usize) -> Vec<(Role, &'a Pod)> {
        let facts = self.facts;
        let now = Timestamp::now();
        let in_trouble: BTreeSet<&str> = facts
            .judged(now)
            .iter()
            .filter(|judged| judged.out.is_none() && judged.captured != crate::facts::Captured::Yes)
            .map(|judged| judged.pod.node.as_str())
            .chain(
                [Role::Node, Role::Ztunnel]
                    .iter()
                    .flat_map(|role| facts.pods_of(*role))
                    .filter(|pod| !pod.ready)
                    .map(|pod| pod.node.as_str()),
            )
            .collect();
        let mut names: Vec<&str> = facts.nodes.iter().map(|node| node.name.as_str()).collect();
        names.retain(|name| nodes.is_empty() || nodes.iter().any(|wanted| wanted == name));
        names.sort_by_key(|name| !in_trouble.contains(name));
        names.truncate(most);
        let parts = |role: Role| facts.pods_of(role).into_iter().map(move |pod| (role, pod));
        let on_nodes = parts(Role::Node).chain(parts(Role::Ztunnel));
        parts(Role::Control).chain(on_nodes.filter(|(_, pod)| names.contains(&pod.node.as_str()))).collect()
    }

    /// Logs and answers.
    pub(super) async fn pods(&mut self, pods: &[(Role, &Pod)]) {
        let all: usize = Role::ALL.iter().map(|role| self.facts.pods_of(*role).len()).sum();
        if all > pods.len() {
            self.missing.push(format!("{} of other nodes", count(all - pods.len(), "pod")));
        }
        for (number, (role, pod)) in pods.iter().enumerate() {
            say::progress(&format!("{} of {}: {} ...", number + 1, pods.len(), pod.object.name));
            let folder = format!("pods/{}", pod.object.name);
            let found = self.of(pod, &folder, questions(*role, self.facts.node_port())).await;
            self.keep(found);
        }
    }

    /// The same of waypoints, which run in the namespaces that they serve.
    pub(super) async fn waypoints(&mut self, most: usize) {
        let is_waypoint = |pod: &&Pod| pod.object.labels.contains_key(GATEWAY_NAME);
        let pods: Vec<&Pod> = self.facts.pods.iter().filter(is_waypoint).collect();
        if pods.len() > most {
            self.missing.push(format!("{} of waypoints", count(pods.len() - most, "pod")));
        }
        for pod in pods.into_iter().take(most) {
            let folder = format!("waypoints/{}/{}", pod.object.namespace, pod.object.name);
            say::progress(&format!("{folder} ..."));
            let found = self.of(pod, &folder, of_proxy(WAYPOINT)).await;
            self.keep(found);
        }
    }

    async fn of(&self, pod: &Pod, folder: &str, questions: Vec<Question>) -> Vec<Found> {
        let (api, name, home) = (self.api, pod.object.name.clone(), pod.object.namespace.clone());
        let path = PODS.object(&home, &name);
        let log = |previous: bool, file: &str| {
            let (lines, file) = (self.lines, format!("{folder}/{file}"));
            let path = format!(
                "{path}/log?tailLines={lines}&limitBytes={LONGEST_LOG}&timestamps=true&previous={previous}"
            );
            async move { (file, api.text(&path).await.map_err(|error| error.to_string())) }
        };
        let (now, before) = futures_util::join!(log(false, "log.txt"), log(true, "log-previous.txt"));
        let mut found = vec![now];
        // There is one only of a container that has ended once.
        found.extend(before.1.is_ok().then_some(before));
        let asking = questions.into_iter().map(|(port, path, file)| {
            let at = PodPort { namespace: home.clone(), pod: name.clone(), port };
            let file = format!("{folder}/{file}");
            async move {
                let body = at.get(api, path).await.map_err(|error| chain(&error));
                (file, body.map(|body| String::from_utf8_lossy(&body).into_owned()))
            }
        });
        found.extend(at_once(asking).await);
        found
    }

    fn keep(&mut self, found: Vec<Found>) {
        for (file, content) in found {
            match content {
                Ok(content) => self.files.push((file, redact::text(&content))),
                Err(why) => self.missing.push(format!("{file}: {}", redact::text(&why))),
            }
        }
    }
}

impl std::fmt::Debug for Collection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<String> = self.files.iter().map(|(name, _)| name.clone()).collect();
        write!(f, "Collection({})", some(&names))
    }
}

/// Lists leave out what kind their objects are.
fn objects_text(objects: Vec<Value>, file: &str, whole: bool) -> String {
    let clean = |mut object: Value| {
        if let Some(fields) = object.as_object_mut().filter(|_| file.ends_with("/secrets")) {
            fields.insert("kind".to_owned(), "Secret".into());
        }
        if whole { redact::own(object) } else { redact::foreign(&object) }
    };
    let objects: Value = objects.into_iter().map(clean).collect();
    format!("{objects:#}\n")
}

/// What each part is asked.
/// A port, a path there, and the file for the answer.
type Question = (u16, &'static str, &'static str);

fn questions(role: Role, node: u16) -> Vec<Question> {
    match role {
        Role::Control => vec![(CONTROL, "/status", "status.json"), (CONTROL, "/metrics", "metrics.txt")],
        Role::Node => vec![
            (node, "/readyz", "readyz.txt"),
            (node, "/checks", "checks.json"),
            (node, "/metrics", "metrics.txt"),
        ],
        Role::Ztunnel => of_proxy(ZTUNNEL),
    }
}

fn of_proxy(admin: u16) -> Vec<Question> {
    vec![
        (admin, "/config_dump", "config_dump.json"),
        (METRICS, "/metrics", "metrics.txt"),
        (READY, "/healthz/ready", "ready.txt"),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_of_a_list_are_known_by_their_file() {
        let secret = json!({"metadata": {"name": "a"}, "data": {"key": "c2VjcmV0"}});
        let text = objects_text(vec![secret], "mesh/secrets", true);
        assert!(text.contains("\"key\"") && !text.contains("c2VjcmV0"), "{text}");
    }
}
