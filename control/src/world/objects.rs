// SPDX-License-Identifier: Apache-2.0
//! The objects as they are now, with the lookups that translation needs. It translates nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use arcstr::ArcStr;
use jiff::Timestamp;
use mesh::Hostname;

use super::automatic::{Automatic, Claim, Pair};
use crate::{
    objects::{
        AuthorizationPolicy, BackendTLSPolicy, ConfigMap, EndpointSlice, GRPCRoute, Gateway, GatewayClass,
        HTTPRoute, Kind, Namespace, Node, Object, ObjectKey, PeerAuthentication, Pod, RequestAuthentication,
        Service, ServiceAccount, ServiceEntry, TCPRoute, TLSRoute, Telemetry, WorkloadEntry, WorkloadGroup,
    },
    translate::{
        entry, guard,
        route::{self, Reference},
        slice, tls, waypoint,
    },
};

/// Namespace and name.
pub(crate) type Name = (ArcStr, ArcStr);

/// Service account (namespace and name) and node.
type Placement = (ArcStr, ArcStr, ArcStr);

/// The objects.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    namespaces: BTreeMap<ArcStr, Namespace>,
    nodes: BTreeMap<ArcStr, Node>,
    service_accounts: BTreeMap<Name, ServiceAccount>,
    config_maps: BTreeMap<Name, ConfigMap>,
    pods: BTreeMap<Name, Pod>,
    services: BTreeMap<Name, Service>,
    slices: BTreeMap<Name, EndpointSlice>,
    entries: BTreeMap<Name, ServiceEntry>,
    workload_entries: BTreeMap<Name, WorkloadEntry>,
    workload_groups: BTreeMap<Name, WorkloadGroup>,
    gateways: BTreeMap<Name, Gateway>,
    gateway_classes: BTreeMap<ArcStr, GatewayClass>,
    http_routes: BTreeMap<Name, HTTPRoute>,
    grpc_routes: BTreeMap<Name, GRPCRoute>,
    tls_routes: BTreeMap<Name, TLSRoute>,
    tcp_routes: BTreeMap<Name, TCPRoute>,
    tls_policies: BTreeMap<Name, BackendTLSPolicy>,
    authorization: BTreeMap<Name, AuthorizationPolicy>,
    peer: BTreeMap<Name, PeerAuthentication>,
    telemetries: BTreeMap<Name, Telemetry>,
    request: BTreeMap<Name, RequestAuthentication>,
    /// Names of the pods that run under an account on a node.
    placements: BTreeMap<Placement, BTreeSet<Name>>,
    /// Names of the pods of a node.
    by_node: BTreeMap<ArcStr, BTreeSet<Name>>,
    /// Slices of a service.
    of_service: BTreeMap<Name, BTreeSet<Name>>,
    /// Slices that refer to a pod.
    of_pod: BTreeMap<Name, BTreeSet<Name>>,
    /// Service entries of a host.
    of_host: BTreeMap<Hostname, BTreeSet<Name>>,
    /// What names a gateway as its waypoint in its own labels.
    bound: BTreeMap<Name, BTreeSet<ObjectKey>>,
    /// Routes that refer to a service, service entry or host.
    routes_to: BTreeMap<Reference, BTreeSet<ObjectKey>>,
    /// Policies that are attached to an object, or take something from it.
    attached: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    /// Names of the gateways for a service account.
    for_account: BTreeMap<Name, BTreeSet<Name>>,
    automatic: Automatic,
}

impl Objects {
    /// Puts an object in place of the one of its key, which is returned.
    pub(super) fn insert(&mut self, object: Object) -> Option<Object> {
        let key = object.key();
        let old = self.remove(&key);
        self.index(&key, &object);
        let name = (key.namespace, key.name);
        match object {
            Object::Namespace(object) => drop(self.namespaces.insert(name.1, object)),
            Object::Node(object) => drop(self.nodes.insert(name.1, object)),
            Object::ServiceAccount(object) => drop(self.service_accounts.insert(name, object)),
            Object::ConfigMap(object) => drop(self.config_maps.insert(name, object)),
            Object::Pod(object) => drop(self.pods.insert(name, object)),
            Object::Service(object) => drop(self.services.insert(name, object)),
            Object::EndpointSlice(object) => drop(self.slices.insert(name, object)),
            Object::ServiceEntry(object) => drop(self.entries.insert(name, object)),
            Object::WorkloadEntry(object) => drop(self.workload_entries.insert(name, object)),
            Object::WorkloadGroup(object) => drop(self.workload_groups.insert(name, object)),
            Object::Gateway(object) => drop(self.gateways.insert(name, object)),
            Object::GatewayClass(object) => drop(self.gateway_classes.insert(name.1, object)),
            Object::HTTPRoute(object) => drop(self.http_routes.insert(name, object)),
            Object::GRPCRoute(object) => drop(self.grpc_routes.insert(name, object)),
            Object::TLSRoute(object) => drop(self.tls_routes.insert(name, object)),
            Object::TCPRoute(object) => drop(self.tcp_routes.insert(name, object)),
            Object::BackendTLSPolicy(object) => drop(self.tls_policies.insert(name, object)),
            Object::AuthorizationPolicy(object) => drop(self.authorization.insert(name, object)),
            Object::PeerAuthentication(object) => drop(self.peer.insert(name, object)),
            Object::Telemetry(object) => drop(self.telemetries.insert(name, object)),
            Object::RequestAuthentication(object) => drop(self.request.insert(name, object)),
        }
        old
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Object> {
        let name = (key.namespace.clone(), key.name.clone());
        let old = match key.kind {
            Kind::Namespace => self.namespaces.remove(&key.name).map(Object::Namespace),
            Kind::Node => self.nodes.remove(&key.name).map(Object::Node),
            Kind::ServiceAccount => self.service_accounts.remove(&name).map(Object::ServiceAccount),
            Kind::ConfigMap => self.config_maps.remove(&name).map(Object::ConfigMap),
            Kind::Pod => self.pods.remove(&name).map(Object::Pod),
            Kind::Service => self.services.remove(&name).map(Object::Service),
            Kind::EndpointSlice => self.slices.remove(&name).map(Object::EndpointSlice),
            Kind::ServiceEntry => self.entries.remove(&name).map(Object::ServiceEntry),
            Kind::WorkloadEntry => self.workload_entries.remove(&name).map(Object::WorkloadEntry),
            Kind::WorkloadGroup => self.workload_groups.remove(&name).map(Object::WorkloadGroup),
            Kind::Gateway => self.gateways.remove(&name).map(Object::Gateway),
            Kind::GatewayClass => self.gateway_classes.remove(&key.name).map(Object::GatewayClass),
            Kind::HTTPRoute => self.http_routes.remove(&name).map(Object::HTTPRoute),
            Kind::GRPCRoute => self.grpc_routes.remove(&name).map(Object::GRPCRoute),
            Kind::TLSRoute => self.tls_routes.remove(&name).map(Object::TLSRoute),
            Kind::TCPRoute => self.tcp_routes.remove(&name).map(Object::TCPRoute),
            Kind::BackendTLSPolicy => self.tls_policies.remove(&name).map(Object::BackendTLSPolicy),
            Kind::AuthorizationPolicy => self.authorization.remove(&name).map(Object::AuthorizationPolicy),
            Kind::PeerAuthentication => self.peer.remove(&name).map(Object::PeerAuthentication),
            Kind::Telemetry => self.telemetries.remove(&name).map(Object::Telemetry),
            Kind::RequestAuthentication => self.request.remove(&name).map(Object::RequestAuthentication),
        }?;
        self.unindex(key, &old);
        Some(old)
    }

    /// Whether an object is there.
    pub(super) fn contains(&self, key: &ObjectKey) -> bool {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Namespace => self.namespaces.contains_key(&key.name),
            Kind::Node => self.nodes.contains_key(&key.name),
            Kind::ServiceAccount => self.service_accounts.contains_key(&name),
            Kind::ConfigMap => self.config_maps.contains_key(&name),
            Kind::Pod => self.pods.contains_key(&name),
            Kind::Service => self.services.contains_key(&name),
            Kind::EndpointSlice => self.slices.contains_key(&name),
            Kind::ServiceEntry => self.entries.contains_key(&name),
            Kind::WorkloadEntry => self.workload_entries.contains_key(&name),
            Kind::WorkloadGroup => self.workload_groups.contains_key(&name),
            Kind::Gateway => self.gateways.contains_key(&name),
            Kind::GatewayClass => self.gateway_classes.contains_key(&key.name),
            Kind::HTTPRoute => self.http_routes.contains_key(&name),
            Kind::GRPCRoute => self.grpc_routes.contains_key(&name),
            Kind::TLSRoute => self.tls_routes.contains_key(&name),
            Kind::TCPRoute => self.tcp_routes.contains_key(&name),
            Kind::BackendTLSPolicy => self.tls_policies.contains_key(&name),
            Kind::AuthorizationPolicy => self.authorization.contains_key(&name),
            Kind::PeerAuthentication => self.peer.contains_key(&name),
            Kind::Telemetry => self.telemetries.contains_key(&name),
            Kind::RequestAuthentication => self.request.contains_key(&name),
        }
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            Kind::ServiceAccount => self.service_accounts.len(),
            Kind::ConfigMap => self.config_maps.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::ServiceEntry => self.entries.len(),
            Kind::WorkloadEntry => self.workload_entries.len(),
            Kind::WorkloadGroup => self.workload_groups.len(),
            Kind::Gateway => self.gateways.len(),
            Kind::GatewayClass => self.gateway_classes.len(),
            Kind::HTTPRoute => self.http_routes.len(),
            Kind::GRPCRoute => self.grpc_routes.len(),
            Kind::TLSRoute => self.tls_routes.len(),
            Kind::TCPRoute => self.tcp_routes.len(),
            Kind::BackendTLSPolicy => self.tls_policies.len(),
            Kind::AuthorizationPolicy => self.authorization.len(),
            Kind::PeerAuthentication => self.peer.len(),
            Kind::Telemetry => self.telemetries.len(),
            Kind::RequestAuthentication => self.request.len(),
        }
    }

    /// Whether a pod that has not ended runs on this node under this service account.
    pub fn runs_on(&self, namespace: &str, service_account: &str, node: &str) -> bool {
        self.placements.contains_key(&(namespace.into(), service_account.into(), node.into()))
    }

    /// The node of a pod, if it is still the pod of this UID and has not ended.
    pub fn node_of(&self, namespace: &str, pod: &str, uid: &str) -> Option<ArcStr> {
        let pod = self.pods.get(&(namespace.into(), pod.into()))?;
        let is_it = pod.metadata.uid.as_deref() == Some(uid) && !pod.is_terminal();
        pod.spec.node_name.clone().filter(|node| is_it && !node.is_empty())
    }

    /// Names of all namespaces that are not about to go.
    pub fn namespaces(&self) -> impl Iterator<Item = &ArcStr> {
        let staying = self.namespaces.values().map(|namespace| &namespace.metadata);
        staying.filter(|metadata| metadata.deletion_timestamp.is_none()).map(|metadata| &metadata.name)
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub(crate) fn service_account(&self, name: &Name) -> Option<&ServiceAccount> {
        self.service_accounts.get(name)
    }

    pub(crate) fn service_accounts_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Name, &ServiceAccount)> {
        within(&self.service_accounts, namespace)
    }

    pub(crate) fn pod(&self, name: &Name) -> Option<&Pod> {
        self.pods.get(name)
    }

    pub(crate) fn pods(&self) -> impl Iterator<Item = (&Name, &Pod)> {
        self.pods.iter()
    }

    pub(crate) fn pods_of(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Pod)> {
        within(&self.pods, namespace)
    }

    pub(crate) fn pods_on(&self, node: &str) -> impl Iterator<Item = &Name> {
        self.by_node.get(node).into_iter().flatten()
    }

    pub(crate) fn service(&self, name: &Name) -> Option<&Service> {
        self.services.get(name)
    }

    pub(crate) fn services_of(&self, namespace: &str) -> impl Iterator<Item = (&Name, &Service)> {
        within(&self.services, namespace)
    }

    pub(crate) fn slice(&self, name: &Name) -> Option<&EndpointSlice> {
        self.slices.get(name)
    }

    pub(crate) fn slices_of(&self, service: &Name) -> impl Iterator<Item = (&Name, &EndpointSlice)> {
        named(&self.of_service, service, &self.slices)
    }

    pub(crate) fn slices_with(&self, pod: &Name) -> impl Iterator<Item = (&Name, &EndpointSlice)> {
        named(&self.of_pod, pod, &self.slices)
    }

    pub(crate) fn entry(&self, name: &Name) -> Option<&ServiceEntry> {
        self.entries.get(name)
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (&Name, &ServiceEntry)> {
        self.entries.iter()
    }

    pub(crate) fn entries_of(&self, namespace: &str) -> impl Iterator<Item = (&Name, &ServiceEntry)> {
        within(&self.entries, namespace)
    }

    pub(crate) fn entries_for(&self, host: &Hostname) -> impl Iterator<Item = (&Name, &ServiceEntry)> {
        named(&self.of_host, host, &self.entries)
    }

    /// The automatic addresses of a host of a service entry.
    pub(crate) fn automatic(&self, claim: &Claim) -> Option<Pair> {
        self.automatic.of(claim)
    }

    /// Gives automatic addresses to those who need them; returns the service entries whose addresses are others now.
    pub(super) fn allocate(&mut self) -> BTreeSet<Name> {
        let claims = self.entries.values().flat_map(entry::claims);
        let now = Automatic::allocate(claims, self.entries.values().flat_map(entry::taken));
        let changed = now.differences(&self.automatic);
        self.automatic = now;
        changed
    }

    pub(crate) fn workload_entry(&self, name: &Name) -> Option<&WorkloadEntry> {
        self.workload_entries.get(name)
    }

    pub(crate) fn workload_entries(&self) -> impl Iterator<Item = (&Name, &WorkloadEntry)> {
        self.workload_entries.iter()
    }

    pub(crate) fn workload_entries_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Name, &WorkloadEntry)> {
        within(&self.workload_entries, namespace)
    }

    pub(crate) fn workload_group(&self, name: &Name) -> Option<&WorkloadGroup> {
        self.workload_groups.get(name)
    }

    pub(crate) fn gateway(&self, name: &Name) -> Option<&Gateway> {
        self.gateways.get(name)
    }

    pub(crate) fn gateways(&self) -> impl Iterator<Item = (&Name, &Gateway)> {
        self.gateways.iter()
    }

    pub(crate) fn gateway_class(&self, name: &str) -> Option<&GatewayClass> {
        self.gateway_classes.get(name)
    }

    pub(crate) fn http_route(&self, name: &Name) -> Option<&HTTPRoute> {
        self.http_routes.get(name)
    }

    pub(crate) fn grpc_route(&self, name: &Name) -> Option<&GRPCRoute> {
        self.grpc_routes.get(name)
    }

    pub(crate) fn tls_route(&self, name: &Name) -> Option<&TLSRoute> {
        self.tls_routes.get(name)
    }

    pub(crate) fn tcp_route(&self, name: &Name) -> Option<&TCPRoute> {
        self.tcp_routes.get(name)
    }

    /// Routes that refer to something.
    pub(crate) fn routes_to(&self, reference: &Reference) -> impl Iterator<Item = &ObjectKey> + use<'_> {
        self.routes_to.get(reference).into_iter().flatten()
    }

    /// What names a gateway as its waypoint in its own labels.
    pub(crate) fn bound_to(&self, gateway: &Name) -> impl Iterator<Item = &ObjectKey> {
        self.bound.get(gateway).into_iter().flatten()
    }

    /// Names of the gateways that say of themselves that they are for a service account.
    pub(crate) fn gateways_for(&self, account: &Name) -> impl Iterator<Item = (&Name, &Gateway)> {
        named(&self.for_account, account, &self.gateways)
    }

    /// A policy of TLS with servers outside the mesh.
    pub(crate) fn tls_policy(&self, name: &Name) -> Option<&BackendTLSPolicy> {
        self.tls_policies.get(name)
    }

    pub(crate) fn config_map(&self, name: &Name) -> Option<&ConfigMap> {
        self.config_maps.get(name)
    }

    /// The ConfigMaps that are there, and those that policies name.
    pub(crate) fn config_maps(&self) -> (BTreeSet<Name>, BTreeSet<Name>) {
        let named = self.tls_policies.values().flat_map(tls::maps_of).collect();
        (self.config_maps.keys().cloned().collect(), named)
    }

    /// A telemetry.
    pub(crate) fn telemetry(&self, name: &Name) -> Option<&Telemetry> {
        self.telemetries.get(name)
    }

    /// The oldest of them.
    pub(crate) fn gateway_for(&self, account: &Name) -> Option<&Gateway> {
        let age = |gateway: &Gateway| gateway.metadata.creation_timestamp.unwrap_or(Timestamp::MAX);
        let oldest = self.gateways_for(account).min_by_key(|(name, gateway)| (age(gateway), *name));
        oldest.map(|(_, gateway)| gateway)
    }

    pub(crate) fn authorization(&self, name: &Name) -> Option<&AuthorizationPolicy> {
        self.authorization.get(name)
    }

    pub(crate) fn request_authentication(&self, name: &Name) -> Option<&RequestAuthentication> {
        self.request.get(name)
    }

    /// Policies that are attached to an object, or take something from it.
    pub(crate) fn attached_to(&self, target: &ObjectKey) -> impl Iterator<Item = &ObjectKey> + use<'_> {
        self.attached.get(target).into_iter().flatten()
    }

    pub(crate) fn authorizations_of(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Name, &AuthorizationPolicy)> {
        within(&self.authorization, namespace)
    }

    pub(crate) fn peer(&self, name: &Name) -> Option<&PeerAuthentication> {
        self.peer.get(name)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = (&Name, &PeerAuthentication)> {
        self.peer.iter()
    }

    pub(crate) fn peers_of(&self, namespace: &str) -> impl Iterator<Item = (&Name, &PeerAuthentication)> {
        within(&self.peer, namespace)
    }

    fn index(&mut self, key: &ObjectKey, object: &Object) {
        let name = (key.namespace.clone(), key.name.clone());
        if let Object::Pod(pod) = object
            && let Some(node) = pod.spec.node_name.clone()
        {
            if !pod.is_terminal() {
                let placement = (name.0.clone(), pod.service_account(), node.clone());
                self.placements.entry(placement).or_default().insert(name.clone());
            }
            self.by_node.entry(node).or_default().insert(name.clone());
        }
        if let Object::EndpointSlice(slice) = object {
            for pod in slice::pods(slice) {
                self.of_pod.entry(pod).or_default().insert(name.clone());
            }
            if let Some(service) = slice::service(slice) {
                self.of_service.entry(service).or_default().insert(name.clone());
            }
        }
        if let Object::ServiceEntry(entry) = object {
            for host in entry::hosts(entry) {
                self.of_host.entry(host).or_default().insert(name.clone());
            }
        }
        for reference in route::references(object) {
            self.routes_to.entry(reference).or_default().insert(key.clone());
        }
        for target in guard::targets_of(object) {
            self.attached.entry(target).or_default().insert(key.clone());
        }
        if let Object::Gateway(gateway) = object
            && let Some(account) = waypoint::account(gateway)
        {
            let account = (name.0.clone(), account.clone());
            self.for_account.entry(account).or_default().insert(name);
        }
        for gateway in waypoint::own(object) {
            self.bound.entry(gateway).or_default().insert(key.clone());
        }
    }

    fn unindex(&mut self, key: &ObjectKey, object: &Object) {
        let name = (key.namespace.clone(), key.name.clone());
        if let Object::Pod(pod) = object
            && let Some(node) = pod.spec.node_name.clone()
        {
            take(&mut self.placements, &(name.0.clone(), pod.service_account(), node.clone()), &name);
            take(&mut self.by_node, &node, &name);
        }
        if let Object::EndpointSlice(slice) = object {
            for pod in slice::pods(slice) {
                take(&mut self.of_pod, &pod, &name);
            }
            if let Some(service) = slice::service(slice) {
                take(&mut self.of_service, &service, &name);
            }
        }
        if let Object::ServiceEntry(entry) = object {
            for host in entry::hosts(entry) {
                take(&mut self.of_host, &host, &name);
            }
        }
        for reference in route::references(object) {
            take(&mut self.routes_to, &reference, key);
        }
        for target in guard::targets_of(object) {
            take(&mut self.attached, &target, key);
        }
        if let Object::Gateway(gateway) = object
            && let Some(account) = waypoint::account(gateway)
        {
            take(&mut self.for_account, &(name.0.clone(), account.clone()), &name);
        }
        for gateway in waypoint::own(object) {
            take(&mut self.bound, &gateway, key);
        }
    }
}

/// Takes a name out of a set, and the set away when it was the last.
fn take<K: Ord, N: Ord>(sets: &mut BTreeMap<K, BTreeSet<N>>, key: &K, name: &N) {
    if let Some(names) = sets.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            sets.remove(key);
        }
    }
}

/// The entries of one namespace: they are neighbours in the map.
fn within<'a, T>(map: &'a BTreeMap<Name, T>, namespace: &str) -> impl Iterator<Item = (&'a Name, &'a T)> {
    let namespace = ArcStr::from(namespace);
    let first = Bound::Included((namespace.clone(), ArcStr::new()));
    map.range((first, Bound::Unbounded)).take_while(move |(name, _)| name.0 == namespace)
}

/// The objects that an index names.
fn named<'a, K: Ord, T>(
    index: &'a BTreeMap<K, BTreeSet<Name>>,
    key: &K,
    map: &'a BTreeMap<Name, T>,
) -> impl Iterator<Item = (&'a Name, &'a T)> {
    index.get(key).into_iter().flatten().filter_map(|name| map.get_key_value(name))
}
