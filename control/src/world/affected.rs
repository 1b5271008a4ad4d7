// SPDX-License-Identifier: Apache-2.0
//! Which outputs an event can change. Too many costs time, too few would be wrong: the property "incremental equals
//! rebuild" guards it.

use std::collections::BTreeSet;

use arcstr::ArcStr;

use super::{
    Settings,
    objects::{Name, Objects},
};
use crate::{
    objects::{
        AuthorizationPolicy, BackendTLSPolicy, EndpointSlice, Gateway, GatewayClass, Kind, Labels, Metadata,
        Namespace, Node, Object, ObjectKey, PeerAuthentication, Pod, Service, ServiceAccount, ServiceEntry,
    },
    translate::{
        entry, member, peer, policy,
        route::{self, Reference},
        service, slice, tls, waypoint, workload,
    },
};

/// The objects whose outputs or reports must be made again.
#[derive(Debug, Default)]
pub(super) struct Affected {
    pub(super) keys: BTreeSet<ObjectKey>,
    /// Gateways whose instances may run under other accounts now.
    pub(super) gateways: BTreeSet<Name>,
    /// Whether others may need automatic addresses now.
    pub(super) claims: bool,
}

/// An object before and after an event.
type Step<'a, T> = (Option<&'a T>, Option<&'a T>);

/// Both ends of a step as one kind.
macro_rules! step {
    ($kind:ident, $old:expr, $new:expr) => {
        (
            $old.and_then(|object| if let Object::$kind(object) = object { Some(object) } else { None }),
            $new.and_then(|object| if let Object::$kind(object) = object { Some(object) } else { None }),
        )
    };
}

impl Affected {
    /// Adds what the step of an object from `old` to `new` affects; `objects` is after the step.
    pub(super) fn add(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        old: Option<&Object>,
        new: Option<&Object>,
    ) {
        let Some(object) = new.or(old) else { return };
        let key = object.key();
        let name = (key.namespace.clone(), key.name.clone());
        let add = &mut Adding { affected: self, objects, settings };
        match key.kind {
            Kind::WorkloadEntry | Kind::WorkloadGroup => {}
            Kind::Pod => add.pod(&name.0, step!(Pod, old, new)),
            Kind::ServiceAccount => add.service_account(&name, step!(ServiceAccount, old, new)),
            Kind::Node => add.node(&name.1, step!(Node, old, new)),
            Kind::Namespace => add.namespace(&name.1, step!(Namespace, old, new)),
            Kind::Service => add.service(&name, step!(Service, old, new)),
            Kind::EndpointSlice => add.slice(step!(EndpointSlice, old, new)),
            Kind::ServiceEntry => add.entry(step!(ServiceEntry, old, new)),
            Kind::Gateway => add.gateway(&name, step!(Gateway, old, new)),
            Kind::GatewayClass => add.gateway_class(&name.1, step!(GatewayClass, old, new)),
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute => {}
            Kind::RequestAuthentication | Kind::Telemetry => {}
            Kind::BackendTLSPolicy => add.tls(step!(BackendTLSPolicy, old, new)),
            Kind::ConfigMap => add.config_map(&key),
            Kind::AuthorizationPolicy => add.authorization(&name.0, step!(AuthorizationPolicy, old, new)),
            Kind::PeerAuthentication => add.peer(&name.0, step!(PeerAuthentication, old, new)),
        }
        let referred = [old, new].into_iter().flatten().flat_map(route::referred);
        for reference in referred {
            self.keys.extend(objects.routes_to(&reference).cloned());
        }
        let (was, is): Step<'_, Gateway> = step!(Gateway, old, new);
        let classes = was.into_iter().chain(is).map(|gateway| class(&gateway.spec.gateway_class_name));
        for target in classes.chain([key.clone()]) {
            self.keys.extend(objects.attached_to(&target).cloned());
        }
        self.keys.insert(key);
    }

    /// Adds the routes and policies whose parents and targets are affected: their waypoint may be another.
    pub(super) fn routes(&mut self, objects: &Objects) {
        let parents = self.keys.iter().filter(|key| matches!(key.kind, Kind::Service | Kind::ServiceEntry));
        let reference =
            |key: &ObjectKey| Reference::Object(key.kind, (key.namespace.clone(), key.name.clone()));
        let routes: Vec<_> = parents.flat_map(|key| objects.routes_to(&reference(key)).cloned()).collect();
        let targets = self.keys.iter().filter(|key| matches!(key.kind, Kind::Service | Kind::ServiceEntry));
        let policies: Vec<_> = targets.flat_map(|key| objects.attached_to(key).cloned()).collect();
        self.keys.extend(routes.into_iter().chain(policies));
    }

    /// Adds service entries.
    pub(super) fn entries(&mut self, names: impl IntoIterator<Item = Name>) {
        self.insert(Kind::ServiceEntry, names);
    }

    fn insert(&mut self, kind: Kind, names: impl IntoIterator<Item = Name>) {
        let key = |(namespace, name)| ObjectKey { kind, namespace, name };
        self.keys.extend(names.into_iter().map(key));
    }
}

struct Adding<'a> {
    affected: &'a mut Affected,
    objects: &'a Objects,
    settings: &'a Settings,
}

impl Adding<'_> {
    /// Of a node only its place matters here; its status changes all the time.
    fn node(&mut self, name: &str, (old, new): Step<'_, Node>) {
        if old.map(workload::locality) != new.map(workload::locality) {
            self.affected.insert(Kind::Pod, self.objects.pods_on(name).cloned());
        }
    }

    fn namespace(&mut self, name: &str, (old, new): Step<'_, Namespace>) {
        let labels =
            |namespace: Option<&Namespace>| namespace.map(|namespace| namespace.metadata.labels.clone());
        let distribution = |namespace: Option<&Namespace>| {
            namespace.and_then(|namespace| service::distribution_of(&namespace.metadata, None))
        };
        let relabelled = labels(old) != labels(new)
            || rewished(old.map(|object| &object.metadata), new.map(|object| &object.metadata));
        if relabelled || distribution(old) != distribution(new) {
            self.services(name);
        }
        if !relabelled {
            return;
        }
        let accounts = self.objects.service_accounts_of(name);
        let accounts = accounts.filter(|(_, object)| waypoint::names_any(&object.metadata));
        self.affected.insert(Kind::ServiceAccount, accounts.map(|(name, _)| name.clone()));
        if [old, new].into_iter().flatten().any(|namespace| waypoint::names_any(&namespace.metadata)) {
            self.workloads(name, |_| true);
            return;
        }
        self.binders(name);
    }

    /// Workloads of a namespace that are bound without it: a gateway elsewhere may choose by the labels of the namespace.
    fn binders(&mut self, namespace: &str) {
        let objects = self.objects;
        let pods = objects.pods_of(namespace).filter(|(_, pod)| waypoint::names_any(&pod.metadata));
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let entries = objects.workload_entries_of(namespace);
        let entries = entries.filter(|(_, entry)| waypoint::names_any(&entry.metadata));
        self.affected.insert(Kind::WorkloadEntry, entries.map(|(name, _)| name.clone()));
        let services =
            objects.services_of(namespace).filter(|(_, object)| waypoint::names_any(&object.metadata));
        for (name, service) in services {
            self.endpoints(name, service);
        }
        let entries =
            objects.entries_of(namespace).filter(|(_, object)| waypoint::names_any(&object.metadata));
        for (_, entry) in entries {
            self.members(namespace, |labels| entry::selects(entry, labels));
        }
        let accounts = objects
            .service_accounts_of(namespace)
            .filter(|(_, object)| waypoint::names_any(&object.metadata));
        for (name, _) in accounts {
            self.of_account(name);
        }
    }

    /// Workloads that run under a service account.
    fn of_account(&mut self, account: &Name) {
        let objects = self.objects;
        let (namespace, account) = account;
        let pods = objects.pods_of(namespace).filter(|(_, pod)| pod.service_account() == *account);
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let machines = objects.workload_entries_of(namespace);
        let machines = machines.filter(|(_, entry)| entry::service_account(&entry.spec) == *account);
        self.affected.insert(Kind::WorkloadEntry, machines.map(|(name, _)| name.clone()));
        let entries = objects.entries_of(namespace).filter(|(_, entry)| entry::has_account(entry, account));
        self.affected.insert(Kind::ServiceEntry, entries.map(|(name, _)| name.clone()));
    }

    fn service_account(&mut self, name: &Name, (old, new): Step<'_, ServiceAccount>) {
        if rewished(old.map(|object| &object.metadata), new.map(|object| &object.metadata)) {
            self.of_account(name);
        }
    }

    /// Instances of a gateway are who it is.
    fn pod(&mut self, namespace: &ArcStr, (old, new): Step<'_, Pod>) {
        let gateways =
            [old, new].into_iter().flatten().filter_map(|pod| waypoint::part_of(&pod.metadata.labels));
        self.affected.gateways.extend(gateways.map(|gateway| (namespace.clone(), gateway.clone())));
    }

    fn service(&mut self, name: &Name, step: Step<'_, Service>) {
        let (old, new) = step;
        if old.map(|service| &service.spec) == new.map(|service| &service.spec)
            && !rewished(old.map(|object| &object.metadata), new.map(|object| &object.metadata))
        {
            return;
        }
        for service in [old, new].into_iter().flatten() {
            self.endpoints(name, service);
            let slices = self.objects.slices_of(name).map(|(name, _)| name.clone());
            self.affected.insert(Kind::EndpointSlice, slices);
            // It comes before service entries of its host, also of other namespaces.
            if let Some(name) = service::name(self.settings, service) {
                let rivals: Vec<&Name> =
                    self.objects.entries_for(&name.hostname).map(|(name, _)| name).collect();
                self.rivals(&name.namespace, rivals);
            }
        }
    }

    /// The workloads that are endpoints of a service.
    fn endpoints(&mut self, name: &Name, service: &Service) {
        self.members(&name.0, |labels| service::selects(service, labels));
        if slice::feeds(service) {
            let pods = self.objects.slices_of(name).flat_map(|(_, slice)| slice::pods(slice));
            self.affected.insert(Kind::Pod, pods.collect::<Vec<_>>());
        }
    }

    /// Service entries of which one may have won or lost a host.
    fn rivals(&mut self, namespace: &str, rivals: Vec<&Name>) {
        for name in rivals {
            if name.0 == namespace
                && let Some(entry) = self.objects.entry(name)
            {
                self.members(namespace, |labels| entry::selects(entry, labels));
            }
            self.affected.entries([name.clone()]);
        }
    }

    fn slice(&mut self, (old, new): Step<'_, EndpointSlice>) {
        let services = [old, new].into_iter().flatten().filter_map(slice::service);
        let fed = services.filter_map(|name| self.objects.service(&name)).any(slice::feeds);
        if fed {
            self.affected.insert(Kind::Pod, slice::moved(old, new));
        }
    }

    fn entry(&mut self, (old, new): Step<'_, ServiceEntry>) {
        let claims = |entry: Option<&ServiceEntry>| -> BTreeSet<_> {
            entry.into_iter().flat_map(entry::claims).collect()
        };
        let taken = |entry: Option<&ServiceEntry>| -> BTreeSet<_> {
            entry.into_iter().flat_map(entry::taken).collect()
        };
        self.affected.claims |= claims(old) != claims(new) || taken(old) != taken(new);
        if !entry::shapes_members(old, new) {
            return;
        }
        for entry in [old, new].into_iter().flatten() {
            let namespace = &entry.metadata.namespace;
            self.members(namespace, |labels| entry::selects(entry, labels));
            self.rivals(namespace, entry::siblings(self.objects, entry));
        }
    }

    fn gateway(&mut self, name: &Name, (old, new): Step<'_, Gateway>) {
        let facts = |gateway: &Gateway| {
            let class = self.objects.gateway_class(&gateway.spec.gateway_class_name);
            waypoint::facts(self.settings, gateway, class)
        };
        let accounts = [old, new].map(|gateway| gateway.and_then(waypoint::account).cloned());
        if old.map(facts) != new.map(facts) {
            self.users(name);
        } else if accounts[0] == accounts[1] {
            return;
        }
        for account in accounts.into_iter().flatten() {
            let account = (name.0.clone(), account);
            let rivals: Vec<Name> =
                self.objects.gateways_for(&account).map(|(name, _)| name.clone()).collect();
            self.affected.insert(Kind::Gateway, rivals);
            self.of_account(&account);
        }
    }

    fn gateway_class(&mut self, name: &str, (old, new): Step<'_, GatewayClass>) {
        let labels = |class: Option<&GatewayClass>| {
            class.map(|GatewayClass { metadata, spec }| {
                (metadata.labels.clone(), metadata.annotations.clone(), spec.controller_name.clone())
            })
        };
        if labels(old) == labels(new) {
            return;
        }
        let gateways: Vec<(Name, Option<ArcStr>)> = self
            .objects
            .gateways()
            .filter(|(_, gateway)| gateway.spec.gateway_class_name == name)
            .map(|(name, gateway)| (name.clone(), waypoint::account(gateway).cloned()))
            .collect();
        for (gateway, account) in gateways {
            self.users(&gateway);
            if let Some(account) = account {
                self.of_account(&(gateway.0.clone(), account));
            }
            self.affected.insert(Kind::Gateway, [gateway]);
        }
    }

    /// Whoever has a gateway as its waypoint, or is a part of it.
    fn users(&mut self, gateway: &Name) {
        self.affected.gateways.insert(gateway.clone());
        let bound: Vec<ObjectKey> = self.objects.bound_to(gateway).cloned().collect();
        for key in bound {
            let name = (key.namespace.clone(), key.name.clone());
            match key.kind {
                Kind::Namespace => {
                    self.services(&key.name);
                    self.workloads(&key.name, |_| true);
                }
                Kind::Service => {
                    if let Some(service) = self.objects.service(&name) {
                        self.endpoints(&name, service);
                    }
                }
                Kind::ServiceEntry => {
                    if let Some(entry) = self.objects.entry(&name) {
                        self.members(&name.0, |labels| entry::selects(entry, labels));
                    }
                }
                Kind::ServiceAccount => self.of_account(&name),
                Kind::Pod
                | Kind::WorkloadEntry
                | Kind::Node
                | Kind::EndpointSlice
                | Kind::WorkloadGroup
                | Kind::Gateway
                | Kind::GatewayClass
                | Kind::HTTPRoute
                | Kind::GRPCRoute
                | Kind::TLSRoute
                | Kind::TCPRoute
                | Kind::ConfigMap
                | Kind::BackendTLSPolicy
                | Kind::AuthorizationPolicy
                | Kind::PeerAuthentication
                | Kind::RequestAuthentication
                | Kind::Telemetry => {}
            }
            self.affected.keys.insert(key);
        }
        let part = |labels: &Labels| waypoint::is_part_of(labels, &gateway.1);
        let objects = self.objects;
        let pods = objects.pods_of(&gateway.0).filter(|(_, pod)| part(&pod.metadata.labels));
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let services = objects.services_of(&gateway.0).filter(|(_, service)| part(&service.metadata.labels));
        self.affected.insert(Kind::Service, services.map(|(name, _)| name.clone()));
        let entries = objects.entries_of(&gateway.0).filter(|(_, entry)| part(&entry.metadata.labels));
        self.affected.insert(Kind::ServiceEntry, entries.map(|(name, _)| name.clone()));
        let entries =
            objects.workload_entries_of(&gateway.0).filter(|(_, entry)| part(&entry.metadata.labels));
        self.affected.insert(Kind::WorkloadEntry, entries.map(|(name, _)| name.clone()));
    }

    /// Also who else is attached there: `routes` adds them.
    fn tls(&mut self, (old, new): Step<'_, BackendTLSPolicy>) {
        self.affected.keys.extend([old, new].into_iter().flatten().flat_map(tls::services_of));
    }

    fn config_map(&mut self, key: &ObjectKey) {
        let objects = self.objects;
        let policies = objects
            .attached_to(key)
            .filter_map(|policy| objects.tls_policy(&(policy.namespace.clone(), policy.name.clone())));
        self.affected.keys.extend(policies.flat_map(tls::services_of));
    }

    fn authorization(&mut self, namespace: &str, (old, new): Step<'_, AuthorizationPolicy>) {
        for object in [old, new].into_iter().flatten() {
            self.enforcers(namespace, |labels| policy::is_named_by(object, labels));
        }
    }

    /// A mode without a selector is inherited by other objects and workloads of its namespace, or of the mesh.
    fn peer(&mut self, namespace: &str, (old, new): Step<'_, PeerAuthentication>) {
        for object in [old, new].into_iter().flatten() {
            if object.spec.selector.is_some() {
                self.workloads(namespace, |labels| peer::selects(object, labels));
                continue;
            }
            self.enforcers(namespace, |_| true);
            if namespace == self.settings.root_namespace {
                let peers = self.objects.peers().map(|(name, _)| name.clone());
                self.affected.insert(Kind::PeerAuthentication, peers);
            } else {
                let peers = self.objects.peers_of(namespace).map(|(name, _)| name.clone());
                self.affected.insert(Kind::PeerAuthentication, peers);
            }
        }
    }

    /// Workloads that objects of a namespace may hold for: its own, or of the root namespace all.
    fn enforcers(&mut self, namespace: &str, selected: impl Fn(&Labels) -> bool) {
        if namespace != self.settings.root_namespace {
            self.workloads(namespace, selected);
            return;
        }
        let objects = self.objects;
        let pods = objects.pods().filter(|(_, pod)| selected(&pod.metadata.labels));
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let machines = objects.workload_entries().filter(|(_, entry)| selected(&entry.labels()));
        self.affected.insert(Kind::WorkloadEntry, machines.map(|(name, _)| name.clone()));
        let entries = objects.entries().filter(|(_, entry)| has_endpoint(entry, &selected));
        self.affected.insert(Kind::ServiceEntry, entries.map(|(name, _)| name.clone()));
    }

    /// Workloads of a namespace by their labels, also endpoints of service entries.
    fn workloads(&mut self, namespace: &str, selected: impl Fn(&Labels) -> bool) {
        let objects = self.objects;
        let entries = objects.entries_of(namespace).filter(|(_, entry)| has_endpoint(entry, &selected));
        self.affected.insert(Kind::ServiceEntry, entries.map(|(name, _)| name.clone()));
        self.members(namespace, selected);
    }

    /// Workloads of a namespace that selectors of services look at.
    fn members(&mut self, namespace: &str, selected: impl Fn(&Labels) -> bool) {
        let objects = self.objects;
        let pods = objects.pods_of(namespace).filter(|(_, pod)| selected(&pod.metadata.labels));
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let machines = objects.workload_entries_of(namespace).filter(|(_, entry)| selected(&entry.labels()));
        self.affected.insert(Kind::WorkloadEntry, machines.map(|(name, _)| name.clone()));
    }

    /// Services of a namespace, of both kinds.
    fn services(&mut self, namespace: &str) {
        let objects = self.objects;
        self.affected.insert(Kind::Service, objects.services_of(namespace).map(|(name, _)| name.clone()));
        self.affected.insert(Kind::ServiceEntry, objects.entries_of(namespace).map(|(name, _)| name.clone()));
    }
}

/// The key of a class of gateways.
fn class(name: &ArcStr) -> ObjectKey {
    ObjectKey { kind: Kind::GatewayClass, namespace: ArcStr::new(), name: name.clone() }
}

/// Whether an object wishes another waypoint than before, for itself or for others.
fn rewished(old: Option<&Metadata>, new: Option<&Metadata>) -> bool {
    old.map(waypoint::wishes) != new.map(waypoint::wishes)
}

/// Whether one of the workloads that a service entry becomes has such labels.
fn has_endpoint(entry: &ServiceEntry, selected: impl Fn(&Labels) -> bool) -> bool {
    let listed = entry.spec.endpoints.iter().map(|endpoint| &endpoint.labels);
    let mut labels = listed.map(|labels| member::merged(&entry.metadata, labels));
    if entry.spec.endpoints.is_empty() {
        selected(&entry.metadata.labels)
    } else {
        labels.any(|labels| selected(&labels))
    }
}
