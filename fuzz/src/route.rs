// SPDX-License-Identifier: Apache-2.0
//! The rule of a request: the tables of `mesh::l7::View` against asking every match one by one, by the words of Gateway API.
//! Bytes choose from what routes and requests are made of, so that they meet often.

use std::{cmp::Reverse, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use mesh::l7::{
    Pattern, Route, RouteKind, RouteName, TextMatch, View,
    route::{HttpMatch, HttpRule, PathMatch, Rules},
    view::Request,
};

const ELEMENTS: [&str; 6] = ["a", "b", "ab", "a.B", "", "%61"];
const PATTERNS: [&str; 6] = ["/a.*", "/.", ".*", "/a(/b)?", "a|b", "1(,1)*"];
const METHODS: [Method; 3] = [Method::GET, Method::POST, Method::HEAD];
const NAMES: [HeaderName; 2] = [HeaderName::from_static("x"), HeaderName::from_static("y")];
const VALUES: [&str; 4] = ["1", "2", "1,1", "a b"];
/// As they are written, and what they say.
const PARAMETERS: [(&str, &str, &str); 6] = [
    ("x=1", "x", "1"),
    ("x=2", "x", "2"),
    ("x=a+b", "x", "a b"),
    ("y=a%20b", "y", "a b"),
    ("y", "y", ""),
    ("%78=1%2c1", "x", "1,1"),
];

/// Bytes as choices; when they are at an end it is always the first.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, count: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % count
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }

    /// Up to `most`, each made in its turn.
    fn several<T>(&mut self, most: usize, make: impl Fn(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn path(&mut self) -> String {
        self.several(4, |choices| format!("/{}", choices.of(&ELEMENTS))).concat()
    }

    fn text(&mut self) -> TextMatch {
        if self.below(4) == 3 {
            TextMatch::Pattern(self.pattern())
        } else {
            TextMatch::Exact(self.of(&VALUES).into())
        }
    }

    fn pattern(&mut self) -> Pattern {
        Pattern::parse(self.of(&PATTERNS)).expect("it is one")
    }

    fn part(&mut self) -> Option<TextMatch> {
        (self.below(2) == 1).then(|| TextMatch::Exact(self.of(&ELEMENTS).into()))
    }

    fn matching(&mut self) -> HttpMatch {
        let path = match self.below(5) {
            0 => PathMatch::Any,
            1 => PathMatch::Exact(self.path().into()),
            2 => PathMatch::Prefix(self.path().trim_end_matches('/').into()),
            3 => PathMatch::Pattern(self.pattern()),
            _ => PathMatch::Rpc { service: self.part(), method: self.part() },
        };
        HttpMatch {
            path,
            method: (self.below(3) == 2).then(|| self.of(&METHODS)),
            headers: self.several(2, |choices| (choices.of(&NAMES), choices.text())),
            query: self.several(2, |choices| (choices.of(&["x", "y"]).into(), choices.text())),
        }
    }

    fn route(&mut self, number: usize) -> Route {
        let kind = if self.below(4) == 3 { RouteKind::Grpc } else { RouteKind::Http };
        let name =
            RouteName { kind, namespace: self.of(&["a", "b"]).into(), name: number.to_string().into() };
        let created = self.below(3) as u64;
        let rules = self.several(4, |choices| choices.several(3, Self::matching));
        let rules = rules.into_iter().enumerate().map(|(place, matches)| {
            Arc::new(HttpRule { name: Some(place.to_string().into()), matches, ..HttpRule::default() })
        });
        Route { name, created, parents: Vec::new(), rules: Rules::Http(rules.collect()) }
    }
}

/// What is asked.
struct Asked {
    method: Method,
    path: String,
    parameters: Vec<(&'static str, &'static str, &'static str)>,
    headers: HeaderMap,
}

impl Asked {
    fn new(choices: &mut Choices<'_>) -> Self {
        let (method, path) = (choices.of(&METHODS), choices.path());
        let parameters = choices.several(3, |choices| choices.of(&PARAMETERS));
        let fields = choices.several(3, |choices| {
            let value = choices.of(&[&b"1"[..], b"2", b"1,1", b"a b", b"\xe9"]);
            (choices.of(&NAMES), HeaderValue::from_bytes(value).expect("it is one"))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        Self { method, path, parameters, headers }
    }

    /// By which prefix a match fits; none: it does not.
    fn fits(&self, matching: &HttpMatch) -> Option<String> {
        let below = |prefix: &str| self.path == prefix || self.path.starts_with(&format!("{prefix}/"));
        let is = |wanted: &Option<TextMatch>, text: &str| {
            wanted.as_ref().is_none_or(|wanted| wanted.is_match(text))
        };
        let path = match &matching.path {
            PathMatch::Any => true,
            PathMatch::Exact(path) => **path == *self.path,
            PathMatch::Prefix(prefix) => below(prefix),
            PathMatch::Pattern(pattern) => pattern.is_match(&self.path),
            PathMatch::Rpc { service, method } => {
                let parts: Vec<_> = self.path.splitn(3, '/').collect();
                matches!(parts[..], ["", of, called] if is(service, of) && is(method, called))
            }
        };
        let header = |(name, wanted): &(HeaderName, TextMatch)| {
            let values: Result<Vec<_>, _> =
                self.headers.get_all(name).iter().map(HeaderValue::to_str).collect();
            values.is_ok_and(|values| !values.is_empty() && wanted.is_match(&values.join(",")))
        };
        let first = |name: &str| self.parameters.iter().find(|(_, known, _)| *known == name);
        let fits = path
            && matching.method.as_ref().is_none_or(|method| *method == self.method)
            && matching.headers.iter().all(header)
            && matching
                .query
                .iter()
                .all(|(name, wanted)| first(name).is_some_and(|found| wanted.is_match(found.2)));
        fits.then(|| match &matching.path {
            PathMatch::Prefix(prefix) if !prefix.is_empty() => prefix.to_string(),
            _ => "/".to_owned(),
        })
    }

    /// Label of the rule and its prefix, by looking at all of them.
    fn naive(&self, routes: &[Arc<Route>]) -> Option<(String, String)> {
        let grpc = routes.iter().any(|route| route.name.kind == RouteKind::Grpc);
        let mut all = Vec::new();
        for route in routes.iter().filter(|route| !grpc || route.name.kind == RouteKind::Grpc) {
            let Rules::Http(rules) = &route.rules else { continue };
            for (place, rule) in rules.iter().enumerate() {
                for (number, matching) in rule.matches.iter().enumerate() {
                    let Some(prefix) = self.fits(matching) else { continue };
                    let said = (
                        matching.method.is_none(),
                        Reverse(matching.headers.len()),
                        Reverse(matching.query.len()),
                    );
                    let age = (route.created, &route.name.namespace, &route.name.name, place, number);
                    all.push((
                        (rank(&matching.path), said, age),
                        (format!("{}/{place}", route.name), prefix),
                    ));
                }
            }
        }
        all.into_iter().min().map(|(_rank, found)| found)
    }
}

/// The more exact path is the smaller one.
fn rank(path: &PathMatch) -> (u8, Reverse<usize>, Reverse<usize>) {
    let length = |text: &Option<TextMatch>| match text {
        Some(TextMatch::Exact(text)) => text.len(),
        Some(TextMatch::Pattern(pattern)) => pattern.as_str().len(),
        None => 0,
    };
    let (sort, first, second) = match path {
        PathMatch::Exact(path) => (0, path.len(), 0),
        PathMatch::Rpc { service, method } => (1, length(service), length(method)),
        PathMatch::Pattern(pattern) => (2, pattern.as_str().len(), 0),
        PathMatch::Prefix(path) => (3, path.len(), 0),
        PathMatch::Any => (4, 0, 0),
    };
    (sort, Reverse(first), Reverse(second))
}

/// A request, then the routes.
pub(crate) fn route(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let asked = Asked::new(&mut choices);
    let mut routes = Vec::new();
    while !choices.0.is_empty() && routes.len() < 16 {
        routes.push(Arc::new(choices.route(routes.len())));
    }
    let query: Vec<_> = asked.parameters.iter().map(|(written, ..)| *written).collect();
    let query = query.join("&");
    let request = Request {
        method: &asked.method,
        path: &asked.path,
        query: (!query.is_empty()).then_some(&query),
        headers: &asked.headers,
    };
    let found = View::new(&routes.iter().collect::<Vec<_>>()).request(&request);
    let found = found.map(|found| (found.label.to_string(), found.prefix.to_string()));
    assert_eq!(found, asked.naive(&routes), "{request:?} of {routes:#?}");
    // The order in which routes come to be known says nothing.
    routes.reverse();
    let again = View::new(&routes.iter().collect::<Vec<_>>()).request(&request);
    assert_eq!(again.map(|found| (found.label.to_string(), found.prefix.to_string())), found);
}
