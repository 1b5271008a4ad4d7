// SPDX-License-Identifier: Apache-2.0
//! Which outputs an event can change. Too many costs time, too few would be wrong: the property "incremental equals
//! rebuild" guards it.

use std::collections::BTreeSet;

use super::{
    Settings,
    objects::{Name, Objects},
};
use crate::{
    objects::{AuthorizationPolicy, Node, Object, PeerAuthentication, Service},
    translate::{policy, service, workload},
};

/// Names of the objects whose output must be made again.
#[derive(Debug, Default)]
pub(super) struct Affected {
    pub(super) pods: BTreeSet<Name>,
    pub(super) services: BTreeSet<Name>,
    pub(super) authorizations: BTreeSet<Name>,
    pub(super) peers: BTreeSet<Name>,
    pub(super) namespaces: BTreeSet<Name>,
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
        for object in [old, new].into_iter().flatten() {
            let metadata = object.metadata();
            let name = (metadata.namespace.clone(), metadata.name.clone());
            match object {
                Object::Pod(_) => {
                    self.pods.insert(name);
                }
                Object::Service(object) => self.service(objects, name, object),
                Object::Namespace(_) => {
                    self.services.extend(objects.services_of(&name.1).map(|(name, _)| name.clone()));
                    self.namespaces.insert(name);
                }
                Object::Node(_) => {
                    if place(old) != place(new) {
                        self.pods.extend(objects.pods_on(&name.1).cloned());
                    }
                }
                Object::ServiceAccount(_) => {}
                Object::AuthorizationPolicy(object) => self.authorization(objects, settings, name, object),
                Object::PeerAuthentication(object) => self.peer(objects, settings, name, object),
            }
        }
    }

    fn service(&mut self, objects: &Objects, name: Name, object: &Service) {
        let pods = objects.pods_of(&name.0).filter(|(_, pod)| service::selects(object, &pod.metadata.labels));
        self.pods.extend(pods.map(|(name, _)| name.clone()));
        self.services.insert(name);
    }

    fn authorization(
        &mut self,
        objects: &Objects,
        settings: &Settings,
        name: Name,
        object: &AuthorizationPolicy,
    ) {
        let named = |pod: &&Name| objects.pod(pod).is_some_and(|pod| policy::is_named_by(object, pod));
        if name.0 == settings.root_namespace {
            self.pods.extend(objects.pods().map(|(name, _)| name).filter(named).cloned());
        } else {
            self.pods.extend(objects.pods_of(&name.0).map(|(name, _)| name).filter(named).cloned());
        }
        self.authorizations.insert(name);
    }

    /// Its mode is inherited by other objects and workloads of its namespace, or of the mesh.
    fn peer(&mut self, objects: &Objects, settings: &Settings, name: Name, object: &PeerAuthentication) {
        if name.0 == settings.root_namespace && object.spec.selector.is_none() {
            self.pods.extend(objects.pods().map(|(name, _)| name.clone()));
            self.peers.extend(objects.peers().map(|(name, _)| name.clone()));
        } else {
            self.pods.extend(objects.pods_of(&name.0).map(|(name, _)| name.clone()));
            self.peers.extend(objects.peers_of(&name.0).map(|(name, _)| name.clone()));
        }
        self.peers.insert(name);
    }
}

/// Of a node only its place matters here; its status changes all the time.
fn place(node: Option<&Object>) -> Option<mesh::workload::Locality> {
    let locality = |node: &Node| workload::locality(node);
    match node? {
        Object::Node(node) => Some(locality(node)),
        _ => None,
    }
}
