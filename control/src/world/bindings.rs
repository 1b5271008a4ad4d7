// SPDX-License-Identifier: Apache-2.0
//! What a waypoint needs to know: what is bound to it, the routes of that, and where those lead.
//!
//! ```text
//!  own pod ─► its services ─► services and workloads bound to them ─► routes attached there ─► their backends
//! ```
//! Kept up with every change, so that a waypoint's part is found without a look at the rest of the mesh.

use std::collections::{BTreeSet, HashMap};

use arcstr::ArcStr;
use mesh::{
    NetworkAddress, Route, RouteName, Service, ServiceName, SpiffeId, Workload, WorkloadUid,
    l7::route::{Backend, Filter, Rules, Target},
    workload::{GatewayAddress, GatewayDestination},
};
use xds::{Kind, server::Scope};

use super::{World, outputs::Replaced};

/// How the `node.id` of a waypoint begins.
const WAYPOINT: &str = "waypoint";

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    services: HashMap<GatewayDestination, BTreeSet<ServiceName>>,
    workloads: HashMap<GatewayDestination, BTreeSet<WorkloadUid>>,
    routes: HashMap<ServiceName, BTreeSet<RouteName>>,
}

impl Bindings {
    pub(super) fn service(&mut self, (was, now): &Replaced<Service>) {
        if let Some(service) = was {
            waypoints(service).for_each(|at| take(&mut self.services, at, &service.key()));
        }
        if let Some(service) = now {
            waypoints(service).for_each(|at| put(&mut self.services, at, service.key()));
        }
    }

    pub(super) fn workload(&mut self, (was, now): &Replaced<Workload>) {
        for (workload, at) in was.iter().filter_map(|it| Some((it, it.waypoint.as_ref()?))) {
            take(&mut self.workloads, &at.destination, &workload.uid);
        }
        for (workload, at) in now.iter().filter_map(|it| Some((it, it.waypoint.as_ref()?))) {
            put(&mut self.workloads, &at.destination, workload.uid.clone());
        }
    }

    pub(super) fn route(&mut self, (was, now): &Replaced<Route>) {
        if let Some(route) = was {
            parents(route).for_each(|service| take(&mut self.routes, service, &route.name));
        }
        if let Some(route) = now {
            parents(route).for_each(|service| put(&mut self.routes, service, route.name.clone()));
        }
    }
}

fn put<K: Clone + Eq + std::hash::Hash, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: V) {
    map.entry(key.clone()).or_default().insert(value);
}

fn take<K: Eq + std::hash::Hash, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = map.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            map.remove(key);
        }
    }
}

fn waypoints(service: &Service) -> impl Iterator<Item = &GatewayDestination> {
    let weighted = service.weighted_waypoints.iter().map(|weighted| &weighted.destination);
    weighted.chain(&service.waypoint).map(|GatewayAddress { destination, .. }| destination)
}

fn parents(route: &Route) -> impl Iterator<Item = &ServiceName> {
    route.parents.iter().map(|parent| &parent.service)
}

/// The services that a route leads to.
fn backends(route: &Route) -> Vec<&ServiceName> {
    let mut targets: Vec<&Target> = Vec::new();
    match &route.rules {
        Rules::Http(rules) => {
            for rule in rules {
                targets.extend(mirrors(&rule.filters));
                targets.extend(rule.backends.iter().flat_map(|backend| mirrors(&backend.filters)));
                targets.extend(of_backends(&rule.backends));
            }
        }
        Rules::Tls(rules) => targets.extend(rules.iter().flat_map(|rule| of_backends(&rule.backends))),
        Rules::Tcp(rules) => targets.extend(rules.iter().flat_map(|rule| of_backends(&rule.backends))),
    }
    targets.into_iter().filter_map(service).collect()
}

fn service(target: &Target) -> Option<&ServiceName> {
    match target {
        Target::Service { name, .. } => Some(name),
        Target::Refused(_) => None,
    }
}

fn of_backends(backends: &[Backend]) -> impl Iterator<Item = &Target> {
    backends.iter().map(|backend| &backend.target)
}

fn mirrors(filters: &[Filter]) -> impl Iterator<Item = &Target> {
    filters.iter().filter_map(|filter| match filter {
        Filter::Mirror(mirror) => Some(&mirror.target),
        Filter::RequestHeaders(_)
        | Filter::ResponseHeaders(_)
        | Filter::Redirect(_)
        | Filter::Rewrite(_)
        | Filter::Cors(_) => None,
    })
}

impl World {
    /// The part of the mesh that is for a proxy, by what it calls itself and who it is; nothing: all of it. A waypoint whose
    /// pod is not known yet, or runs under another account, is told of its pod only.
    pub fn scope(&self, node: &str, caller: &SpiffeId) -> Option<Scope> {
        let mut parts = node.split('~');
        if parts.next() != Some(WAYPOINT) {
            return None;
        }
        let (name, namespace) = parts.nth(1).and_then(|pod| pod.split_once('.')).unwrap_or_default();
        let uid = format!("{}//Pod/{namespace}/{name}", self.settings.cluster);
        let mut addresses = BTreeSet::from([ArcStr::from(uid.as_str())]);
        let mut routes = BTreeSet::new();
        let own = WorkloadUid::parse(&uid).ok().and_then(|uid| self.workloads.named(&uid));
        if let Some(own) = own.filter(|own| own.identity() == *caller) {
            let text = |name: &ServiceName| arcstr::format!("{name}");
            addresses.extend(own.services.keys().map(text));
            let mut services = BTreeSet::new();
            for destination in self.destinations(own) {
                services.extend(self.bindings.services.get(&destination).into_iter().flatten().cloned());
                for uid in self.bindings.workloads.get(&destination).into_iter().flatten() {
                    addresses.insert(uid.as_str().into());
                    let bound = self.workloads.named(uid);
                    // What their ports speak is said by their services.
                    addresses.extend(bound.into_iter().flat_map(|bound| bound.services.keys()).map(text));
                }
            }
            let attached = services.iter().filter_map(|service| self.bindings.routes.get(service)).flatten();
            for route in attached.filter_map(|name| self.routes.named(name)) {
                addresses.extend(backends(route).into_iter().map(text));
                routes.insert(arcstr::format!("{}", route.name));
            }
            addresses.extend(services.iter().map(text));
        }
        let traffic = addresses.clone();
        let scope = Scope::default().only(Kind::Address, addresses).only(Kind::Route, routes);
        // What is said of a service goes by the service's name.
        Some(scope.only(Kind::Traffic, traffic))
    }

    /// All by which a waypoint may be named: its services and addresses.
    fn destinations(&self, own: &Workload) -> Vec<GatewayDestination> {
        let mut all = Vec::new();
        let at = |ip| GatewayDestination::Address(NetworkAddress::new(own.network.clone(), ip));
        for name in own.services.keys() {
            all.push(GatewayDestination::Hostname(name.clone()));
            let vips = self.services.named(name).into_iter().flat_map(|service| &service.vips);
            all.extend(vips.filter_map(mesh::service::Vip::address).map(at));
        }
        all.extend(own.addresses.iter().copied().map(at));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{events, settings};

    /// A namespace of which one service is behind a waypoint, with a route to a service of another namespace, and much else.
    const SHOP: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gate, namespace: shop, labels: {istio.io/waypoint-for: all}}
spec: {gatewayClassName: ambit-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
status: {addresses: [{type: Hostname, value: gate.shop.svc.cluster.local}]}
---
apiVersion: v1
kind: Service
metadata: {name: gate, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {gateway.networking.k8s.io/gateway-name: gate}, ports: [{port: 15008}]}
---
apiVersion: v1
kind: Pod
metadata: {name: gate-0, namespace: shop, labels: {gateway.networking.k8s.io/gateway-name: gate}}
spec: {serviceAccountName: gate, nodeName: a}
status: {phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec: {clusterIP: 10.1.0.2, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: other, namespace: shop}
spec: {clusterIP: 10.1.0.3, selector: {app: other}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web-v2, namespace: bank}
spec: {clusterIP: 10.1.0.4, selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: bound, namespace: shop, labels: {istio.io/use-waypoint: gate}}
spec: {nodeName: a}
status: {phase: Running, podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}]}
";
    const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web}]
  rules: [{backendRefs: [{name: web-v2, namespace: bank, port: 80}]}]
";
    const NODE: &str = "waypoint~10.0.0.1~gate-0.shop~shop.svc.cluster.local";

    fn told(world: &World, node: &str, account: &str) -> Option<(Vec<String>, Vec<String>)> {
        let caller = format!("spiffe://cluster.local/ns/shop/sa/{account}").parse().unwrap();
        let scope = world.scope(node, &caller)?;
        let names = |kind| scope.names(kind).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(scope.names(Kind::Authorization), None);
        Some((names(Kind::Address), names(Kind::Route)))
    }

    fn service(name: &str, namespace: &str) -> String {
        format!("{namespace}/{name}.{namespace}.svc.cluster.local")
    }

    #[test]
    fn a_waypoint_is_told_of_what_is_bound_to_it_and_of_where_that_leads() {
        let mut world = World::new(settings());
        world.apply(events(SHOP));
        let (own, bound) = ("Kubernetes//Pod/shop/gate-0", "Kubernetes//Pod/shop/bound");
        let base = vec![own.to_owned(), bound.to_owned(), service("gate", "shop"), service("web", "shop")];
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(told(&world, NODE, "gate"), Some((sorted(base.clone()), vec![])));
        world.apply(events(ROUTE));
        let with_backend = base.iter().cloned().chain([service("web-v2", "bank")]).collect();
        let expected = (sorted(with_backend), vec!["HTTPRoute/shop/web".to_owned()]);
        assert_eq!(told(&world, NODE, "gate"), Some(expected));
        // The same objects without the label, and without the route.
        let route = events(ROUTE).into_iter().map(|event| match event {
            super::super::Event::Applied(object) => super::super::Event::Deleted(object.key()),
            other => other,
        });
        world.apply(route.collect::<Vec<_>>());
        world.apply(events(&SHOP.replace(
            "{name: web, namespace: shop, labels: {istio.io/use-waypoint: gate}}",
            "{name: web, namespace: shop}",
        )));
        let without = vec![own.to_owned(), bound.to_owned(), service("gate", "shop")];
        assert_eq!(told(&world, NODE, "gate"), Some((sorted(without), vec![])));
        assert!(world.bindings.services.is_empty() && world.bindings.routes.is_empty());
    }

    #[test]
    fn who_is_no_waypoint_is_told_everything_and_who_is_not_this_one_nothing() {
        let mut world = World::new(settings());
        world.apply(events(SHOP));
        assert_eq!(told(&world, "ztunnel~10.0.0.9~z.istio-system~x", "ztunnel"), None);
        let own = |name: &str| Some((vec![format!("Kubernetes//Pod/shop/{name}")], vec![]));
        assert_eq!(told(&world, NODE, "somebody-else"), own("gate-0"));
        assert_eq!(told(&world, &NODE.replace("gate-0", "gate-1"), "gate"), own("gate-1"));
    }
}
