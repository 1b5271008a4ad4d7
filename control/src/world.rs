// SPDX-License-Identifier: Apache-2.0
//! The objects as they are now and what proxies are told because of them.
//!
//! Events come from anywhere (a folder, a watch of the API server) in any order. Only what an event can affect is
//! translated again; the result is always what a fresh World would say of the same objects.

mod affected;
mod automatic;
mod bindings;
mod changes;
mod guards;
mod objects;
mod outputs;
mod settings;

use std::collections::BTreeMap;

use mesh::{
    Authentication, Change, Policy, PolicyName, Route, RouteName, Service, ServiceName, Telemetry,
    TelemetryName, Traffic, Workload, WorkloadUid,
};

use self::{
    affected::Affected,
    bindings::Bindings,
    changes::Changes,
    guards::Guards,
    outputs::{Batch, Outputs},
};
pub(crate) use self::{automatic::Claim, objects::Name};
pub use self::{objects::Objects, settings::Settings};
pub use crate::translate::{guard::Standing, waypoint::Bound};
use crate::{
    objects::{Kind, Object, ObjectKey},
    report::Report,
    translate::{
        self, Translation, entry, guard,
        member::Guarded,
        peer, policy,
        route::{self, Attachment, Routed},
        service, slice, telemetry, tls, traffic,
        waypoint::{Binder, Guard},
        workload, workload_entry,
    },
};

/// Something happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there, like this.
    Applied(Box<Object>),
    /// It is gone.
    Deleted(ObjectKey),
    /// Its source has this to say about how it was read, in place of what it said before.
    Noted(ObjectKey, Vec<Report>),
    /// It is there and cannot be read, for these reasons; what is known of it stays.
    Broken(ObjectKey, Vec<Report>),
}

/// What becomes of a broken object that was good before, and of one that was never seen so.
const STAYS: &str = "what was last good of it stays in force until control starts again";
const NOTHING: &str = "nothing of it is in force";

/// See the module.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    objects: Objects,
    workloads: Outputs<WorkloadUid, Workload>,
    services: Outputs<ServiceName, Service>,
    policies: Outputs<PolicyName, Policy>,
    routes: Outputs<RouteName, Route>,
    telemetries: Outputs<TelemetryName, Telemetry>,
    traffic: Outputs<ServiceName, Traffic>,
    /// Policies that waypoints enforce, and whose tokens they believe.
    attached: Outputs<PolicyName, mesh::Guard>,
    authentications: Outputs<PolicyName, Authentication>,
    /// What became of the parents of a route, or of the targets of a policy of TLS.
    attachments: BTreeMap<ObjectKey, Vec<Attachment>>,
    static_strict: Option<Policy>,
    guards: Guards,
    bindings: Bindings,
    reports: BTreeMap<ObjectKey, Vec<Report>>,
    /// What the source of an object has said.
    notes: BTreeMap<ObjectKey, Vec<Report>>,
    news: Vec<Report>,
}

impl World {
    /// An empty world.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            objects: Objects::default(),
            workloads: Outputs::default(),
            services: Outputs::default(),
            policies: Outputs::default(),
            routes: Outputs::default(),
            telemetries: Outputs::default(),
            traffic: Outputs::default(),
            attached: Outputs::default(),
            authentications: Outputs::default(),
            attachments: BTreeMap::new(),
            static_strict: None,
            guards: Guards::default(),
            bindings: Bindings::default(),
            reports: BTreeMap::new(),
            notes: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What there is to say about objects.
    pub fn reports(&self) -> impl Iterator<Item = &Report> {
        self.notes.values().chain(self.reports.values()).flatten()
    }

    /// What there is to say about one object.
    pub fn reports_of(&self, key: &ObjectKey) -> impl Iterator<Item = &Report> {
        self.notes.get(key).into_iter().chain(self.reports.get(key)).flatten()
    }

    /// What became of the parents of a route, or of the targets of a policy of TLS; nothing of those that are no part of the
    /// mesh.
    pub(crate) fn attachments_of(&self, key: &ObjectKey) -> &[Attachment] {
        self.attachments.get(key).map_or(&[], Vec::as_slice)
    }

    /// What is said of a policy with a target.
    pub fn standing(&self, key: &ObjectKey, reports: &[&Report]) -> Option<Standing> {
        guard::standing(&self.objects, &self.settings, key, reports)
    }

    /// What is said of the waypoint of an object, if it is to have one.
    pub fn bound(&self, key: &ObjectKey) -> Option<Bound> {
        Binder { objects: &self.objects, settings: &self.settings }.bound(key)
    }

    /// What there would be to say about a policy, route or entry if it were there; about others, nothing.
    pub(crate) fn opinion(&self, object: &Object) -> Vec<Report> {
        let (objects, settings) = (&self.objects, &self.settings);
        match object {
            Object::AuthorizationPolicy(object) if object.spec.is_for_waypoints() => {
                guard::translate(objects, settings, object).reports
            }
            Object::AuthorizationPolicy(object) => policy::translate(settings, object).reports,
            Object::RequestAuthentication(object) => guard::authentication(objects, settings, object).reports,
            Object::PeerAuthentication(object) => peer::translate(objects, settings, object).reports,
            Object::ServiceEntry(object) => entry::translate(objects, settings, object).reports,
            Object::WorkloadEntry(object) => workload_entry::translate(objects, settings, object).reports,
            Object::WorkloadGroup(object) => workload_entry::group(object).reports,
            Object::Namespace(_)
            | Object::Node(_)
            | Object::ServiceAccount(_)
            | Object::ConfigMap(_)
            | Object::Pod(_)
            | Object::Service(_)
            | Object::EndpointSlice(_)
            | Object::Gateway(_)
            | Object::GatewayClass(_) => Vec::new(),
            Object::HTTPRoute(object) => route::http(objects, settings, object).reports,
            Object::GRPCRoute(object) => route::grpc(objects, settings, object).reports,
            Object::TLSRoute(object) => route::tls(objects, settings, object).reports,
            Object::TCPRoute(object) => route::tcp(objects, settings, object).reports,
            Object::BackendTLSPolicy(object) => tls::translate(objects, settings, object).reports,
            Object::Telemetry(object) => telemetry::translate(settings, object).reports,
        }
    }

    /// What there is to say that was not said before, once.
    pub fn news(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.news)
    }

    /// Everything that proxies are told, as if all of it were new.
    pub fn outputs(&self) -> impl Iterator<Item = Change> {
        let policies = self.policies.values().chain(&self.static_strict).chain(self.guards.values());
        let services = self.services.values().cloned().map(Change::Service);
        let workloads = self.workloads.values().cloned().map(Change::Workload);
        let routes = self.routes.values().cloned().map(Change::Route);
        let attached = self.attached.values().cloned().map(Change::Guard);
        let authentications = self.authentications.values().cloned().map(Change::Authentication);
        let telemetries = self.telemetries.values().cloned().map(Change::Telemetry);
        let traffic = self.traffic.values().cloned().map(Change::Traffic);
        let told = policies.cloned().map(Change::Policy).chain(authentications).chain(attached);
        told.chain(services).chain(workloads).chain(traffic).chain(routes).chain(telemetries)
    }

    /// Takes events and returns what changes for proxies. What others name comes before them and goes after them: a
    /// workload never names a policy that was not told.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Change> {
        let mut affected = Affected::default();
        for event in events {
            let (key, new) = match event {
                Event::Applied(object) => (object.key(), Some(*object)),
                Event::Deleted(key) => {
                    self.notes.remove(&key);
                    (key, None)
                }
                Event::Noted(key, notes) => {
                    told(&mut self.notes, &mut self.news, key, notes);
                    continue;
                }
                Event::Broken(key, mut reasons) => {
                    let stands = if self.objects.contains(&key) { STAYS } else { NOTHING };
                    for reason in &mut reasons {
                        reason.message = format!("{}; {stands}", reason.message);
                    }
                    told(&mut self.notes, &mut self.news, key, reasons);
                    continue;
                }
            };
            let old = match new.clone() {
                Some(object) => self.objects.insert(object),
                None => self.objects.remove(&key),
            };
            if old != new {
                affected.add(&self.objects, &self.settings, old.as_ref(), new.as_ref());
            }
        }
        if affected.claims {
            affected.entries(self.objects.allocate());
        }
        affected.routes(&self.objects);
        self.translate(affected)
    }

    fn translate(&mut self, affected: Affected) -> Vec<Change> {
        let mut batches = Batches::default();
        let gateways = affected.gateways;
        let peers = affected.keys.iter().any(|key| key.kind == Kind::PeerAuthentication);
        for key in affected.keys {
            let reports = batches.translate(&self.objects, &self.settings, &key);
            told(&mut self.reports, &mut self.news, key, reports);
        }
        let mut changes = Changes::default();
        let policy_gone = |was: Policy| Change::PolicyGone(was.name);
        changes.add(self.policies.replace(batches.policies), Change::Policy, policy_gone);
        if peers {
            let now = peer::static_strict(&self.objects, &self.settings);
            let was = std::mem::replace(&mut self.static_strict, now.clone());
            changes.add((was != now).then_some((was, now)), Change::Policy, policy_gone);
        }
        let guards = self.guards.replace(batches.guards, &gateways, (&self.objects, &self.settings));
        changes.add(guards, Change::Policy, policy_gone);
        let authentications = self.authentications.replace(batches.authentications);
        changes.add(authentications, Change::Authentication, |was| Change::AuthenticationGone(was.name));
        let attached = self.attached.replace(batches.attached);
        changes.add(attached, Change::Guard, |was| Change::GuardGone(was.name));
        let services = self.services.replace(batches.services);
        services.iter().for_each(|replaced| self.bindings.service(replaced));
        changes.add(services, Change::Service, |was| Change::ServiceGone(was.key()));
        let workloads = self.workloads.replace(batches.workloads);
        workloads.iter().for_each(|replaced| self.bindings.workload(replaced));
        changes.add(workloads, Change::Workload, |was| Change::WorkloadGone(was.uid));
        let traffic = self.traffic.replace(batches.traffic);
        changes.add(traffic, Change::Traffic, |was| Change::TrafficGone(was.service));
        let routes = self.routes.replace(batches.routes);
        routes.iter().for_each(|replaced| self.bindings.route(replaced));
        changes.add(routes, Change::Route, |was| Change::RouteGone(was.name));
        let telemetries = self.telemetries.replace(batches.telemetries);
        changes.add(telemetries, Change::Telemetry, |was| Change::TelemetryGone(was.name));
        for (key, attachments) in batches.attachments {
            if attachments.is_empty() {
                self.attachments.remove(&key);
            } else {
                self.attachments.insert(key, attachments);
            }
        }
        changes.in_order()
    }
}

/// Keeps what is said about an object; what is new is news.
fn told(
    known: &mut BTreeMap<ObjectKey, Vec<Report>>,
    news: &mut Vec<Report>,
    key: ObjectKey,
    reports: Vec<Report>,
) {
    let before = known.get(&key).map_or(&[] as &[Report], Vec::as_slice);
    news.extend(reports.iter().filter(|report| !before.contains(report)).cloned());
    if reports.is_empty() {
        known.remove(&key);
    } else {
        known.insert(key, reports);
    }
}

/// What objects become now.
#[derive(Default)]
struct Batches {
    policies: Batch<PolicyName, Policy>,
    services: Batch<ServiceName, Service>,
    workloads: Batch<WorkloadUid, Workload>,
    routes: Batch<RouteName, Route>,
    telemetries: Batch<TelemetryName, Telemetry>,
    traffic: Batch<ServiceName, Traffic>,
    attachments: Vec<(ObjectKey, Vec<Attachment>)>,
    attached: Batch<PolicyName, mesh::Guard>,
    authentications: Batch<PolicyName, Authentication>,
    guards: Vec<(ObjectKey, Vec<Guard>)>,
}

impl Batches {
    /// Translates one object and returns what there is to say about it.
    fn translate(&mut self, objects: &Objects, settings: &Settings, key: &ObjectKey) -> Vec<Report> {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Namespace => {
                let found = objects.namespace(&name.1);
                said(found.map(|object| translate::namespace(objects, settings, object))).1
            }
            Kind::Node | Kind::ConfigMap => Vec::new(),
            Kind::ServiceAccount => {
                let found = objects.service_account(&name);
                said(found.map(|object| translate::service_account(objects, settings, object))).1
            }
            Kind::Pod => {
                let found = objects.pod(&name).map(|object| workload::translate(objects, settings, object));
                self.take_guarded(key, said(found))
            }
            Kind::WorkloadEntry => {
                let found = objects.workload_entry(&name);
                let found = found.map(|object| workload_entry::translate(objects, settings, object));
                self.take_guarded(key, said(found))
            }
            Kind::EndpointSlice => {
                let found = objects.slice(&name).map(|object| slice::translate(objects, settings, object));
                let (output, reports) = said(found);
                self.take_workloads(key, (output.into_iter().flatten(), reports))
            }
            Kind::Service => self.translate_service(objects, settings, key, &name),
            Kind::ServiceEntry => self.translate_entry(objects, settings, key, &name),
            Kind::WorkloadGroup => said(objects.workload_group(&name).map(workload_entry::group)).1,
            Kind::Gateway => {
                let found = objects.gateway(&name);
                said(found.map(|object| translate::gateway(objects, settings, object))).1
            }
            Kind::GatewayClass => said(objects.gateway_class(&name.1).map(translate::gateway_class)).1,
            Kind::HTTPRoute | Kind::GRPCRoute | Kind::TLSRoute | Kind::TCPRoute => {
                self.take_route(key, said(route::translate(objects, settings, key)))
            }
            Kind::AuthorizationPolicy => self.take_authorization(objects, settings, key),
            Kind::RequestAuthentication => self.take_authentication(objects, settings, key),
            Kind::PeerAuthentication => {
                let found = objects.peer(&name).map(|object| peer::translate(objects, settings, object));
                self.take_policies(key, said(found))
            }
            Kind::BackendTLSPolicy => {
                let found = objects.tls_policy(&name).map(|object| tls::translate(objects, settings, object));
                let (attachments, reports) = said(found);
                self.attachments.push((key.clone(), attachments.unwrap_or_default()));
                reports
            }
            Kind::Telemetry => {
                let found = objects.telemetry(&name).map(|object| telemetry::translate(settings, object));
                self.take_telemetry(key, said(found))
            }
        }
    }

    /// Where a service is, and how its traffic is handled.
    fn translate_service(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        key: &ObjectKey,
        name: &Name,
    ) -> Vec<Report> {
        let object = objects.service(name);
        let found = object.map(|object| service::translate(objects, settings, object));
        let traffic = object.map(|object| traffic::translate(objects, settings, object));
        let mut reports = self.take_services(key, said(found));
        reports.extend(self.take_traffic(key, said(traffic)));
        reports
    }

    fn translate_entry(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        key: &ObjectKey,
        name: &Name,
    ) -> Vec<Report> {
        let object = objects.entry(name);
        let (output, mut reports) = said(object.map(|object| entry::translate(objects, settings, object)));
        let (services, workloads) =
            output.map(|output| (output.services, output.workloads)).unwrap_or_default();
        self.take_services(key, (services, Vec::new()));
        self.take_workloads(key, (workloads, Vec::new()));
        let traffic = object.map(|object| traffic::of_entry(objects, settings, object));
        reports.extend(self.take_traffic(key, said(traffic)));
        reports
    }

    fn take_guarded(&mut self, key: &ObjectKey, said: Said<Option<Guarded>>) -> Vec<Report> {
        let (workload, guards) =
            said.0.map(|Guarded { workload, guards }| (Some(workload), guards)).unwrap_or_default();
        self.guards.push((key.clone(), guards));
        self.take_workloads(key, (workload, said.1))
    }

    fn take_authorization(&mut self, objects: &Objects, settings: &Settings, key: &ObjectKey) -> Vec<Report> {
        let found = objects.authorization(&(key.namespace.clone(), key.name.clone()));
        let (attached, of_nodes) = match found {
            Some(object) if object.spec.is_for_waypoints() => {
                (Some(guard::translate(objects, settings, object)), None)
            }
            _ => (None, found.map(|object| policy::translate(settings, object))),
        };
        let (attached, mut reports) = said(attached);
        let outputs = attached.into_iter().map(|output| (output.name.clone(), output));
        self.attached.push((key.clone(), outputs.collect()));
        reports.extend(self.take_policies(key, said(of_nodes)));
        reports
    }

    fn take_authentication(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        key: &ObjectKey,
    ) -> Vec<Report> {
        let found = objects.request_authentication(&(key.namespace.clone(), key.name.clone()));
        let (output, reports) = said(found.map(|object| guard::authentication(objects, settings, object)));
        let outputs = output.into_iter().map(|output| (output.name.clone(), output));
        self.authentications.push((key.clone(), outputs.collect()));
        reports
    }

    fn take_policies(
        &mut self,
        key: &ObjectKey,
        said: Said<impl IntoIterator<Item = Policy>>,
    ) -> Vec<Report> {
        let outputs = said.0.into_iter().map(|output| (output.name.clone(), output));
        self.policies.push((key.clone(), outputs.collect()));
        said.1
    }

    fn take_route(&mut self, key: &ObjectKey, said: Said<Option<Routed>>) -> Vec<Report> {
        let (route, attachments) =
            said.0.map(|routed| (routed.route, routed.attachments)).unwrap_or_default();
        let outputs = route.into_iter().map(|route| (route.name.clone(), route));
        self.routes.push((key.clone(), outputs.collect()));
        self.attachments.push((key.clone(), attachments));
        said.1
    }

    fn take_telemetry(&mut self, key: &ObjectKey, said: Said<Option<Telemetry>>) -> Vec<Report> {
        let outputs = said.0.into_iter().map(|output| (output.name.clone(), output));
        self.telemetries.push((key.clone(), outputs.collect()));
        said.1
    }

    fn take_traffic(&mut self, key: &ObjectKey, said: Said<Option<Vec<Traffic>>>) -> Vec<Report> {
        let outputs = said.0.into_iter().flatten().map(|output| (output.service.clone(), output));
        self.traffic.push((key.clone(), outputs.collect()));
        said.1
    }

    fn take_services(
        &mut self,
        key: &ObjectKey,
        said: Said<impl IntoIterator<Item = Service>>,
    ) -> Vec<Report> {
        let outputs = said.0.into_iter().map(|output| (output.key(), output));
        self.services.push((key.clone(), outputs.collect()));
        said.1
    }

    fn take_workloads(
        &mut self,
        key: &ObjectKey,
        said: Said<impl IntoIterator<Item = Workload>>,
    ) -> Vec<Report> {
        let outputs = said.0.into_iter().map(|output| (output.uid.clone(), output));
        self.workloads.push((key.clone(), outputs.collect()));
        said.1
    }
}

/// Outputs and reports.
type Said<T> = (T, Vec<Report>);

/// Of an object that is gone there are none.
fn said<T>(translation: Option<Translation<T>>) -> Said<Option<T>> {
    translation.map_or_else(|| (None, Vec::new()), |translation| (translation.output, translation.reports))
}

#[cfg(test)]
mod tests;
