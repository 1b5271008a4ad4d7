// SPDX-License-Identifier: Apache-2.0
//! Routes by the service that they are attached to.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;

use crate::{
    l7::{Route, RouteName, View, route::Parent},
    name::ServiceName,
};

/// All routes, and a view for every port and group of clients that one of them tells apart.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    named: HashMap<RouteName, Arc<Route>>,
    attached: HashMap<ServiceName, Attached>,
}

/// What is attached to one service.
#[derive(Debug, Default)]
struct Attached {
    routes: BTreeSet<RouteName>,
    /// For clients of namespaces with routes of their own.
    consumers: HashMap<ArcStr, Ports>,
    /// For all others.
    others: Ports,
}

/// A view for each port with routes of its own, and one for all other ports.
type Ports = HashMap<Option<u16>, View>;

impl Routes {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.named.values()
    }

    pub(crate) fn named(&self, name: &RouteName) -> Option<&Arc<Route>> {
        self.named.get(name)
    }

    /// What is attached to a port of a service for clients of a namespace. Nothing is the same as no routes.
    pub(crate) fn view(&self, service: &ServiceName, port: u16, namespace: &str) -> Option<&View> {
        let attached = self.attached.get(service)?;
        let consumers = attached.consumers.get(namespace);
        consumers.and_then(|ports| at(ports, port)).or_else(|| at(&attached.others, port))
    }

    /// Whether it was different.
    pub(crate) fn insert(&mut self, route: Route) -> bool {
        if self.named.get(&route.name).is_some_and(|known| **known == route) {
            return false;
        }
        let route = Arc::new(route);
        let before = self.named.insert(route.name.clone(), Arc::clone(&route));
        let mut services = services(&route);
        for service in &services {
            self.attached.entry(service.clone()).or_default().routes.insert(route.name.clone());
        }
        for service in before.iter().flat_map(|before| self::services(before)) {
            if !services.contains(&service) {
                self.detach(&service, &route.name);
                services.insert(service);
            }
        }
        self.rebuild(services);
        true
    }

    /// Whether there was one.
    pub(crate) fn remove(&mut self, name: &RouteName) -> bool {
        let Some(route) = self.named.remove(name) else { return false };
        let services = services(&route);
        services.iter().for_each(|service| self.detach(service, name));
        self.rebuild(services);
        true
    }

    fn detach(&mut self, service: &ServiceName, name: &RouteName) {
        if let Some(attached) = self.attached.get_mut(service) {
            attached.routes.remove(name);
        }
    }

    fn rebuild(&mut self, services: BTreeSet<ServiceName>) {
        for service in services {
            let Some(attached) = self.attached.get_mut(&service) else { continue };
            if attached.routes.is_empty() {
                self.attached.remove(&service);
                continue;
            }
            let routes: Vec<_> = attached.routes.iter().filter_map(|name| self.named.get(name)).collect();
            let of = |clients: Option<&ArcStr>| ports(&service, &routes, clients);
            let consumers: BTreeSet<_> =
                parents(&service, &routes).filter_map(|parent| parent.consumers.clone()).collect();
            attached.others = of(None);
            attached.consumers =
                consumers.into_iter().map(|clients| (clients.clone(), of(Some(&clients)))).collect();
        }
    }
}

fn at(ports: &Ports, port: u16) -> Option<&View> {
    ports.get(&Some(port)).or_else(|| ports.get(&None))
}

fn services(route: &Route) -> BTreeSet<ServiceName> {
    route.parents.iter().map(|parent| parent.service.clone()).collect()
}

fn parents<'a>(service: &'a ServiceName, routes: &'a [&Arc<Route>]) -> impl Iterator<Item = &'a Parent> {
    routes.iter().flat_map(|route| &route.parents).filter(move |parent| parent.service == *service)
}

fn ports(service: &ServiceName, routes: &[&Arc<Route>], clients: Option<&ArcStr>) -> Ports {
    let told: BTreeSet<_> = parents(service, routes).map(|parent| parent.port).chain([None]).collect();
    let view = |port: Option<u16>| {
        let counts = |parent: &Parent| {
            parent.service == *service
                && parent.consumers.as_ref() == clients
                && (parent.port.is_none() || parent.port == port)
        };
        let counting: Vec<_> =
            routes.iter().filter(|route| route.parents.iter().any(counts)).copied().collect();
        (!counting.is_empty()).then(|| (port, View::new(&counting)))
    };
    told.into_iter().filter_map(view).collect()
}
