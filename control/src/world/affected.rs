// SPDX-License-Identifier: Apache-2.0
//! Which outputs an event can change. Too many costs time, too few would be wrong: the property "incremental equals
//! rebuild" guards it.

use std::collections::BTreeSet;

use super::{
    Settings,
    objects::{Name, Objects},
};
use crate::{
    objects::{
        AuthorizationPolicy, EndpointSlice, Gateway, GatewayClass, Kind, Labels, Namespace, Node, Object,
        ObjectKey, PeerAuthentication, Service, ServiceEntry,
    },
    translate::{
        entry, member, peer, policy,
        route::{self, Reference},
        service, slice,
        waypoint::{self, Binder, Covers},
        workload,
    },
};

/// The objects whose outputs or reports must be made again.
#[derive(Debug, Default)]
pub(super) struct Affected {
    pub(super) keys: BTreeSet<ObjectKey>,
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
            Kind::Pod | Kind::WorkloadEntry | Kind::ServiceAccount | Kind::WorkloadGroup => {}
            Kind::Node => add.node(&name.1, step!(Node, old, new)),
            Kind::Namespace => add.namespace(&name.1, step!(Namespace, old, new)),
            Kind::Service => add.service(&name, step!(Service, old, new)),
            Kind::EndpointSlice => add.slice(step!(EndpointSlice, old, new)),
            Kind::ServiceEntry => add.entry(step!(ServiceEntry, old, new)),
            Kind::Gateway => add.gateway(&name, step!(Gateway, old, new)),
            Kind::GatewayClass => add.gateway_class(&name.1, step!(GatewayClass, old, new)),
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute => {}
            Kind::AuthorizationPolicy => add.authorization(&name.0, step!(AuthorizationPolicy, old, new)),
            Kind::PeerAuthentication => add.peer(&name.0, step!(PeerAuthentication, old, new)),
        }
        let referred = [old, new].into_iter().flatten().flat_map(route::referred);
        for reference in referred {
            self.keys.extend(objects.routes_to(&reference).cloned());
        }
        self.keys.insert(key);
    }

    /// Adds the routes whose parents are affected: their waypoint may be another.
    pub(super) fn routes(&mut self, objects: &Objects) {
        let parents = self.keys.iter().filter(|key| matches!(key.kind, Kind::Service | Kind::ServiceEntry));
        let reference =
            |key: &ObjectKey| Reference::Object(key.kind, (key.namespace.clone(), key.name.clone()));
        let routes: Vec<_> = parents.flat_map(|key| objects.routes_to(&reference(key)).cloned()).collect();
        self.keys.extend(routes);
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
        let relabelled = labels(old) != labels(new);
        if relabelled || distribution(old) != distribution(new) {
            self.services(name);
        }
        if !relabelled {
            return;
        }
        let binder = Binder { objects: self.objects, settings: self.settings };
        let named = [old, new].map(|namespace| namespace.and_then(waypoint::namespace_names));
        let all = named.iter().flatten().any(|gateway| binder.covers_workloads(gateway));
        if all {
            self.workloads(name, |_| true);
            return;
        }
        // A gateway elsewhere may choose by the labels of the namespace.
        let pods = self.objects.pods_of(name).filter(|(_, pod)| waypoint::names_any(&pod.metadata));
        self.affected.insert(Kind::Pod, pods.map(|(name, _)| name.clone()));
        let entries = self.objects.workload_entries_of(name);
        let entries = entries.filter(|(_, entry)| waypoint::names_any(&entry.metadata));
        self.affected.insert(Kind::WorkloadEntry, entries.map(|(name, _)| name.clone()));
    }

    fn service(&mut self, name: &Name, step: Step<'_, Service>) {
        let (old, new) = step;
        if old.map(|service| &service.spec) == new.map(|service| &service.spec) {
            return;
        }
        for service in [old, new].into_iter().flatten() {
            self.members(&name.0, |labels| service::selects(service, labels));
            let slices: Vec<(&Name, &EndpointSlice)> = self.objects.slices_of(name).collect();
            if slice::feeds(service) {
                let pods = slices.iter().flat_map(|(_, slice)| slice::pods(slice));
                self.affected.insert(Kind::Pod, pods.collect::<Vec<_>>());
            }
            self.affected.insert(Kind::EndpointSlice, slices.into_iter().map(|(name, _)| name.clone()));
            // It comes before service entries of its host, also of other namespaces.
            if let Some(name) = service::name(self.settings, service) {
                let rivals: Vec<&Name> =
                    self.objects.entries_for(&name.hostname).map(|(name, _)| name).collect();
                self.rivals(&name.namespace, rivals);
            }
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
        let (old, new) = (old.map(facts), new.map(facts));
        if old != new {
            let covers = [old, new].into_iter().flatten().map(|facts| facts.covers);
            self.users(
                name,
                covers.into_iter().any(|covers| matches!(covers, Covers::Workload | Covers::All)),
            );
        }
    }

    fn gateway_class(&mut self, name: &str, (old, new): Step<'_, GatewayClass>) {
        if old.map(|class| &class.metadata.labels) == new.map(|class| &class.metadata.labels)
            && old.map(|class| &class.metadata.annotations) == new.map(|class| &class.metadata.annotations)
        {
            return;
        }
        let gateways: Vec<Name> = self
            .objects
            .gateways()
            .filter(|(_, gateway)| gateway.spec.gateway_class_name == name)
            .map(|(name, _)| name.clone())
            .collect();
        for gateway in gateways {
            self.users(&gateway, true);
        }
    }

    /// Whoever has a gateway as its waypoint, or is a part of it.
    fn users(&mut self, gateway: &Name, covers_workloads: bool) {
        for key in self.objects.bound_to(gateway) {
            if key.kind == Kind::Namespace {
                self.services(&key.name);
                if covers_workloads {
                    self.workloads(&key.name, |_| true);
                }
            }
            self.affected.keys.insert(key.clone());
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
