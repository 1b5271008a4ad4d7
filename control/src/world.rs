// SPDX-License-Identifier: Apache-2.0
//! The objects as they are now and what proxies are told because of them.
//!
//! Events come from anywhere (a folder, a watch of the API server) in any order. Only what an event can affect is
//! translated again; the result is always what a fresh World would say of the same objects.

mod affected;
mod objects;
mod settings;

use std::collections::BTreeMap;

use mesh::{Change, Policy, Service, Workload};

use self::affected::Affected;
pub(crate) use self::objects::Name;
pub use self::{objects::Objects, settings::Settings};
use crate::{
    objects::{Kind, Object, ObjectKey},
    report::Report,
    translate::{self, Translation, peer, policy, service, workload},
};

/// Something happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there, like this.
    Applied(Box<Object>),
    /// It is gone.
    Deleted(ObjectKey),
}

/// See the module.
#[derive(Debug)]
pub struct World {
    settings: Settings,
    objects: Objects,
    workloads: BTreeMap<Name, Workload>,
    services: BTreeMap<Name, Service>,
    policies: BTreeMap<Name, Policy>,
    converted: BTreeMap<Name, Policy>,
    static_strict: Option<Policy>,
    reports: BTreeMap<ObjectKey, Vec<Report>>,
    news: Vec<Report>,
}

impl World {
    /// An empty world.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            objects: Objects::default(),
            workloads: BTreeMap::new(),
            services: BTreeMap::new(),
            policies: BTreeMap::new(),
            converted: BTreeMap::new(),
            static_strict: None,
            reports: BTreeMap::new(),
            news: Vec::new(),
        }
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// What there is to say about objects.
    pub fn reports(&self) -> impl Iterator<Item = &Report> {
        self.reports.values().flatten()
    }

    /// What there is to say that was not said before, once.
    pub fn news(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.news)
    }

    /// Everything that proxies are told, as if all of it were new.
    pub fn outputs(&self) -> impl Iterator<Item = Change> {
        let policies = self.policies.values().chain(self.converted.values()).chain(&self.static_strict);
        let services = self.services.values().cloned().map(Change::Service);
        let workloads = self.workloads.values().cloned().map(Change::Workload);
        policies.cloned().map(Change::Policy).chain(services).chain(workloads)
    }

    /// Takes events and returns what changes for proxies. What others name comes before them and goes after them: a
    /// workload never names a policy that was not told.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<Change> {
        let mut affected = Affected::default();
        for event in events {
            let (key, new) = match event {
                Event::Applied(object) => (object.key(), Some(*object)),
                Event::Deleted(key) => (key, None),
            };
            let old = match new.clone() {
                Some(object) => self.objects.insert(object),
                None => self.objects.remove(&key),
            };
            if old != new {
                affected.add(&self.objects, &self.settings, old.as_ref(), new.as_ref());
            }
        }
        self.translate(&affected)
    }

    fn translate(&mut self, affected: &Affected) -> Vec<Change> {
        let mut changes = Changes::default();
        for name in &affected.namespaces {
            let found = self.objects.namespace(&name.1).map(translate::namespace);
            self.told(Kind::Namespace, name, found);
        }
        for name in &affected.authorizations {
            let found =
                self.objects.authorization(name).map(|object| policy::translate(&self.settings, object));
            let output = self.told(Kind::AuthorizationPolicy, name, found);
            changes.policy(replace(&mut self.policies, name, output));
        }
        for name in &affected.peers {
            let found =
                self.objects.peer(name).map(|object| peer::translate(&self.objects, &self.settings, object));
            let output = self.told(Kind::PeerAuthentication, name, found);
            changes.policy(replace(&mut self.converted, name, output));
        }
        if !affected.peers.is_empty() {
            let now = peer::static_strict(&self.objects, &self.settings);
            let was = std::mem::replace(&mut self.static_strict, now.clone());
            changes.policy((was, now));
        }
        for name in &affected.services {
            let found = self
                .objects
                .service(name)
                .map(|object| service::translate(&self.objects, &self.settings, object));
            let output = self.told(Kind::Service, name, found);
            changes.service(replace(&mut self.services, name, output));
        }
        for name in &affected.pods {
            let found = self
                .objects
                .pod(name)
                .map(|object| workload::translate(&self.objects, &self.settings, object));
            let output = self.told(Kind::Pod, name, found);
            changes.workload(replace(&mut self.workloads, name, output));
        }
        changes.in_order()
    }

    /// Keeps the reports of a translation and gives its output.
    fn told<T>(&mut self, kind: Kind, name: &Name, translation: Option<Translation<T>>) -> Option<T> {
        let key = ObjectKey { kind, namespace: name.0.clone(), name: name.1.clone() };
        let Translation { output, reports } =
            translation.unwrap_or(Translation { output: None, reports: Vec::new() });
        let known = self.reports.get(&key).map_or(&[] as &[Report], Vec::as_slice);
        self.news.extend(reports.iter().filter(|report| !known.contains(report)).cloned());
        if reports.is_empty() {
            self.reports.remove(&key);
        } else {
            self.reports.insert(key, reports);
        }
        output
    }
}

/// What an output was and is now.
type Replaced<T> = (Option<T>, Option<T>);

fn replace<T: Clone>(outputs: &mut BTreeMap<Name, T>, name: &Name, now: Option<T>) -> Replaced<T> {
    let was = match now.clone() {
        Some(output) => outputs.insert(name.clone(), output),
        None => outputs.remove(name),
    };
    (was, now)
}

#[derive(Default)]
struct Changes {
    policies: Vec<Change>,
    services: Vec<Change>,
    workloads: Vec<Change>,
    gone: Vec<Change>,
    policies_gone: Vec<Change>,
}

impl Changes {
    fn policy(&mut self, replaced: Replaced<Policy>) {
        match replaced {
            (was, Some(now)) if was.as_ref() != Some(&now) => self.policies.push(Change::Policy(now)),
            (Some(was), None) => self.policies_gone.push(Change::PolicyGone(was.name)),
            (None | Some(_), _) => {}
        }
    }

    fn service(&mut self, replaced: Replaced<Service>) {
        match replaced {
            (was, Some(now)) if was.as_ref() != Some(&now) => self.services.push(Change::Service(now)),
            (Some(was), None) => self.gone.push(Change::ServiceGone(was.key())),
            (None | Some(_), _) => {}
        }
    }

    fn workload(&mut self, replaced: Replaced<Workload>) {
        match replaced {
            (was, Some(now)) if was.as_ref() != Some(&now) => self.workloads.push(Change::Workload(now)),
            (Some(was), None) => self.gone.push(Change::WorkloadGone(was.uid)),
            (None | Some(_), _) => {}
        }
    }

    fn in_order(self) -> Vec<Change> {
        let groups = [self.policies, self.services, self.workloads, self.gone, self.policies_gone];
        groups.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
