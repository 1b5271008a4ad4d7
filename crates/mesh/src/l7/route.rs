// SPDX-License-Identifier: Apache-2.0
//! Routes (Gateway API `HTTPRoute`, `GRPCRoute`, `TCPRoute`, `TLSRoute`) as data: parsed, defaulted, attached to services.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use arcstr::ArcStr;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::pattern::{Pattern, TextMatch};
use crate::name::{self, InvalidName, ServiceName};

/// One route object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Which object it is.
    pub name: RouteName,
    /// When the object was made, in seconds since 1970: of two rules that fit equally well the older route's wins.
    pub created: u64,
    /// What it is attached to.
    pub parents: Vec<Parent>,
    /// What it says.
    pub rules: Rules,
}

/// Kind, namespace and name; `HTTPRoute/shop/web` on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteName {
    /// See the type.
    pub kind: RouteKind,
    /// Namespace of the object.
    pub namespace: ArcStr,
    /// Name of the object.
    pub name: ArcStr,
}

/// Kinds of routes; where several are attached to one port, the first of them in this order is the one that counts
/// (GEP-1426).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RouteKind {
    /// `GRPCRoute`.
    Grpc,
    /// `HTTPRoute`.
    Http,
    /// `TLSRoute`.
    Tls,
    /// `TCPRoute`.
    Tcp,
}

impl RouteKind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Grpc, Self::Http, Self::Tls, Self::Tcp];

    /// Name of the kind in Kubernetes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }
}

impl fmt::Display for RouteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

impl FromStr for RouteName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let mut parts = text.splitn(3, '/');
        let kind = parts.next();
        let kind = RouteKind::ALL.into_iter().find(|known| kind == Some(known.as_str()));
        match (kind, parts.next(), parts.next()) {
            (Some(kind), Some(namespace), Some(name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self { kind, namespace: namespace.into(), name: name.into() })
            }
            _ => Err(name::invalid(
                "route",
                text,
                "must be kind/namespace/name, for example HTTPRoute/shop/web",
            )),
        }
    }
}

/// A service that a route is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The service.
    pub service: ServiceName,
    /// This port of it only.
    pub port: Option<u16>,
    /// Only for clients of this namespace: a consumer route, which goes before those of the service's own namespace.
    pub consumers: Option<ArcStr>,
}

/// Rules by what they look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Requests: `HTTPRoute` and `GRPCRoute`.
    Http(Vec<Arc<HttpRule>>),
    /// The server name of a TLS handshake.
    Tls(Vec<Arc<TlsRule>>),
    /// Nothing: connections.
    Tcp(Vec<Arc<TcpRule>>),
}

/// One rule for requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRule {
    /// Its name in the object.
    pub name: Option<ArcStr>,
    /// Any is enough; none matches nothing (a rule without matches has one that matches everything).
    pub matches: Vec<HttpMatch>,
    /// What happens to requests and answers, in this order.
    pub filters: Vec<Filter>,
    /// Where requests go, by weight; none gives 500, unless a filter answers.
    pub backends: Vec<Backend>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// Whether it is tried again.
    pub retry: Option<Retry>,
    /// Whether a client stays with its endpoint.
    pub persistence: Option<Persistence>,
}

/// All that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpMatch {
    /// The path without its query.
    pub path: PathMatch,
    /// The method.
    pub method: Option<Method>,
    /// Headers, each by its first value; names are lower case.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// Query parameters, each by its first value, decoded.
    pub query: Vec<(ArcStr, TextMatch)>,
}

/// What a path must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PathMatch {
    /// Anything.
    #[default]
    Any,
    /// This path.
    Exact(ArcStr),
    /// This path or one below it, by whole elements; without a `/` at its end.
    Prefix(ArcStr),
    /// A path that the expression matches as a whole.
    Pattern(Pattern),
    /// `/service/method` of gRPC, each as far as it is asked for.
    Rpc {
        /// Full name of the service.
        service: Option<TextMatch>,
        /// Name of the method.
        method: Option<TextMatch>,
    },
}

/// What happens to a request, or to its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Headers of the request.
    RequestHeaders(HeaderEdits),
    /// Headers of the answer.
    ResponseHeaders(HeaderEdits),
    /// It is answered with a redirection.
    Redirect(Redirect),
    /// Its host or path is another from here on.
    Rewrite(Rewrite),
    /// A copy goes elsewhere, whose answer nobody waits for.
    Mirror(Mirror),
    /// Answers to browsers about other origins (Fetch standard, CORS protocol).
    Cors(Cors),
}

/// Changes of headers: `set`, then `add`, then `remove`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// This value and no other.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// This value besides others.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// No value.
    pub remove: Vec<HeaderName>,
}

/// A redirection; what is not said stays as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<ArcStr>,
    /// The host.
    pub hostname: Option<ArcStr>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathEdit>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// Another host or path for the server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub hostname: Option<HeaderValue>,
    /// The path.
    pub path: Option<PathEdit>,
}

/// Another path; the query stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathEdit {
    /// The whole path.
    Full(ArcStr),
    /// What stands in the place of the prefix that matched.
    Prefix(ArcStr),
}

/// A copy of some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where it goes.
    pub target: Target,
    /// Of so many requests …
    pub denominator: u32,
    /// … so many are copied.
    pub numerator: u32,
}

/// What browsers are told about other origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// `*`, an origin, or one with a `*` in the place of labels of its host.
    pub allow_origins: Vec<ArcStr>,
    /// Whether credentials may be sent.
    pub allow_credentials: bool,
    /// Methods, or `*`.
    pub allow_methods: Vec<ArcStr>,
    /// Request headers, or `*`.
    pub allow_headers: Vec<ArcStr>,
    /// Answer headers that scripts may read, or `*`.
    pub expose_headers: Vec<ArcStr>,
    /// How long an answer to a preflight request may be kept.
    pub max_age: Duration,
}

/// Where a share of requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// See the type.
    pub target: Target,
    /// Its share.
    pub weight: u32,
    /// Filters for this share only, after those of the rule.
    pub filters: Vec<Filter>,
}

/// What a reference to a backend came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A port of a service, wherever it is; one that does not exist gives 500.
    Service {
        /// The service.
        name: ServiceName,
        /// Its port.
        port: u16,
    },
    /// It cannot be used (another kind, no grant); its share gives 500, with this reason in the log.
    Refused(ArcStr),
}

/// How long a request may take; `None` is without an end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// From its head to the end of the answer, with all attempts.
    pub request: Option<Duration>,
    /// One attempt.
    pub attempt: Option<Duration>,
}

/// When a request is tried again (GEP-1731).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// How often after the first attempt.
    pub attempts: u32,
    /// Least time between two attempts; it doubles.
    pub backoff: Option<Duration>,
    /// Answers that are tried again, besides failures before an answer.
    pub codes: Vec<StatusCode>,
}

/// How a client stays with its endpoint (GEP-1619).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Name of the cookie or header.
    pub name: ArcStr,
    /// What carries it.
    pub carrier: Carrier,
    /// Ends so long after it began.
    pub absolute: Option<Duration>,
}

/// What carries a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A header of requests and answers.
    Header,
    /// A cookie that ends with the browser.
    SessionCookie,
    /// A cookie that ends with the session.
    PermanentCookie,
}

/// One rule for connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpRule {
    /// Its name in the object.
    pub name: Option<ArcStr>,
    /// Where connections go, by weight.
    pub backends: Vec<Backend>,
}

/// One rule for TLS connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsRule {
    /// Its name in the object.
    pub name: Option<ArcStr>,
    /// Server names, exact or `*.domain`; any is enough.
    pub hostnames: Vec<ArcStr>,
    /// Where connections go, by weight.
    pub backends: Vec<Backend>,
}
