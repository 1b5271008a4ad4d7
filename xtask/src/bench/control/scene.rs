// SPDX-License-Identifier: Apache-2.0
//! What is made in the cluster, as JSON: a mesh of many namespaces with pods, services and policies of every sort that both
//! control planes understand. The same scale gives the same objects.

use serde_json::{Value, json};

use super::Scale;

/// Services of one namespace.
const SERVICES: usize = 20;
/// Service accounts of one namespace.
const ACCOUNTS: usize = 5;
/// Nodes.
const NODES: usize = 20;
/// Where policies hold for the whole mesh.
pub(super) const ROOT: &str = "istio-system";
/// The label that a pod's controller tells its templates apart by.
const HASH: &str = "5d4f8c7b9d";

/// An object and the collection that it is made in.
pub(super) struct Item {
    pub(super) path: String,
    pub(super) object: Value,
}

/// A pod: what it is made as and what is written into its status then.
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) object: Value,
    pub(super) status: Value,
}

impl Pod {
    /// Its collection.
    pub(super) fn collection(&self) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace)
    }

    /// Itself.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// Its name in discovery.
    pub(super) fn uid(&self) -> String {
        format!("Kubernetes//Pod/{}/{}", self.namespace, self.name)
    }
}

fn item(path: impl Into<String>, object: Value) -> Item {
    Item { path: path.into(), object }
}

fn namespace(number: usize) -> String {
    format!("bench-{number:03}")
}

fn namespaces(scale: &Scale) -> usize {
    scale.services.div_ceil(SERVICES)
}

/// What everything else needs: nodes, namespaces, service accounts.
pub(super) fn ground(scale: &Scale) -> Vec<Item> {
    let node = |number: usize| {
        let labels = json!({
            "topology.kubernetes.io/region": format!("region-{}", number % 2),
            "topology.kubernetes.io/zone": format!("zone-{}", number % 4),
        });
        let metadata = json!({"name": node(number), "labels": labels});
        item("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata}))
    };
    let space = |name: String| {
        let labels = json!({"istio.io/dataplane-mode": "ambient"});
        let metadata = json!({"name": name, "labels": labels});
        item("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
    };
    let account = |number: usize| {
        let (space, account) = (namespace(number / ACCOUNTS), account(number));
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
        item(format!("/api/v1/namespaces/{space}/serviceaccounts"), object)
    };
    let spaces = (0..namespaces(scale)).map(namespace).chain([ROOT.to_owned()]).map(space);
    (0..NODES).map(node).chain(spaces).chain((0..namespaces(scale) * ACCOUNTS).map(account)).collect()
}

fn node(number: usize) -> String {
    format!("bench-node-{:02}", number % NODES)
}

fn account(number: usize) -> String {
    format!("account-{}", number % ACCOUNTS)
}

fn application(service: usize) -> String {
    format!("web-{service:04}")
}

/// All pods, spread evenly over the services.
pub(super) fn pods(scale: &Scale) -> Vec<Pod> {
    (0..scale.pods).map(|number| pod(scale, number)).collect()
}

/// One pod; numbers beyond the scale's are pods that come later.
pub(super) fn pod(scale: &Scale, number: usize) -> Pod {
    let (service, copy) = (number % scale.services, number / scale.services);
    let (namespace, application) = (namespace(service / SERVICES), application(service));
    let name = if replicated(service) {
        format!("{application}-{HASH}-{copy:05}")
    } else {
        format!("{application}-{copy}")
    };
    let host_network = service % 100 == 7 && copy == 0;
    let captured = !host_network && service % 10 != 9;
    let mut labels = json!({
        "app": application, "version": format!("v{}", copy % 2), "team": format!("team-{}", service % 7),
        "pod-template-hash": HASH,
    });
    if service % 50 == 3 && copy == 1 {
        labels["networking.istio.io/tunnel"] = json!("http");
    }
    let annotations = if captured { json!({"ambient.istio.io/redirection": "enabled"}) } else { json!({}) };
    let container = json!({
        "name": "app", "image": "registry.local/shop/web:1.24.3",
        "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 9090, "name": "metrics"}],
        "env": [{"name": "SHOP", "value": application}, {"name": "LOG_LEVEL", "value": "info"}],
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
    });
    let mut object = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {
            "nodeName": node(number), "serviceAccountName": account(service), "hostNetwork": host_network,
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
            // Nobody answers for the nodes.
            "tolerations": [{"operator": "Exists"}],
            "containers": [container],
        },
    });
    if replicated(service) {
        // As a ReplicaSet makes them.
        object["metadata"]["generateName"] = json!(format!("{application}-{HASH}-"));
    }
    let address = if host_network { node_address(number) } else { address(number) };
    let status = status(number, &address, copy % 10 != 9);
    Pod { namespace, name, object, status }
}

/// Whether pods of a service are a `ReplicaSet`'s, which adopts them.
fn replicated(service: usize) -> bool {
    service.is_multiple_of(3)
}

fn status(number: usize, address: &str, ready: bool) -> Value {
    let (since, node) = ("2026-01-01T00:00:00Z", node_address(number));
    let condition = |kind: &str, holds: bool| {
        let status = if holds { "True" } else { "False" };
        json!({"type": kind, "status": status, "lastTransitionTime": since})
    };
    json!({"status": {
        "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "startTime": since,
        "hostIP": node, "hostIPs": [{"ip": node}],
        "conditions": [
            condition("PodScheduled", true), condition("Initialized", true),
            condition("ContainersReady", ready), condition("Ready", ready),
        ],
        "containerStatuses": [{
            "name": "app", "image": "registry.local/shop/web:1.24.3", "imageID": "", "ready": ready,
            "restartCount": 0, "started": true, "state": {"running": {"startedAt": since}},
        }],
    }})
}

/// An address of a pod.
pub(super) fn address(number: usize) -> String {
    format!("172.{}.{}.{}", 16 + number / 62_500, number / 250 % 250, 1 + number % 250)
}

fn node_address(number: usize) -> String {
    format!("192.168.77.{}", 1 + number % NODES)
}

/// Services, of several sorts.
pub(super) fn services(scale: &Scale) -> Vec<Item> {
    (0..scale.services).map(service).collect()
}

fn service(number: usize) -> Item {
    let application = application(number);
    let mut spec = json!({
        "selector": {"app": application},
        "ports": [
            {"name": "http", "port": 80, "targetPort": 8080},
            {"name": "grpc-admin", "port": 9000, "targetPort": 9090},
            {"name": "raw", "port": 7000, "targetPort": "metrics", "appProtocol": "tcp"},
        ],
    });
    match number % 10 {
        0 => spec["clusterIP"] = json!("None"),
        1 => spec["trafficDistribution"] = json!("PreferClose"),
        2 => spec["internalTrafficPolicy"] = json!("Local"),
        3 => spec["publishNotReadyAddresses"] = json!(true),
        4 => spec["trafficDistribution"] = json!("PreferSameNode"),
        _ => {}
    }
    let metadata = json!({"name": application, "labels": {"app": application}});
    let path = format!("/api/v1/namespaces/{}/services", namespace(number / SERVICES));
    item(path, json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}))
}

/// Controllers that adopt the pods of a third of the services.
pub(super) fn controllers(scale: &Scale) -> Vec<Item> {
    let controller = |number: usize| {
        let copies = scale.pods / scale.services + usize::from(number < scale.pods % scale.services);
        let application = application(number);
        let labels = json!({"app": application, "pod-template-hash": HASH});
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": format!("{application}-{HASH}")},
            "spec": {
                "replicas": copies,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [{"name": "app", "image": "registry.local/shop/web:1.24.3"}]},
                },
            },
        });
        item(format!("/apis/apps/v1/namespaces/{}/replicasets", namespace(number / SERVICES)), object)
    };
    (0..scale.services).filter(|number| replicated(*number)).map(controller).collect()
}

/// Istio's objects: policies of the mesh, and of each namespace policies, service entries and workload entries.
pub(super) fn policies(scale: &Scale) -> Vec<Item> {
    let deny = json!({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["quarantine"]}}]}]});
    let mesh = [
        istio(("security", "AuthorizationPolicy", ROOT), "mesh-wide", &deny),
        istio(
            ("security", "PeerAuthentication", ROOT),
            "mesh-wide",
            &json!({"mtls": {"mode": "PERMISSIVE"}}),
        ),
    ];
    mesh.into_iter().chain((0..namespaces(scale)).flat_map(of_namespace)).collect()
}

fn istio((group, kind, namespace): (&str, &str, &str), name: &str, spec: &Value) -> Item {
    let version = format!("{group}.istio.io/v1");
    let plural = match kind {
        "AuthorizationPolicy" => "authorizationpolicies",
        "PeerAuthentication" => "peerauthentications",
        "ServiceEntry" => "serviceentries",
        _ => "workloadentries",
    };
    let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec});
    item(format!("/apis/{version}/namespaces/{namespace}/{plural}"), object)
}

fn of_namespace(number: usize) -> Vec<Item> {
    let mut items = Vec::from(identities(number));
    items.extend(conditions(number));
    items.extend(entries(number));
    let space = namespace(number);
    let peer = |name: &str, spec: &Value| istio(("security", "PeerAuthentication", &space), name, spec);
    match number % 5 {
        0 => items.push(peer("strict", &json!({"mtls": {"mode": "STRICT"}}))),
        1 => {
            let ports = json!({"8080": {"mode": "PERMISSIVE"}});
            let spec = json!({
                "selector": selecting(number, 4), "mtls": {"mode": "STRICT"}, "portLevelMtls": ports,
            });
            items.push(peer("ports", &spec));
        }
        2 => {
            let ports = json!({"9090": {"mode": "STRICT"}});
            let spec = json!({"selector": selecting(number, 5), "portLevelMtls": ports});
            items.push(peer("one-port", &spec));
        }
        _ => {}
    }
    items
}

/// A selector of the pods of a service of a namespace.
fn selecting(number: usize, service: usize) -> Value {
    json!({"matchLabels": {"app": application(number * SERVICES + service)}})
}

/// Who may come from where.
fn identities(number: usize) -> [Item; 2] {
    let (space, neighbour) = (namespace(number), namespace(number + 1));
    let principal = format!("cluster.local/ns/{space}/sa/account-1");
    let from = json!([
        {"source": {"principals": [principal, "*/sa/probe"]}},
        {"source": {"namespaces": [neighbour]}},
    ]);
    let by_identity = json!({
        "selector": selecting(number, 0), "action": "ALLOW",
        "rules": [{"from": from, "to": [{"operation": {"ports": ["8080", "9090"]}}]}],
    });
    let blocks = json!({"ipBlocks": ["203.0.113.0/24", "2001:db8::/32"], "notNamespaces": [space]});
    let by_address = json!({"action": "DENY", "rules": [{"from": [{"source": blocks}]}]});
    [("by-identity", by_identity), ("by-address", by_address)]
        .map(|(name, spec)| istio(("security", "AuthorizationPolicy", &space), name, &spec))
}

/// Policies of which a node proxy can enforce a part, and one with conditions.
fn conditions(number: usize) -> [Item; 3] {
    let (space, neighbour) = (namespace(number), namespace(number + 1));
    let with_http = json!({
        "selector": selecting(number, 1), "action": "ALLOW",
        "rules": [
            {"to": [{"operation": {"methods": ["GET"], "paths": ["/public*"]}}]},
            {"from": [{"source": {"namespaces": ["monitoring"]}}]},
        ],
    });
    let deny_http = json!({
        "selector": selecting(number, 2), "action": "DENY",
        "rules": [{"to": [{"operation": {"paths": ["/admin*"], "ports": ["8080"]}}]}],
    });
    let accounts = json!(["account-2", format!("{neighbour}/account-3")]);
    let by_condition = json!({
        "selector": selecting(number, 3), "action": "ALLOW",
        "rules": [{
            "from": [{"source": {"serviceAccounts": accounts}}],
            "when": [
                {"key": "destination.port", "values": ["8080"]},
                {"key": "source.ip", "notValues": ["198.51.100.7"]},
            ],
        }],
    });
    [("with-http", with_http), ("deny-http", deny_http), ("by-condition", by_condition)]
        .map(|(name, spec)| istio(("security", "AuthorizationPolicy", &space), name, &spec))
}

/// Hosts and machines outside of the cluster.
fn entries(number: usize) -> [Item; 4] {
    let space = namespace(number);
    let (high, low) = (number / 250, 1 + number % 250);
    let outside = json!({
        "hosts": [format!("api.{space}.example.com")], "location": "MESH_EXTERNAL", "resolution": "DNS",
        "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
    });
    let endpoints = json!([
        {"address": format!("192.0.2.{low}"), "labels": {"app": "machine"}, "serviceAccount": "machine"},
        {"address": "192.0.2.254", "ports": {"http": 8888}, "locality": "region-0/zone-1"},
    ]);
    let machines = json!({
        "hosts": [format!("machines.{space}.internal")], "location": "MESH_INTERNAL",
        "resolution": "STATIC", "addresses": [format!("240.1.{high}.{low}")],
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080}],
        "endpoints": endpoints,
    });
    let selected = json!({
        "hosts": [format!("selected.{space}.internal")], "location": "MESH_INTERNAL",
        "resolution": "STATIC", "ports": [{"number": 5432, "name": "tcp-db", "protocol": "TCP"}],
        "workloadSelector": {"labels": {"app": "database"}},
    });
    let database = json!({
        "address": format!("198.18.{high}.{low}"), "labels": {"app": "database"},
        "serviceAccount": "account-4", "ports": {"tcp-db": 15432},
    });
    [
        ("ServiceEntry", "outside", outside),
        ("ServiceEntry", "machines", machines),
        ("ServiceEntry", "selected", selected),
        ("WorkloadEntry", "database", database),
    ]
    .map(|(kind, name, spec)| istio(("networking", kind, &space), name, &spec))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pod_has_a_name_and_an_address_of_its_own_but_those_on_the_host_network() {
        let scale = Scale { pods: 1003, services: 100, rounds: 1 };
        let pods = pods(&scale);
        let names: BTreeSet<String> = pods.iter().map(Pod::uid).collect();
        assert_eq!(names.len(), scale.pods);
        let addresses: BTreeSet<&str> =
            pods.iter().filter_map(|pod| pod.status.pointer("/status/podIP")?.as_str()).collect();
        let on_host = pods.iter().filter(|pod| pod.object["spec"]["hostNetwork"] == json!(true)).count();
        assert_eq!(on_host, 1);
        assert_eq!(addresses.len(), scale.pods);
    }

    #[test]
    fn controllers_want_exactly_the_pods_that_are_made() {
        let scale = Scale { pods: 1003, services: 100, rounds: 1 };
        let wanted: usize = controllers(&scale)
            .iter()
            .filter_map(|item| item.object.pointer("/spec/replicas")?.as_u64())
            .map(|copies| usize::try_from(copies).unwrap_or(usize::MAX))
            .sum();
        let made = pods(&scale).iter().filter(|pod| pod.name.contains(HASH)).count();
        assert_eq!(wanted, made);
    }
}
