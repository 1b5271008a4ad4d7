// SPDX-License-Identifier: Apache-2.0
//! What a proxy knows of the mesh: plain data with lookups.
//!
//! No lock, no async, no clock; it does not know where changes come from (`xds::Replica` feeds it) and decides nothing.
//! The same final set of resources gives the same answers whatever the order they came in, but for one case: of several
//! workloads that claim an address at the same time, the newest has it.

mod change;
mod claims;
mod endpoints;
mod guards;
mod intern;
pub(crate) mod neighbours;
mod nodes;
mod policies;
mod routes;
mod telemetries;
mod vips;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;

pub use self::change::{Change, Moved, Touched};
use self::{
    claims::Claims,
    endpoints::Endpoints,
    guards::{Authentications, Guards},
    intern::Interner,
    nodes::Nodes,
    policies::Policies,
    routes::Routes,
    telemetries::Telemetries,
    vips::Vips,
};
use crate::{
    authz::rules::Rulebook,
    l7::{
        Authentication, Guard, Route, RouteName, Traffic, View,
        guard::{Attachment, Book},
    },
    name::{Hostname, NetworkAddress, PolicyName, ServiceName, SpiffeId, WorkloadUid},
    policy::Policy,
    service::{Scope, Service},
    telemetry::{self, Telemetry},
    workload::{NetworkMode, Workload, WorkloadKey},
};

/// Workloads, services and policies, found by every key that a decision needs.
#[derive(Debug, Default)]
pub struct Index {
    workloads: HashMap<WorkloadUid, Arc<Workload>>,
    by_address: Claims<NetworkAddress>,
    by_key: Claims<WorkloadKey>,
    nodes: Nodes,
    services: HashMap<ServiceName, Arc<Service>>,
    by_host: HashMap<Hostname, BTreeMap<ArcStr, Arc<Service>>>,
    vips: Vips,
    endpoints: Endpoints,
    policies: Policies,
    routes: Routes,
    telemetries: Telemetries,
    traffic: HashMap<ServiceName, Arc<Traffic>>,
    guards: Guards,
    authentications: Authentications,
    interner: Interner,
}

/// Changes.
impl Index {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies a change and says what it touched; a change to what is known already touches nothing.
    pub fn apply(&mut self, change: Change) -> Touched {
        match change {
            Change::Workload(workload) => self.put_workload(workload),
            Change::WorkloadGone(uid) => match self.workloads.remove(&uid) {
                Some(before) => self.replace_workload(Some(&before), None),
                None => Touched::default(),
            },
            Change::Service(service) => self.put_service(service),
            Change::ServiceGone(name) => {
                self.endpoints.prefer(&name, preference(None));
                Touched { services: self.remove_service(&name), ..Touched::default() }
            }
            Change::Policy(policy) => {
                let known = self.policies.named(&policy.name).is_some_and(|known| **known == policy);
                if !known {
                    self.policies.insert(policy);
                }
                Touched { policies: !known, ..Touched::default() }
            }
            Change::PolicyGone(name) => {
                Touched { policies: self.policies.remove(&name), ..Touched::default() }
            }
            Change::Route(route) => Touched { routes: self.routes.insert(route), ..Touched::default() },
            Change::RouteGone(name) => Touched { routes: self.routes.remove(&name), ..Touched::default() },
            Change::Telemetry(telemetry) => {
                Touched { telemetry: self.telemetries.insert(telemetry), ..Touched::default() }
            }
            Change::TelemetryGone(name) => {
                Touched { telemetry: self.telemetries.remove(&name), ..Touched::default() }
            }
            Change::Traffic(traffic) => {
                let known = self.traffic.get(&traffic.service).is_some_and(|known| **known == traffic);
                if !known {
                    self.traffic.insert(traffic.service.clone(), Arc::new(traffic));
                }
                Touched { routes: !known, ..Touched::default() }
            }
            Change::TrafficGone(name) => {
                Touched { routes: self.traffic.remove(&name).is_some(), ..Touched::default() }
            }
            Change::Guard(guard) => Touched { guards: self.guards.insert(guard), ..Touched::default() },
            Change::GuardGone(name) => Touched { guards: self.guards.remove(&name), ..Touched::default() },
            Change::Authentication(authentication) => {
                Touched { authentications: self.authentications.insert(authentication), ..Touched::default() }
            }
            Change::AuthenticationGone(name) => {
                Touched { authentications: self.authentications.remove(&name), ..Touched::default() }
            }
        }
    }

    fn put_workload(&mut self, mut workload: Workload) -> Touched {
        let before = self.workloads.get(&workload.uid).map(Arc::clone);
        if before.as_deref() == Some(&workload) {
            return Touched::default();
        }
        if let Some(before) = &before {
            workload.uid = before.uid.clone();
        }
        self.interner.workload(&mut workload);
        let workload = Arc::new(workload);
        self.workloads.insert(workload.uid.clone(), Arc::clone(&workload));
        self.replace_workload(before.as_ref(), Some(&workload))
    }

    /// Brings every lookup from one state of a workload to the next.
    fn replace_workload(&mut self, before: Option<&Arc<Workload>>, after: Option<&Arc<Workload>>) -> Touched {
        let moved = self.replace_addresses(before, after);
        let key = after.map(|after| after.key());
        if let Some(before) = before
            && key.as_ref() != Some(&before.key())
        {
            self.by_key.release(&before.key(), &before.uid);
        }
        let mut selections = BTreeSet::new();
        if let (Some(after), Some(key)) = (after, key) {
            if before.is_none_or(|before| before.policies != after.policies || before.key() != key) {
                selections.insert(key.clone());
            }
            self.by_key.claim(key, after);
            let services = &self.services;
            self.endpoints.insert(after, |name| preference(services.get(name)));
        }
        if let Some(before) = before {
            self.endpoints.remove(before, after.map(Arc::as_ref));
        }
        let nodes = self.nodes.replace(before.map(Arc::as_ref), after.map(Arc::as_ref));
        Touched { moved, selections, workloads: true, nodes, ..Touched::default() }
    }

    fn replace_addresses(
        &mut self,
        before: Option<&Arc<Workload>>,
        after: Option<&Arc<Workload>>,
    ) -> Vec<Moved> {
        let claimed = before.map(addresses).unwrap_or_default();
        let claims = after.map(addresses).unwrap_or_default();
        let mut moved = Vec::new();
        for address in claimed.union(&claims) {
            let was = self.by_address.holder(address).map(|holder| holder.identity());
            match (before, after) {
                (_, Some(after)) if claims.contains(address) => self.by_address.claim(address.clone(), after),
                (Some(before), _) => self.by_address.release(address, &before.uid),
                (None, _) => {}
            }
            let now = self.by_address.holder(address).map(|holder| holder.identity());
            if let Some(was) = was
                && now.as_ref() != Some(&was)
            {
                moved.push(Moved { address: address.clone(), was, now });
            }
        }
        moved
    }

    fn put_service(&mut self, service: Service) -> Touched {
        let name = service.key();
        if self.services.get(&name).is_some_and(|known| **known == service) {
            return Touched::default();
        }
        self.remove_service(&name);
        let service = Arc::new(service);
        self.vips.insert(&service);
        self.endpoints.prefer(&name, preference(Some(&service)));
        self.by_host
            .entry(name.hostname.clone())
            .or_default()
            .insert(name.namespace.clone(), Arc::clone(&service));
        self.services.insert(name, service);
        Touched { services: true, ..Touched::default() }
    }

    fn remove_service(&mut self, name: &ServiceName) -> bool {
        let Some(service) = self.services.remove(name) else { return false };
        self.vips.remove(&service);
        if let Some(namespaces) = self.by_host.get_mut(&name.hostname) {
            namespaces.remove(&name.namespace);
            if namespaces.is_empty() {
                self.by_host.remove(&name.hostname);
            }
        }
        true
    }
}

/// Lookups.
impl Index {
    /// A workload by its uid.
    pub fn workload(&self, uid: &WorkloadUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The workload that owns an address: of several the one that claimed it last. Workloads on the host's network are
    /// not found here.
    pub fn workload_at(&self, address: &NetworkAddress) -> Option<&Arc<Workload>> {
        self.by_address.holder(address)
    }

    /// Workloads that a node would know by this key, the newest first; more than one in a mesh of several clusters.
    pub fn workloads_named(&self, key: &WorkloadKey) -> impl Iterator<Item = &Arc<Workload>> {
        self.by_key.all(key)
    }

    /// A service by its name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The service behind a virtual address as a client of `namespace` sees it: its own namespace's goes first, then the
    /// narrowest range, then the canonical one.
    pub fn service_at(&self, address: &NetworkAddress, namespace: &str) -> Option<&Arc<Service>> {
        self.vips.service_at(address, namespace)
    }

    /// Services of this host name that a client of `namespace` may see, by namespace.
    pub fn services_of_host<'a>(
        &'a self,
        host: &Hostname,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Service>> {
        let known = self.by_host.get(host).into_iter().flat_map(BTreeMap::values);
        known.filter(move |service| service.visible_to(namespace))
    }

    /// Endpoints of a service that its health policy admits, by uid.
    pub fn endpoints<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.members(&service.key()).iter().filter(|workload| service.admits(workload))
    }

    /// All workloads that name a service, whatever their health, by uid.
    pub fn members(&self, service: &ServiceName) -> &[Arc<Workload>] {
        self.endpoints.of(service).map(|group| group.workloads.as_slice()).unwrap_or_default()
    }

    /// No endpoint of the service has a larger capacity.
    pub(crate) fn heaviest(&self, service: &ServiceName) -> u32 {
        self.endpoints.of(service).map_or(0, |group| group.heaviest)
    }

    /// Endpoints that share at least the first `count` of these scopes with a client, and perhaps some that do not;
    /// `None` where they are not kept apart by these scopes, as of a small service.
    pub(crate) fn sharing(
        &self,
        service: &ServiceName,
        client: &Workload,
        (scopes, count): (&[Scope], usize),
    ) -> Option<&[Arc<Workload>]> {
        self.endpoints.of(service)?.neighbours.sharing(client, scopes, count)
    }

    /// A policy by its name.
    pub fn policy(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.policies.named(name)
    }

    /// Policies that apply to every workload of a namespace, indexed by rule.
    pub(crate) fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Rulebook> + Clone {
        self.policies.of_namespace(namespace)
    }

    /// Identities of the workloads of a node that accept tunnels: those whose certificates are worth having ready.
    pub fn identities_on(&self, node: &str) -> impl Iterator<Item = &SpiffeId> {
        self.nodes.identities(node)
    }

    /// All workloads, in no order.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// All policies, in no order.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.policies.iter()
    }

    /// A route by its name.
    pub fn route(&self, name: &RouteName) -> Option<&Arc<Route>> {
        self.routes.named(name)
    }

    /// The routes attached to a port of a service, as clients of a namespace see them; `None` without any.
    pub fn routes_for(&self, service: &ServiceName, port: u16, namespace: &str) -> Option<&View> {
        self.routes.view(service, port, namespace)
    }

    /// What is to be observed of requests to a service that pass a waypoint.
    pub fn telemetry(
        &self,
        namespace: &str,
        waypoint: &str,
        service: Option<&ServiceName>,
    ) -> telemetry::View {
        self.telemetries.view(namespace, waypoint, service)
    }

    /// All Telemetries, by name.
    pub fn telemetries(&self) -> impl Iterator<Item = &Arc<Telemetry>> {
        self.telemetries.iter()
    }

    /// A guard by its name.
    pub fn guard(&self, name: &PolicyName) -> Option<&Arc<Guard>> {
        self.guards.named(name)
    }

    /// The guards of an attachment, indexed by rule; `None` without any.
    pub fn guards_at(&self, attachment: &Attachment) -> Option<&Book> {
        self.guards.at(attachment)
    }

    /// All guards, in no order.
    pub fn guards(&self) -> impl Iterator<Item = &Arc<Guard>> {
        self.guards.iter()
    }

    /// The authentications of an attachment, by name.
    pub fn authentications_at(&self, attachment: &Attachment) -> &[Arc<Authentication>] {
        self.authentications.at(attachment)
    }

    /// All authentications, in no order.
    pub fn authentications(&self) -> impl Iterator<Item = &Arc<Authentication>> {
        self.authentications.iter()
    }

    /// All routes, in no order.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }

    /// How the traffic of a service is handled; nothing where nothing is said.
    pub fn traffic(&self, service: &ServiceName) -> Option<&Arc<Traffic>> {
        self.traffic.get(service)
    }

    /// All that is said of the traffic of services, in no order.
    pub fn traffics(&self) -> impl Iterator<Item = &Arc<Traffic>> {
        self.traffic.values()
    }

    /// Services that workloads belong to and that have not arrived, with their endpoints.
    pub fn staged(&self) -> impl Iterator<Item = (&ServiceName, &[Arc<Workload>])> {
        self.endpoints
            .iter()
            .filter(|(name, _)| !self.services.contains_key(name))
            .map(|(name, group)| (name, group.workloads.as_slice()))
    }
}

fn preference(service: Option<&Arc<Service>>) -> &[Scope] {
    service.map(|service| service.load_balancing.preference()).unwrap_or_default()
}

/// Addresses by which a workload is found: none when they are its node's.
fn addresses(workload: &Arc<Workload>) -> BTreeSet<NetworkAddress> {
    match workload.network_mode {
        NetworkMode::Standard => {
            let network = &workload.network;
            workload.addresses.iter().map(|ip| NetworkAddress::new(network.clone(), *ip)).collect()
        }
        NetworkMode::HostNetwork => BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests;
