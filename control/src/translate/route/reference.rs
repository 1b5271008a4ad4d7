// SPDX-License-Identifier: Apache-2.0
//! What routes refer to: whatever of it changes, they must be read again.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use mesh::Hostname;

use super::{NETWORKING, attach::parent_of};
use crate::{
    objects::{BackendRef, Kind, Object, ParentRef, RouteFilter, ServiceEntry, ServiceRef},
    translate::entry,
    world::Name,
};

/// What a route can refer to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    /// A service or service entry by its name.
    Object(Kind, Name),
    /// A service entry by one of its hosts.
    Host(Hostname),
}

/// What an object refers to; nothing where it is no route.
pub(crate) fn references(object: &Object) -> BTreeSet<Reference> {
    let namespace = &object.metadata().namespace;
    let mut found = Found { namespace, references: BTreeSet::new() };
    match object {
        Object::HTTPRoute(route) => {
            found.parents(&route.spec.parent_refs);
            for rule in &route.spec.rules {
                found.filters(&rule.filters);
                found.backends(&rule.backend_refs);
            }
        }
        Object::GRPCRoute(route) => {
            found.parents(&route.spec.parent_refs);
            for rule in &route.spec.rules {
                found.filters(&rule.filters);
                found.backends(&rule.backend_refs);
            }
        }
        Object::TLSRoute(crate::objects::TLSRoute { spec, .. })
        | Object::TCPRoute(crate::objects::TCPRoute { spec, .. }) => {
            found.parents(&spec.parent_refs);
            spec.rules.iter().for_each(|rule| found.backends(&rule.backend_refs));
        }
        _ => {}
    }
    found.references
}

/// By what an object is referred to.
pub(crate) fn referred(object: &Object) -> BTreeSet<Reference> {
    let metadata = object.metadata();
    let name = (metadata.namespace.clone(), metadata.name.clone());
    match object {
        Object::Service(_) => BTreeSet::from([Reference::Object(Kind::Service, name)]),
        Object::ServiceEntry(entry) => {
            hosts(entry).chain([Reference::Object(Kind::ServiceEntry, name)]).collect()
        }
        _ => BTreeSet::new(),
    }
}

fn hosts(entry: &ServiceEntry) -> impl Iterator<Item = Reference> {
    entry::hosts(entry).into_iter().map(Reference::Host)
}

struct Found<'a> {
    namespace: &'a ArcStr,
    references: BTreeSet<Reference>,
}

impl Found<'_> {
    fn parents(&mut self, parents: &[ParentRef]) {
        let objects = parents.iter().filter_map(|parent| parent_of(parent, self.namespace));
        self.references.extend(objects.map(|(kind, name)| Reference::Object(kind, name)));
    }

    fn backends(&mut self, backends: &[BackendRef]) {
        for backend in backends {
            self.target(&backend.target());
            self.filters(&backend.filters);
        }
    }

    fn filters(&mut self, filters: &[RouteFilter]) {
        for mirror in filters.iter().filter_map(|filter| filter.request_mirror.as_ref()) {
            self.target(&mirror.backend_ref);
        }
    }

    fn target(&mut self, target: &ServiceRef) {
        let namespace = target.namespace.as_ref().unwrap_or(self.namespace);
        let reference = match (target.group.as_deref().unwrap_or_default(), target.kind.as_deref()) {
            ("" | "core", None | Some("Service")) => {
                Some(Reference::Object(Kind::Service, (namespace.clone(), target.name.clone())))
            }
            (NETWORKING, Some("Hostname")) => Hostname::parse(&target.name).ok().map(Reference::Host),
            _ => None,
        };
        self.references.extend(reference);
    }
}
