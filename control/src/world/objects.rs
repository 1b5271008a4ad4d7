// SPDX-License-Identifier: Apache-2.0
//! The objects as they are now, with the lookups that translation needs. It translates nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use arcstr::ArcStr;

use crate::objects::{
    AuthorizationPolicy, Kind, Namespace, Node, Object, ObjectKey, PeerAuthentication, Pod, Service,
    ServiceAccount,
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
    pods: BTreeMap<Name, Pod>,
    services: BTreeMap<Name, Service>,
    authorization: BTreeMap<Name, AuthorizationPolicy>,
    peer: BTreeMap<Name, PeerAuthentication>,
    /// Names of the pods that run under an account on a node.
    placements: BTreeMap<Placement, BTreeSet<Name>>,
    /// Names of the pods of a node.
    by_node: BTreeMap<ArcStr, BTreeSet<Name>>,
}

impl Objects {
    /// Puts an object in place of the one of its key, which is returned.
    pub(super) fn insert(&mut self, object: Object) -> Option<Object> {
        let key = object.key();
        let name = (key.namespace, key.name);
        match object {
            Object::Namespace(object) => self.namespaces.insert(name.1, object).map(Object::Namespace),
            Object::Node(object) => self.nodes.insert(name.1, object).map(Object::Node),
            Object::ServiceAccount(object) => {
                self.service_accounts.insert(name, object).map(Object::ServiceAccount)
            }
            Object::Pod(object) => {
                let old = self.pods.remove(&name);
                if let Some(old) = &old {
                    self.displace(old);
                }
                self.place(&object);
                self.pods.insert(name, object);
                old.map(Object::Pod)
            }
            Object::Service(object) => self.services.insert(name, object).map(Object::Service),
            Object::AuthorizationPolicy(object) => {
                self.authorization.insert(name, object).map(Object::AuthorizationPolicy)
            }
            Object::PeerAuthentication(object) => {
                self.peer.insert(name, object).map(Object::PeerAuthentication)
            }
        }
    }

    /// Takes an object away.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Option<Object> {
        let name = (key.namespace.clone(), key.name.clone());
        match key.kind {
            Kind::Namespace => self.namespaces.remove(&key.name).map(Object::Namespace),
            Kind::Node => self.nodes.remove(&key.name).map(Object::Node),
            Kind::ServiceAccount => self.service_accounts.remove(&name).map(Object::ServiceAccount),
            Kind::Pod => {
                let old = self.pods.remove(&name)?;
                self.displace(&old);
                Some(Object::Pod(old))
            }
            Kind::Service => self.services.remove(&name).map(Object::Service),
            Kind::AuthorizationPolicy => self.authorization.remove(&name).map(Object::AuthorizationPolicy),
            Kind::PeerAuthentication => self.peer.remove(&name).map(Object::PeerAuthentication),
        }
    }

    /// How many objects of a kind there are.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Namespace => self.namespaces.len(),
            Kind::Node => self.nodes.len(),
            Kind::ServiceAccount => self.service_accounts.len(),
            Kind::Pod => self.pods.len(),
            Kind::Service => self.services.len(),
            Kind::AuthorizationPolicy => self.authorization.len(),
            Kind::PeerAuthentication => self.peer.len(),
        }
    }

    /// Whether a pod that has not ended runs on this node under this service account.
    pub fn runs_on(&self, namespace: &str, service_account: &str, node: &str) -> bool {
        self.placements.contains_key(&(namespace.into(), service_account.into(), node.into()))
    }

    pub(crate) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
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

    pub(crate) fn authorization(&self, name: &Name) -> Option<&AuthorizationPolicy> {
        self.authorization.get(name)
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

    fn place(&mut self, pod: &Pod) {
        let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let Some(node) = pod.spec.node_name.clone() else { return };
        if !pod.is_terminal() {
            let placement = (name.0.clone(), pod.service_account(), node.clone());
            self.placements.entry(placement).or_default().insert(name.clone());
        }
        self.by_node.entry(node).or_default().insert(name);
    }

    fn displace(&mut self, pod: &Pod) {
        let name = (pod.metadata.namespace.clone(), pod.metadata.name.clone());
        let Some(node) = pod.spec.node_name.clone() else { return };
        take(&mut self.placements, &(name.0.clone(), pod.service_account(), node.clone()), &name);
        take(&mut self.by_node, &node, &name);
    }
}

/// Takes a name out of a set, and the set away when it was the last.
fn take<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<Name>>, key: &K, name: &Name) {
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
