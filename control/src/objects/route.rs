// SPDX-License-Identifier: Apache-2.0
//! Routes of the Gateway API. A field that is not known is an error: a condition left out would send requests elsewhere.

use arcstr::ArcStr;
use serde::{Deserialize, Deserializer};

use super::meta::{null_is_default, strict_objects};

strict_objects! {
    /// `HTTPRoute`.
    HTTPRoute: HttpRouteSpec;
    /// `GRPCRoute`.
    GRPCRoute: GrpcRouteSpec;
    /// `TLSRoute`.
    TLSRoute: StreamRouteSpec;
    /// `TCPRoute`.
    TCPRoute: StreamRouteSpec;
}

/// `spec` of an `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts; of gateways only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub hostnames: Vec<ArcStr>,
    /// See the type; without any one that matches everything.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rules: Vec<HttpRouteRule>,
    /// Of gateways only.
    #[serde(default)]
    pub use_default_gateways: Option<ArcStr>,
}

/// `spec` of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Hosts; of gateways only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub hostnames: Vec<ArcStr>,
    /// See the type; without any one that matches everything.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rules: Vec<GrpcRouteRule>,
    /// Of gateways only.
    #[serde(default)]
    pub use_default_gateways: Option<ArcStr>,
}

/// `spec` of a `TLSRoute` or `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRouteSpec {
    /// What it is attached to.
    #[serde(default, deserialize_with = "null_is_default")]
    pub parent_refs: Vec<ParentRef>,
    /// Server names; of a `TLSRoute`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub hostnames: Vec<ArcStr>,
    /// See the type.
    #[serde(default, deserialize_with = "null_is_default")]
    pub rules: Vec<StreamRouteRule>,
    /// Of gateways only.
    #[serde(default)]
    pub use_default_gateways: Option<ArcStr>,
}

/// One of `spec.parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ParentRef {
    /// API group; `gateway.networking.k8s.io` if not said.
    #[serde(default)]
    pub group: Option<ArcStr>,
    /// Kind; `Gateway` if not said.
    #[serde(default)]
    pub kind: Option<ArcStr>,
    /// Namespace; the route's own if not said.
    #[serde(default)]
    pub namespace: Option<ArcStr>,
    /// Name.
    pub name: ArcStr,
    /// A listener of a gateway.
    #[serde(default)]
    pub section_name: Option<ArcStr>,
    /// A port.
    #[serde(default)]
    pub port: Option<u16>,
}

/// One of `spec.rules` of an `HTTPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteRule {
    /// Its name.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Any is enough; without any everything.
    #[serde(default, deserialize_with = "null_is_default")]
    pub matches: Vec<HttpRouteMatch>,
    /// See the type.
    #[serde(default, deserialize_with = "null_is_default")]
    pub filters: Vec<RouteFilter>,
    /// Where it goes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub backend_refs: Vec<BackendRef>,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Option<RouteTimeouts>,
    /// Whether it is tried again.
    #[serde(default)]
    pub retry: Option<RouteRetry>,
    /// Whether a client stays with its endpoint.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// One of `spec.rules` of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteRule {
    /// Its name.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Any is enough; without any everything.
    #[serde(default, deserialize_with = "null_is_default")]
    pub matches: Vec<GrpcRouteMatch>,
    /// See the type.
    #[serde(default, deserialize_with = "null_is_default")]
    pub filters: Vec<RouteFilter>,
    /// Where it goes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub backend_refs: Vec<BackendRef>,
    /// Whether a client stays with its endpoint.
    #[serde(default)]
    pub session_persistence: Option<SessionPersistence>,
}

/// One of `spec.rules` of a `TLSRoute` or `TCPRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StreamRouteRule {
    /// Its name.
    #[serde(default)]
    pub name: Option<ArcStr>,
    /// Where it goes.
    #[serde(default, deserialize_with = "null_is_default")]
    pub backend_refs: Vec<BackendRef>,
}

/// One of `matches` of an `HTTPRoute`: all that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpRouteMatch {
    /// The path.
    #[serde(default)]
    pub path: Option<RoutePath>,
    /// Headers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub headers: Vec<NamedValue>,
    /// Query parameters.
    #[serde(default, deserialize_with = "null_is_default")]
    pub query_params: Vec<NamedValue>,
    /// The method.
    #[serde(default)]
    pub method: Option<ArcStr>,
}

/// `path` of a match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutePath {
    /// `Exact`, `PathPrefix` (also if not said) or `RegularExpression`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// The path; `/` if not said.
    #[serde(default)]
    pub value: Option<ArcStr>,
}

/// A header or query parameter of a match.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedValue {
    /// `Exact` (also if not said) or `RegularExpression`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// Its name.
    pub name: ArcStr,
    /// What it must be.
    pub value: ArcStr,
}

/// One of `matches` of a `GRPCRoute`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcRouteMatch {
    /// The method.
    #[serde(default)]
    pub method: Option<GrpcMethod>,
    /// Headers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub headers: Vec<NamedValue>,
}

/// `method` of a match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcMethod {
    /// `Exact` (also if not said) or `RegularExpression`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// Full name of the service.
    #[serde(default)]
    pub service: Option<ArcStr>,
    /// Name of the method.
    #[serde(default)]
    pub method: Option<ArcStr>,
}

/// One of `filters`: the field that `type` names is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteFilter {
    /// Which field counts.
    #[serde(rename = "type")]
    pub kind: ArcStr,
    /// `RequestHeaderModifier`.
    #[serde(default)]
    pub request_header_modifier: Option<HeaderModifier>,
    /// `ResponseHeaderModifier`.
    #[serde(default)]
    pub response_header_modifier: Option<HeaderModifier>,
    /// `RequestMirror`.
    #[serde(default)]
    pub request_mirror: Option<RequestMirror>,
    /// `RequestRedirect`.
    #[serde(default)]
    pub request_redirect: Option<RequestRedirect>,
    /// `URLRewrite`.
    #[serde(default)]
    pub url_rewrite: Option<UrlRewrite>,
    /// `CORS`.
    #[serde(default)]
    pub cors: Option<CorsFilter>,
    /// `ExtensionRef`: not read.
    #[serde(default)]
    pub extension_ref: Option<Opaque>,
    /// `ExternalAuth`: not read.
    #[serde(default)]
    pub external_auth: Option<Opaque>,
}

/// Something that is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opaque;

impl<'de> Deserialize<'de> for Opaque {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderModifier {
    /// This value and no other.
    #[serde(default, deserialize_with = "null_is_default")]
    pub set: Vec<HeaderValuePair>,
    /// This value besides others.
    #[serde(default, deserialize_with = "null_is_default")]
    pub add: Vec<HeaderValuePair>,
    /// No value.
    #[serde(default, deserialize_with = "null_is_default")]
    pub remove: Vec<ArcStr>,
}

/// A header.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderValuePair {
    /// Its name.
    pub name: ArcStr,
    /// Its value.
    pub value: ArcStr,
}

/// `requestMirror`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Where the copy goes.
    pub backend_ref: ServiceRef,
    /// Of how many in a hundred.
    #[serde(default)]
    pub percent: Option<u32>,
    /// Of how many.
    #[serde(default)]
    pub fraction: Option<MirrorFraction>,
}

/// `requestMirror.fraction`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorFraction {
    /// So many …
    pub numerator: u32,
    /// … of so many; 100 if not said.
    #[serde(default)]
    pub denominator: Option<u32>,
}

/// `requestRedirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestRedirect {
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Option<ArcStr>,
    /// The host.
    #[serde(default)]
    pub hostname: Option<ArcStr>,
    /// The path.
    #[serde(default)]
    pub path: Option<PathModifier>,
    /// The port.
    #[serde(default)]
    pub port: Option<u16>,
    /// 302 if not said.
    #[serde(default)]
    pub status_code: Option<u16>,
}

/// `urlRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The host.
    #[serde(default)]
    pub hostname: Option<ArcStr>,
    /// The path.
    #[serde(default)]
    pub path: Option<PathModifier>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PathModifier {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: ArcStr,
    /// The whole path.
    #[serde(default)]
    pub replace_full_path: Option<ArcStr>,
    /// In the place of the prefix that matched.
    #[serde(default)]
    pub replace_prefix_match: Option<ArcStr>,
}

/// `cors`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CorsFilter {
    /// Origins.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allow_origins: Vec<ArcStr>,
    /// Whether credentials may be sent.
    #[serde(default)]
    pub allow_credentials: Option<bool>,
    /// Methods.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allow_methods: Vec<ArcStr>,
    /// Request headers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub allow_headers: Vec<ArcStr>,
    /// Answer headers.
    #[serde(default, deserialize_with = "null_is_default")]
    pub expose_headers: Vec<ArcStr>,
    /// Seconds; 5 if not said.
    #[serde(default)]
    pub max_age: Option<u32>,
}

/// A service and a port of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceRef {
    /// API group; the core one if not said.
    #[serde(default)]
    pub group: Option<ArcStr>,
    /// Kind; `Service` if not said.
    #[serde(default)]
    pub kind: Option<ArcStr>,
    /// Namespace; the route's own if not said.
    #[serde(default)]
    pub namespace: Option<ArcStr>,
    /// Name.
    pub name: ArcStr,
    /// Port; services need one.
    #[serde(default)]
    pub port: Option<u16>,
}

/// One of `backendRefs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendRef {
    /// API group; the core one if not said.
    #[serde(default)]
    pub group: Option<ArcStr>,
    /// Kind; `Service` if not said.
    #[serde(default)]
    pub kind: Option<ArcStr>,
    /// Namespace; the route's own if not said.
    #[serde(default)]
    pub namespace: Option<ArcStr>,
    /// Name.
    pub name: ArcStr,
    /// Port; services need one.
    #[serde(default)]
    pub port: Option<u16>,
    /// Its share; 1 if not said.
    #[serde(default)]
    pub weight: Option<u32>,
    /// For this share only.
    #[serde(default, deserialize_with = "null_is_default")]
    pub filters: Vec<RouteFilter>,
}

impl BackendRef {
    /// What it refers to.
    pub fn target(&self) -> ServiceRef {
        ServiceRef {
            group: self.group.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            port: self.port,
        }
    }
}

/// `timeouts`, as durations of GEP-2257.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTimeouts {
    /// The whole request.
    #[serde(default)]
    pub request: Option<ArcStr>,
    /// One attempt.
    #[serde(default)]
    pub backend_request: Option<ArcStr>,
}

/// `retry`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteRetry {
    /// Status codes that are tried again.
    #[serde(default, deserialize_with = "null_is_default")]
    pub codes: Vec<u16>,
    /// How often; once if not said.
    #[serde(default)]
    pub attempts: Option<u32>,
    /// Least time between attempts.
    #[serde(default)]
    pub backoff: Option<ArcStr>,
}

/// `sessionPersistence`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SessionPersistence {
    /// Name of the cookie or header.
    #[serde(default)]
    pub session_name: Option<ArcStr>,
    /// The session's end.
    #[serde(default)]
    pub absolute_timeout: Option<ArcStr>,
    /// `Cookie` (also if not said) or `Header`.
    #[serde(default, rename = "type")]
    pub kind: Option<ArcStr>,
    /// Of a cookie.
    #[serde(default)]
    pub cookie_config: Option<CookieConfig>,
}

/// `cookieConfig`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CookieConfig {
    /// `Session` (also if not said) or `Permanent`.
    #[serde(default)]
    pub lifetime_type: Option<ArcStr>,
}
