// SPDX-License-Identifier: Apache-2.0
//! Routes of the Gateway API as what a waypoint decides by, and what became of each of their parents.
//!
//! Routes attached to a service may lead into any namespace, as GEP-1294 has it for meshes: whoever owns the client or the
//! service in front decides, and the policies of the service behind still hold. A rule with a match that cannot be
//! honoured is left out; one with a filter or a backend that cannot be answers 500.

mod attach;
mod filter;
mod matching;
mod reference;
pub(super) mod value;

pub(crate) use self::{
    attach::{Attachment, Outcome, enforced},
    reference::{Reference, references, referred},
};

use std::sync::Arc;

use arcstr::ArcStr;
use mesh::{
    Hostname, Route, ServiceName,
    l7::{
        RouteKind,
        route::{
            Backend, Carrier, HttpMatch, HttpRule, Persistence, Retry, Rules, Target, TcpRule, Timeouts,
            TlsRule,
        },
    },
};

use super::{Translation, service};
use crate::{
    objects::{
        BackendRef, GRPCRoute, HTTPRoute, HttpRouteRule, Kind, Metadata, ObjectKey, RouteFilter, ServiceRef,
        SessionPersistence, StreamRouteRule, TCPRoute, TLSRoute,
    },
    report::Reports,
    world::{Objects, Settings},
};

/// API group of `ServiceEntry`, and of `Hostname`, under which a backend is named by its host.
const NETWORKING: &str = "networking.istio.io";
/// Name of the cookie or header of a session where a route gives none.
const SESSION: &str = "ambit-session";

/// A route, and what its owner is told of each parent that is a part of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Routed {
    /// None where none of its rules can be honoured.
    pub(crate) route: Option<Route>,
    pub(crate) attachments: Vec<Attachment>,
}

/// A route of any kind; `None` where there is none of this key.
pub(crate) fn translate(
    objects: &Objects,
    settings: &Settings,
    key: &ObjectKey,
) -> Option<Translation<Routed>> {
    let name = (key.namespace.clone(), key.name.clone());
    match key.kind {
        Kind::HTTPRoute => objects.http_route(&name).map(|object| http(objects, settings, object)),
        Kind::GRPCRoute => objects.grpc_route(&name).map(|object| grpc(objects, settings, object)),
        Kind::TLSRoute => objects.tls_route(&name).map(|object| tls(objects, settings, object)),
        Kind::TCPRoute => objects.tcp_route(&name).map(|object| tcp(objects, settings, object)),
        _ => None,
    }
}

pub(crate) fn http(objects: &Objects, settings: &Settings, object: &HTTPRoute) -> Translation<Routed> {
    let mut reader = Reader::new(objects, settings, &object.metadata, Kind::HTTPRoute);
    let spec = &object.spec;
    reader.gateways_only(&spec.hostnames, spec.use_default_gateways.as_ref());
    let implied = [HttpRouteRule::default()];
    let rules = if spec.rules.is_empty() { implied.as_slice() } else { &spec.rules };
    let rules = reader.rules(rules, Reader::http_rule);
    reader.done(RouteKind::Http, Rules::Http(rules), &spec.parent_refs)
}

pub(crate) fn grpc(objects: &Objects, settings: &Settings, object: &GRPCRoute) -> Translation<Routed> {
    let mut reader = Reader::new(objects, settings, &object.metadata, Kind::GRPCRoute);
    let spec = &object.spec;
    reader.gateways_only(&spec.hostnames, spec.use_default_gateways.as_ref());
    let implied = [crate::objects::GrpcRouteRule::default()];
    let rules = if spec.rules.is_empty() { implied.as_slice() } else { &spec.rules };
    let rules = reader.rules(rules, |reader, field, rule| {
        let matches = reader.all_or_any(field, &rule.matches, matching::grpc)?;
        let forwarded = reader.forwarded(field, &rule.filters, &rule.backend_refs);
        let persistence = reader.persistence(field, rule.session_persistence.as_ref());
        Some(HttpRule {
            name: rule.name.clone(),
            matches,
            filters: forwarded.0,
            backends: forwarded.1,
            persistence,
            ..HttpRule::default()
        })
    });
    reader.done(RouteKind::Grpc, Rules::Http(rules), &spec.parent_refs)
}

pub(crate) fn tls(objects: &Objects, settings: &Settings, object: &TLSRoute) -> Translation<Routed> {
    let mut reader = Reader::new(objects, settings, &object.metadata, Kind::TLSRoute);
    let spec = &object.spec;
    if spec.hostnames.is_empty() {
        reader.reports.error("spec.hostnames", "is empty: name the servers whose connections it is for");
    }
    let rules = reader.rules(&spec.rules, |reader, field, rule: &StreamRouteRule| {
        let backends = reader.backends(field, &rule.backend_refs);
        Some(TlsRule { name: rule.name.clone(), hostnames: spec.hostnames.clone(), backends })
    });
    reader.done(RouteKind::Tls, Rules::Tls(rules), &spec.parent_refs)
}

pub(crate) fn tcp(objects: &Objects, settings: &Settings, object: &TCPRoute) -> Translation<Routed> {
    let mut reader = Reader::new(objects, settings, &object.metadata, Kind::TCPRoute);
    let spec = &object.spec;
    let rules = reader.rules(&spec.rules, |reader, field, rule: &StreamRouteRule| {
        let backends = reader.backends(field, &rule.backend_refs);
        Some(TcpRule { name: rule.name.clone(), backends })
    });
    if rules.len() > 1 {
        reader.reports.warning("spec.rules", "has several rules, and the first takes every connection");
    }
    reader.done(RouteKind::Tcp, Rules::Tcp(rules), &spec.parent_refs)
}

/// A port of a service, and what is missing there.
type Resolved = (ServiceName, u16, Option<String>);

/// Reads one route.
struct Reader<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    metadata: &'a Metadata,
    reports: Reports,
    /// Rules that are left out, by their fields.
    left_out: Vec<String>,
    /// The first reference that leads nowhere.
    unresolved: Option<Outcome>,
}

impl<'a> Reader<'a> {
    fn new(objects: &'a Objects, settings: &'a Settings, metadata: &'a Metadata, kind: Kind) -> Self {
        let reports = Reports::of(metadata.key(kind));
        Self { objects, settings, metadata, reports, left_out: Vec::new(), unresolved: None }
    }

    fn gateways_only(&mut self, hostnames: &[ArcStr], default_gateways: Option<&ArcStr>) {
        if !hostnames.is_empty() {
            self.reports.info(
                "spec.hostnames",
                "is for gateways: at a service its address says whom a request is for",
            );
        }
        if default_gateways.is_some_and(|which| which != "None") {
            self.reports
                .warning("spec.useDefaultGateways", "there is no default gateway: name one in parentRefs");
        }
    }

    fn rules<R, T>(&mut self, rules: &[R], read: impl Fn(&mut Self, &str, &R) -> Option<T>) -> Vec<Arc<T>> {
        let mut good = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let field = format!("spec.rules[{index}]");
            match read(self, &field, rule) {
                Some(rule) => good.push(Arc::new(rule)),
                None => self.left_out.push(field),
            }
        }
        good
    }

    fn http_rule(&mut self, field: &str, rule: &HttpRouteRule) -> Option<HttpRule> {
        let matches = self.all_or_any(field, &rule.matches, matching::http)?;
        let (filters, mut backends) = self.forwarded(field, &rule.filters, &rule.backend_refs);
        let answers = filters.iter().any(|filter| matches!(filter, mesh::l7::route::Filter::Redirect(_)));
        if answers && !rule.backend_refs.is_empty() {
            self.reports.error(
                format!("{field}.backendRefs"),
                "cannot stand beside a RequestRedirect: remove one of them",
            );
            backends.clear();
        }
        let timeouts = rule.timeouts.clone().unwrap_or_default();
        let request = self.duration(&format!("{field}.timeouts.request"), timeouts.request.as_ref());
        let attempt =
            self.duration(&format!("{field}.timeouts.backendRequest"), timeouts.backend_request.as_ref());
        let retry = rule.retry.as_ref().map(|retry| Retry {
            attempts: retry.attempts.unwrap_or(1),
            backoff: self.duration(&format!("{field}.retry.backoff"), retry.backoff.as_ref()),
            codes: self
                .all(&format!("{field}.retry.codes"), &retry.codes, |code| value::status(*code))
                .unwrap_or_default(),
        });
        let persistence = self.persistence(field, rule.session_persistence.as_ref());
        let timeouts = Timeouts { request, attempt };
        Some(HttpRule { name: rule.name.clone(), matches, filters, backends, timeouts, retry, persistence })
    }

    /// Matches; without any, one that matches everything.
    fn all_or_any<M>(
        &mut self,
        field: &str,
        matches: &[M],
        read: impl Fn(&M) -> Result<HttpMatch, (String, String)>,
    ) -> Option<Vec<HttpMatch>> {
        if matches.is_empty() {
            return Some(vec![HttpMatch::default()]);
        }
        let mut good = Vec::with_capacity(matches.len());
        for (index, matching) in matches.iter().enumerate() {
            match read(matching) {
                Ok(matching) => good.push(matching),
                Err((part, why)) => self.reports.error(format!("{field}.matches[{index}].{part}"), why),
            }
        }
        (good.len() == matches.len()).then_some(good)
    }

    /// Filters and backends; a filter that cannot be honoured makes every request of the rule fail.
    fn forwarded(
        &mut self,
        field: &str,
        filters: &[RouteFilter],
        backends: &[BackendRef],
    ) -> (Vec<mesh::l7::route::Filter>, Vec<Backend>) {
        match self.filters(field, filters) {
            Ok(filters) => (filters, self.backends(field, backends)),
            Err(why) => (
                Vec::new(),
                vec![Backend { target: Target::Refused(why.into()), weight: 1, filters: Vec::new() }],
            ),
        }
    }

    fn filters(
        &mut self,
        field: &str,
        filters: &[RouteFilter],
    ) -> Result<Vec<mesh::l7::route::Filter>, String> {
        let mut good = Vec::with_capacity(filters.len());
        let mut bad = None;
        for (index, filter) in filters.iter().enumerate() {
            let field = format!("{field}.filters[{index}]");
            match filter::read(filter, |target| self.target(&field, target)) {
                Ok(filter) => good.push(filter),
                Err((part, why)) => {
                    let field = if part.is_empty() { field } else { format!("{field}.{part}") };
                    self.reports
                        .error(field.clone(), format!("{why}; requests of this rule are answered with 500"));
                    bad.get_or_insert_with(|| format!("{field}: {why}"));
                }
            }
        }
        bad.map_or(Ok(good), Err)
    }

    fn backends(&mut self, field: &str, backends: &[BackendRef]) -> Vec<Backend> {
        let mut good = Vec::with_capacity(backends.len());
        for (index, backend) in backends.iter().enumerate() {
            let field = format!("{field}.backendRefs[{index}]");
            let target = self.target(&field, &backend.target());
            let (filters, target) = match self.filters(&field, &backend.filters) {
                Ok(filters) => (filters, target),
                Err(why) => (Vec::new(), Target::Refused(why.into())),
            };
            good.push(Backend { target, weight: backend.weight.unwrap_or(1), filters });
        }
        good
    }

    fn target(&mut self, field: &str, reference: &ServiceRef) -> Target {
        match self.resolve(reference) {
            Ok((name, port, missing)) => {
                if let Some(message) = missing {
                    self.unresolved(field, "BackendNotFound", message);
                }
                Target::Service { name, port }
            }
            Err((reason, message)) => {
                self.unresolved(field, reason, message.clone());
                Target::Refused(format!("{field}: {message}").into())
            }
        }
    }

    /// Where a reference leads, and what is missing there; or the reason why it leads nowhere.
    fn resolve(&self, reference: &ServiceRef) -> Result<Resolved, (&'static str, String)> {
        let group = reference.group.as_deref().unwrap_or_default();
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let find = match (group, kind) {
            ("" | "core", "Service") => Self::service,
            (NETWORKING, "Hostname") => Self::host,
            _ => {
                let shown = if group.is_empty() { kind.to_owned() } else { format!("{kind} of {group}") };
                let message =
                    format!("{shown} is no kind of backend: use Service, or Hostname of {NETWORKING}");
                return Err(("InvalidKind", message));
            }
        };
        let not_found = |message: String| ("BackendNotFound", message);
        let port = reference.port.ok_or_else(|| not_found("has no port: name one".to_owned()))?;
        let (name, missing) = find(self, reference, port).map_err(not_found)?;
        Ok((name, port, missing))
    }

    fn service(&self, reference: &ServiceRef, port: u16) -> Result<(ServiceName, Option<String>), String> {
        let namespace = reference.namespace.as_ref().unwrap_or(&self.metadata.namespace);
        let shown = format!("Service {namespace}/{}", reference.name);
        let missing = match self.objects.service(&(namespace.clone(), reference.name.clone())) {
            None => Some(format!("{shown} does not exist")),
            Some(found) if found.spec.ports.iter().any(|known| known.port == port) => None,
            Some(_) => Some(format!("{shown} has no port {port}")),
        };
        let name = service::named(self.settings, namespace, &reference.name);
        Ok((name.ok_or_else(|| format!("{:?} is no name of a service", reference.name))?, missing))
    }

    fn host(&self, reference: &ServiceRef, _: u16) -> Result<(ServiceName, Option<String>), String> {
        let hostname = Hostname::parse(&reference.name).map_err(|error| error.to_string())?;
        let found = self.objects.entries_for(&hostname).map(|(name, _)| name.0.clone()).next();
        let missing = found.is_none().then(|| format!("no ServiceEntry has host {hostname}"));
        let namespace = found.unwrap_or_else(|| self.metadata.namespace.clone());
        Ok((ServiceName { namespace, hostname }, missing))
    }

    fn unresolved(&mut self, field: &str, reason: &'static str, message: String) {
        self.reports.warning(field, format!("{message}; its share of requests is answered with 500"));
        self.unresolved.get_or_insert_with(|| Outcome::bad(reason, format!("{field}: {message}")));
    }

    fn duration(&mut self, field: &str, text: Option<&ArcStr>) -> Option<std::time::Duration> {
        match value::duration(text?) {
            Ok(duration) => duration,
            Err(why) => {
                self.reports.error(field, why);
                None
            }
        }
    }

    fn all<M, T>(
        &mut self,
        field: &str,
        values: &[M],
        read: impl Fn(&M) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let mut good = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match read(value) {
                Ok(value) => good.push(value),
                Err(why) => self.reports.error(format!("{field}[{index}]"), why),
            }
        }
        (good.len() == values.len()).then_some(good)
    }

    fn persistence(&mut self, field: &str, wanted: Option<&SessionPersistence>) -> Option<Persistence> {
        let wanted = wanted?;
        let field = format!("{field}.sessionPersistence");
        let lifetime = wanted.cookie_config.as_ref().and_then(|config| config.lifetime_type.as_deref());
        let carrier = match (wanted.kind.as_deref().unwrap_or("Cookie"), lifetime.unwrap_or("Session")) {
            ("Header", _) => Carrier::Header,
            ("Cookie", "Permanent") => Carrier::PermanentCookie,
            ("Cookie", "Session") => Carrier::SessionCookie,
            (kind, lifetime) => {
                self.reports.error(field, format!("{kind} that is {lifetime} is not known"));
                return None;
            }
        };
        let absolute = self.duration(&format!("{field}.absoluteTimeout"), wanted.absolute_timeout.as_ref());
        if carrier == Carrier::PermanentCookie && absolute.is_none() {
            self.reports
                .error(format!("{field}.absoluteTimeout"), "is missing: a permanent cookie needs an end");
            return None;
        }
        let name = wanted.session_name.clone().unwrap_or_else(|| SESSION.into());
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            // What a header may be called, a cookie may too (RFC 6265 §4.1.1).
            self.reports
                .error(format!("{field}.sessionName"), format!("{name:?} is no name of a header or cookie"));
            return None;
        }
        Some(Persistence { name, carrier, absolute })
    }
}
