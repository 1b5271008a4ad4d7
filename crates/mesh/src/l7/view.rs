// SPDX-License-Identifier: Apache-2.0
//! All rules that are for one port of a service and the clients of one namespace, in the order in which they are asked.
//!
//! The order is Gateway API's: the more exact path, then the method, then more headers, then more query parameters, then
//! the older route, then its name, then the place in it. Exact paths and prefixes are looked up, so that a thousand routes
//! cost what one costs; only regular expressions are asked one by one.

use std::{borrow::Cow, cmp::Reverse, collections::HashMap, sync::Arc};

use arcstr::ArcStr;
use http::{HeaderMap, HeaderName, Method};

use super::{
    pattern::TextMatch,
    route::{HttpMatch, HttpRule, PathMatch, Route, RouteKind, RouteName, Rules, TcpRule, TlsRule},
};

/// What a request says about itself.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path, without the query.
    pub path: &'a str,
    /// Its query, encoded.
    pub query: Option<&'a str>,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// A rule of a route that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched<R> {
    /// The route.
    pub route: RouteName,
    /// The rule.
    pub rule: Arc<R>,
    /// What records call it: the route, and the rule if that has a name.
    pub label: ArcStr,
    /// The prefix by which the path fits, for filters that put something in its place; `/` where it fits as a whole
    /// or by no path at all.
    pub prefix: ArcStr,
}

impl<R> Matched<R> {
    fn new(route: &RouteName, rule: &Arc<R>, name: Option<&ArcStr>) -> Self {
        let label = match name {
            Some(name) => arcstr::format!("{route}/{name}"),
            None => arcstr::format!("{route}"),
        };
        Self { route: route.clone(), rule: Arc::clone(rule), label, prefix: ROOT }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct View {
    http: Option<HttpTable>,
    tls: Vec<Matched<TlsRule>>,
    tcp: Option<Matched<TcpRule>>,
}

#[derive(Debug, Default)]
struct HttpTable {
    kind: Option<RouteKind>,
    entries: Vec<Entry>,
    exact: HashMap<ArcStr, Vec<usize>>,
    prefix: HashMap<ArcStr, Vec<usize>>,
    other: Vec<usize>,
    any: Vec<usize>,
}

/// One match of one rule.
#[derive(Debug)]
struct Entry {
    /// What is found: made once, not for each request.
    found: Matched<HttpRule>,
    created: u64,
    place: (usize, usize),
    matching: HttpMatch,
}

impl View {
    /// Of these routes, which are all for this port and these clients.
    pub fn new(routes: &[&Arc<Route>]) -> Self {
        let mut routes = routes.to_vec();
        routes.sort_by(|one, other| (one.created, &one.name).cmp(&(other.created, &other.name)));
        let strongest = routes.iter().map(|route| route.name.kind).min();
        let mut view = Self::default();
        let mut entries = Vec::new();
        for route in routes {
            let name = &route.name;
            match &route.rules {
                // GRPCRoutes take the place of HTTPRoutes; the others may stand beside them.
                Rules::Http(_) if strongest < Some(name.kind) => {}
                Rules::Http(rules) => {
                    entries.extend(
                        rules.iter().enumerate().flat_map(|(place, rule)| entries_of(route, place, rule)),
                    );
                    view.http.get_or_insert_default().kind = Some(name.kind);
                }
                Rules::Tls(rules) => view.tls.extend(rules.iter().map(|rule| Matched::new(name, rule, None))),
                Rules::Tcp(rules) => {
                    if let (None, Some(rule)) = (&view.tcp, rules.first()) {
                        view.tcp = Some(Matched::new(name, rule, None));
                    }
                }
            }
        }
        if let Some(table) = &mut view.http {
            table.fill(entries);
        }
        view
    }

    /// The kind of the routes for requests; `None` where there are none.
    pub fn requests(&self) -> Option<RouteKind> {
        self.http.as_ref()?.kind
    }

    /// The rule for a request.
    pub fn request(&self, request: &Request<'_>) -> Option<Matched<HttpRule>> {
        self.http.as_ref()?.find(request)
    }

    /// Whether there are routes for TLS connections.
    pub fn has_tls(&self) -> bool {
        !self.tls.is_empty()
    }

    /// The rule for a TLS connection to this server name: an exact name goes before a wildcard, a longer one before a
    /// shorter one, then the older route.
    pub fn tls(&self, server: &str) -> Option<Matched<TlsRule>> {
        let rank = |rule: &TlsRule| {
            rule.hostnames
                .iter()
                .filter(|name| names(name, server))
                .map(|name| (!name.starts_with('*'), name.len()))
                .max()
        };
        let ranked = self.tls.iter().filter_map(|found| Some((rank(&found.rule)?, found)));
        // The first of the best: they are sorted by age.
        let (_, found) = ranked.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
        Some(found.clone())
    }

    /// The rule for any connection.
    pub fn tcp(&self) -> Option<Matched<TcpRule>> {
        self.tcp.clone()
    }
}

const ROOT: ArcStr = arcstr::literal!("/");

/// Whether a pattern of a server name covers one.
fn names(pattern: &str, server: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern.eq_ignore_ascii_case(server),
        Some(rest) => {
            let Some(at) = server.len().checked_sub(rest.len()) else { return false };
            at > 0 && server.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(rest))
        }
    }
}

fn entries_of<'a>(
    route: &'a Arc<Route>,
    place: usize,
    rule: &'a Arc<HttpRule>,
) -> impl Iterator<Item = Entry> + 'a {
    let found = Matched::new(&route.name, rule, rule.name.as_ref());
    rule.matches.iter().enumerate().map(move |(number, matching)| {
        let prefix = match &matching.path {
            PathMatch::Prefix(prefix) if !prefix.is_empty() => prefix.clone(),
            _ => ROOT,
        };
        Entry {
            found: Matched { prefix, ..found.clone() },
            created: route.created,
            place: (place, number),
            matching: matching.clone(),
        }
    })
}

impl HttpTable {
    fn fill(&mut self, mut entries: Vec<Entry>) {
        entries.sort_by(|one, other| one.rank().cmp(&other.rank()));
        for (number, entry) in entries.iter().enumerate() {
            match &entry.matching.path {
                PathMatch::Exact(path) => self.exact.entry(path.clone()).or_default().push(number),
                PathMatch::Prefix(path) => self.prefix.entry(path.clone()).or_default().push(number),
                PathMatch::Pattern(_) | PathMatch::Rpc { .. } => self.other.push(number),
                PathMatch::Any => self.any.push(number),
            }
        }
        self.entries = entries;
    }

    fn find(&self, request: &Request<'_>) -> Option<Matched<HttpRule>> {
        let exact = self.exact.get(request.path).into_iter().flatten();
        let prefixes = parents(request.path).filter_map(|path| self.prefix.get(path)).flatten();
        let candidates = exact.chain(&self.other).chain(prefixes).chain(&self.any);
        let entry =
            candidates.filter_map(|number| self.entries.get(*number)).find(|entry| entry.fits(request))?;
        Some(entry.found.clone())
    }
}

/// A path and those above it by whole elements, without a `/` at their ends; the last is empty.
fn parents(path: &str) -> impl Iterator<Item = &str> {
    let whole = path.strip_suffix('/').unwrap_or(path);
    std::iter::successors(Some(whole), |path| path.rfind('/').and_then(|at| path.get(..at)))
}

impl Entry {
    /// What is asked first is the smallest.
    fn rank(&self) -> impl Ord + '_ {
        let matching = &self.matching;
        let path = match &matching.path {
            PathMatch::Exact(path) => (0, Reverse(path.len()), Reverse(0)),
            PathMatch::Rpc { service, method } => {
                let length = |text: &Option<TextMatch>| Reverse(text.as_ref().map_or(0, TextMatch::length));
                (1, length(service), length(method))
            }
            PathMatch::Pattern(pattern) => (2, Reverse(pattern.as_str().len()), Reverse(0)),
            PathMatch::Prefix(path) => (3, Reverse(path.len()), Reverse(0)),
            PathMatch::Any => (4, Reverse(0), Reverse(0)),
        };
        let more = (
            matching.method.is_none(),
            Reverse(matching.headers.len()),
            Reverse(matching.query.len()),
            self.created,
        );
        (path, more, (&self.found.route.namespace, &self.found.route.name), self.place)
    }

    fn fits(&self, request: &Request<'_>) -> bool {
        let matching = &self.matching;
        let path = match &matching.path {
            // Looked up already.
            PathMatch::Any | PathMatch::Exact(_) | PathMatch::Prefix(_) => true,
            PathMatch::Pattern(pattern) => pattern.is_match(request.path),
            PathMatch::Rpc { service, method } => rpc(request.path).is_some_and(|(of, called)| {
                service.as_ref().is_none_or(|wanted| wanted.is_match(of))
                    && method.as_ref().is_none_or(|wanted| wanted.is_match(called))
            }),
        };
        path && matching.method.as_ref().is_none_or(|method| method == request.method)
            && matching.headers.iter().all(|(name, wanted)| has_header(request.headers, name, wanted))
            && matching.query.iter().all(|(name, wanted)| has_parameter(request.query, name, wanted))
    }
}

/// `/service/method`.
fn rpc(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix('/')?.split_once('/')
}

/// Several values are one list (RFC 9110 §5.3).
fn has_header(headers: &HeaderMap, name: &HeaderName, wanted: &TextMatch) -> bool {
    let mut values = headers.get_all(name).iter().map(|value| value.to_str().ok());
    let Some(Some(first)) = values.next() else { return false };
    let mut whole = Cow::Borrowed(first);
    for value in values {
        let Some(value) = value else { return false };
        whole.to_mut().push(',');
        whole.to_mut().push_str(value);
    }
    wanted.is_match(&whole)
}

fn has_parameter(query: Option<&str>, name: &str, wanted: &TextMatch) -> bool {
    let first = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).find(|(known, _)| known == name);
    first.is_some_and(|(_, value)| wanted.is_match(&value))
}

#[cfg(test)]
mod tests;
