// SPDX-License-Identifier: Apache-2.0
//! Which service has which balanced address, and which node the router sends its packets to.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::Value;

use crate::kube::addresses::Block;

/// Nodes that say so are passed by.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What the API server has, each kind by `namespace/name`.
#[derive(Clone, Debug, Default)]
pub(super) struct Objects {
    pub(super) services: BTreeMap<String, Value>,
    pub(super) slices: BTreeMap<String, Value>,
    pub(super) nodes: BTreeMap<String, Value>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Services whose status is another one now, with their addresses.
    pub(super) statuses: BTreeMap<String, Vec<IpAddr>>,
    /// All routes of the router that depend on objects: destination and prefix, and the node.
    pub(super) routes: BTreeMap<(IpAddr, u8), IpAddr>,
}

pub(super) fn decide(objects: &Objects, block: Block) -> Decision {
    let mut decision = Decision::default();
    let ready = ready_nodes(objects);
    let first = ready.values().next().map(Vec::as_slice).unwrap_or_default();
    for range in block.services().both() {
        decision.routes.extend(gateway(range.0, first).map(|node| (range, node)));
    }
    let balanced: Vec<(&String, &Value)> =
        objects.services.iter().filter(|(_, service)| is_ours(service)).collect();
    let numbers = numbers(&balanced, block);
    for (name, service) in &objects.services {
        let addresses =
            numbers.get(name).map(|number| addresses(service, block, *number)).unwrap_or_default();
        let published = published(service);
        // A service that has become another type must not keep an address; one of another class is not ours.
        if addresses != published && (is_ours(service) || !is_of_another(service)) {
            decision.statuses.insert(name.clone(), addresses.clone());
        }
        let node = if text(service, "/spec/externalTrafficPolicy") == "Local" {
            let with_endpoints = nodes_with_endpoints(objects, name);
            ready
                .iter()
                .find(|(node, _)| with_endpoints.contains(node.as_str()))
                .map(|(_, node)| node.as_slice())
        } else {
            Some(first)
        };
        for address in addresses {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let way = node.and_then(|node| gateway(address, node));
            decision.routes.extend(way.map(|node| ((address, bits), node)));
        }
    }
    decision
}

/// Each service keeps the number that it has; the others get the lowest ones that are free.
fn numbers(balanced: &[(&String, &Value)], block: Block) -> BTreeMap<String, u8> {
    let mut numbers = BTreeMap::new();
    let mut taken = BTreeSet::new();
    let number_of = |service: &Value| {
        let published = published(service);
        (1..=254_u8).find(|number| {
            let pair = block.balanced_host(*number).both();
            published.iter().any(|address| pair.contains(address))
        })
    };
    for (name, service) in balanced {
        if let Some(number) = number_of(service).filter(|number| taken.insert(*number)) {
            numbers.insert((*name).clone(), number);
        }
    }
    for (name, _) in balanced {
        if !numbers.contains_key(*name)
            && let Some(number) = (1..=254).find(|number| taken.insert(*number))
        {
            numbers.insert((*name).clone(), number);
        }
    }
    numbers
}

fn addresses(service: &Value, block: Block, number: u8) -> Vec<IpAddr> {
    let pair = block.balanced_host(number);
    strings(service, "/spec/ipFamilies")
        .map(|family| if family == "IPv6" { IpAddr::V6(pair.v6) } else { IpAddr::V4(pair.v4) })
        .collect()
}

fn published(service: &Value) -> Vec<IpAddr> {
    let ingress = service.pointer("/status/loadBalancer/ingress").and_then(Value::as_array);
    ingress.into_iter().flatten().filter_map(|one| text(one, "/ip").parse().ok()).collect()
}

fn is_ours(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer"
        && !is_of_another(service)
        && service.pointer("/metadata/deletionTimestamp").is_none()
}

fn is_of_another(service: &Value) -> bool {
    service.pointer("/spec/loadBalancerClass").is_some()
}

/// Nodes that can take traffic, with their addresses.
fn ready_nodes(objects: &Objects) -> BTreeMap<String, Vec<IpAddr>> {
    let is_ready = |node: &&Value| {
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
        let ready =
            |condition: &Value| text(condition, "/type") == "Ready" && text(condition, "/status") == "True";
        conditions.into_iter().flatten().any(ready)
            && node.pointer("/metadata/labels").is_none_or(|labels| labels.get(EXCLUDED).is_none())
    };
    let with_addresses = |node: &Value| {
        let addresses = node.pointer("/status/addresses").and_then(Value::as_array);
        let internal = addresses.into_iter().flatten().filter(|one| text(one, "/type") == "InternalIP");
        let internal = internal.filter_map(|one| text(one, "/address").parse().ok()).collect();
        (text(node, "/metadata/name").to_owned(), internal)
    };
    objects.nodes.values().filter(is_ready).map(with_addresses).collect()
}

fn nodes_with_endpoints<'a>(objects: &'a Objects, service: &str) -> BTreeSet<&'a str> {
    let of_service = |slice: &&Value| {
        let named = slice.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
        service.split_once('/') == Some((text(slice, "/metadata/namespace"), named.unwrap_or_default()))
    };
    let slices = objects.slices.values().filter(of_service);
    let endpoints = slices.filter_map(|slice| slice.get("endpoints").and_then(Value::as_array)).flatten();
    // A condition that is not there counts as true.
    let ready =
        |endpoint: &&Value| endpoint.pointer("/conditions/ready").and_then(Value::as_bool).unwrap_or(true);
    endpoints.filter(ready).map(|endpoint| text(endpoint, "/nodeName")).collect()
}

fn gateway(to: IpAddr, node: &[IpAddr]) -> Option<IpAddr> {
    node.iter().find(|address| address.is_ipv4() == to.is_ipv4()).copied()
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn strings<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, number: u8, ready: &str) -> (String, Value) {
        let node = json!({
            "metadata": {"name": name},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "addresses": [
                    {"type": "InternalIP", "address": format!("10.64.0.{number}")},
                    {"type": "InternalIP", "address": format!("fd00:64::{number}")},
                    {"type": "Hostname", "address": name},
                ],
            },
        });
        (format!("/{name}"), node)
    }

    fn service(name: &str, spec: Value, ingress: &[&str]) -> (String, Value) {
        let ingress: Vec<Value> = ingress.iter().map(|ip| json!({"ip": ip})).collect();
        let service = json!({
            "metadata": {"namespace": "shop", "name": name},
            "spec": spec,
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        (format!("shop/{name}"), service)
    }

    fn both() -> Value {
        json!({"type": "LoadBalancer", "ipFamilies": ["IPv4", "IPv6"]})
    }

    fn route(decision: &Decision, address: &str) -> Option<String> {
        let address: IpAddr = address.parse().unwrap();
        let found = decision.routes.iter().find(|((to, _), _)| *to == address);
        found.map(|(_, node)| node.to_string())
    }

    #[test]
    fn a_service_gets_an_address_in_each_of_its_families_and_keeps_it() {
        let block = Block::numbered(64).unwrap();
        let objects = Objects {
            services: [service("old", both(), &["10.64.1.2", "fd00:64:1::2"]), service("web", both(), &[])]
                .into(),
            nodes: [node("node-a", 1, "True")].into(),
            ..Objects::default()
        };
        let decision = decide(&objects, block);
        let expected = ["10.64.1.1", "fd00:64:1::1"].map(|ip| ip.parse().unwrap()).to_vec();
        assert_eq!(decision.statuses, [("shop/web".to_owned(), expected)].into());
        assert_eq!(route(&decision, "10.64.1.2").as_deref(), Some("10.64.0.1"));
        assert_eq!(route(&decision, "fd00:64:1::1").as_deref(), Some("fd00:64::1"));
    }

    #[test]
    fn packets_go_to_a_ready_node_and_with_a_local_policy_to_one_with_endpoints() {
        let block = Block::numbered(64).unwrap();
        let mut local = both();
        local["externalTrafficPolicy"] = json!("Local");
        let slice = json!({
            "metadata": {"namespace": "shop", "name": "local-x", "labels": {"kubernetes.io/service-name": "local"}},
            "endpoints": [{"nodeName": "node-c", "conditions": {"ready": true}}, {"nodeName": "node-b", "conditions": {"ready": false}}],
        });
        let objects = Objects {
            services: [service("any", both(), &["10.64.1.1"]), service("local", local, &["10.64.1.2"])]
                .into(),
            slices: [("shop/local-x".to_owned(), slice)].into(),
            nodes: [node("node-a", 1, "False"), node("node-b", 2, "True"), node("node-c", 3, "True")].into(),
        };
        let decision = decide(&objects, block);
        for (to, expected) in
            [("10.64.64.0", "10.64.0.2"), ("10.64.1.1", "10.64.0.2"), ("10.64.1.2", "10.64.0.3")]
        {
            assert_eq!(route(&decision, to).as_deref(), Some(expected), "{to}");
        }
    }

    #[test]
    fn a_service_of_another_type_loses_its_address_and_one_of_another_class_is_left_alone() {
        let foreign = json!({"type": "LoadBalancer", "ipFamilies": ["IPv4"], "loadBalancerClass": "x/y"});
        let objects = Objects {
            services: [
                service("plain", json!({"type": "ClusterIP", "ipFamilies": ["IPv4"]}), &["10.64.1.1"]),
                service("foreign", foreign, &["192.0.2.1"]),
            ]
            .into(),
            ..Objects::default()
        };
        let decision = decide(&objects, Block::numbered(64).unwrap());
        assert_eq!(decision.statuses, [("shop/plain".to_owned(), Vec::new())].into());
        assert!(decision.routes.is_empty());
    }
}
