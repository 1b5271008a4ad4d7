// SPDX-License-Identifier: Apache-2.0
//! The Kubernetes and Istio objects that we read, with the fields that we use.
//!
//! Core objects ignore what they do not know, real ones have a hundred fields; in Istio's objects an unknown field is an
//! error, because a misspelt condition would silently let someone in and a misspelt `resolution` lead elsewhere. Nothing here knows where an object came from: a
//! folder of YAML and a watch of the API server feed the same types.

mod endpoint_slice;
mod entry;
mod gateway;
mod meta;
mod pod;
mod route;
mod security;
mod service;
mod telemetry;
mod tls;

use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

pub(crate) use self::meta::contains;
pub use self::{
    endpoint_slice::{
        AddressType, Endpoint, EndpointConditions, EndpointPort, EndpointSlice, EndpointTarget,
    },
    entry::{
        EntryAddress, EntryPort, Location, Resolution, ServiceEntry, ServiceEntrySpec, ServiceEntryStatus,
        WorkloadEntry, WorkloadEntrySpec, WorkloadEntryStatus, WorkloadGroup, WorkloadGroupSpec,
        WorkloadSelector,
    },
    gateway::{
        AllowedRoutes, Gateway, GatewayClass, GatewayClassSpec, GatewaySpec, GatewayStatus, Infrastructure,
        Listener, NamespaceSelector, ParametersReference, RouteKind, RouteNamespaces, SelectorRequirement,
        StatusAddress,
    },
    meta::{LabelSelector, Labels, Metadata, OwnerReference},
    pod::{Condition, Container, ContainerPort, Phase, Pod, PodIp, PodSpec, PodStatus, Protocol},
    route::{
        BackendRef, CookieConfig, CorsFilter, GRPCRoute, GrpcMethod, GrpcRouteMatch, GrpcRouteRule,
        GrpcRouteSpec, HTTPRoute, HeaderModifier, HeaderValuePair, HttpRouteMatch, HttpRouteRule,
        HttpRouteSpec, MirrorFraction, NamedValue, Opaque, ParentRef, PathModifier, RequestMirror,
        RequestRedirect, RouteFilter, RoutePath, RouteRetry, RouteTimeouts, ServiceRef, SessionPersistence,
        StreamRouteRule, StreamRouteSpec, TCPRoute, TLSRoute, UrlRewrite,
    },
    security::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule, ClaimToHeader,
        ExtensionProvider, From, JwtHeader, JwtRule, MtlsMode, MutualTls, Operation, PeerAuthentication,
        PeerAuthenticationSpec, RequestAuthentication, RequestAuthenticationSpec, Source, TargetReference,
        To, When,
    },
    service::{
        ClusterIp, Ingress, IpFamily, LoadBalancerStatus, Port, Service, ServiceSpec, ServiceStatus,
        TargetPort, TrafficPolicy,
    },
    telemetry::{
        CustomTag, LiteralTag, LogFilter, LoggingRule, MetricMatch, MetricName, MetricOverride, MetricsRule,
        NamedTag, ProviderRef, Side, SideMatch, TagOperation, TagOverride, Telemetry, TelemetrySpec,
        TracingRule,
    },
    tls::{
        AltName, BackendTLSPolicy, BackendTlsSpec, Bundle, CertificateReference, ConfigMap, SectionReference,
        Validation,
    },
};

/// A namespace; its labels and annotations are defaults for what lives in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Namespace {
    /// Name, labels, annotations.
    pub metadata: Metadata,
}

/// A node; its labels say where its pods are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Name and labels.
    pub metadata: Metadata,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ServiceAccount {
    /// Name and namespace.
    pub metadata: Metadata,
}

/// The fields of an object, in whatever form they came.
pub(crate) trait Fields {
    /// What is wrong with them.
    type Error;

    /// Reads them as a type.
    fn read<T: DeserializeOwned>(self) -> Result<T, Self::Error>;
}

/// Makes [`Kind`] and [`Object`] of a table: kind, whether it is in a namespace, its name in paths of the API server, the
/// `apiVersion`s.
macro_rules! kinds {
    ($($kind:ident: $namespaced:literal, $plural:literal, [$($version:literal),+];)+) => {
        /// Kind of an object that we read.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum Kind {
            $(#[doc = concat!($($version, " "),+)] $kind,)+
        }

        impl Kind {
            /// Every kind.
            pub const ALL: [Self; [$(stringify!($kind)),+].len()] = [$(Self::$kind),+];

            /// As in manifests.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => stringify!($kind),)+ }
            }

            /// The `apiVersion`s under which we read it, the current one first.
            pub fn api_versions(self) -> &'static [&'static str] {
                match self { $(Self::$kind => &[$($version),+],)+ }
            }

            /// As in paths of the API server.
            pub fn plural(self) -> &'static str {
                match self { $(Self::$kind => $plural,)+ }
            }

            /// Whether its objects live in a namespace.
            pub fn is_namespaced(self) -> bool {
                match self { $(Self::$kind => $namespaced,)+ }
            }
        }

        /// An object.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Object {
            $(#[doc = concat!("See [`", stringify!($kind), "`].")] $kind($kind),)+
        }

        impl Object {
            /// Reads an object of a kind from wherever its fields are.
            pub(crate) fn read<R: Fields>(kind: Kind, fields: R) -> Result<Self, R::Error> {
                match kind { $(Kind::$kind => fields.read().map(Self::$kind),)+ }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)+ }
            }

            /// Its metadata.
            pub fn metadata(&self) -> &Metadata {
                match self { $(Self::$kind(object) => &object.metadata,)+ }
            }

            /// Its metadata, to be completed.
            pub fn metadata_mut(&mut self) -> &mut Metadata {
                match self { $(Self::$kind(object) => &mut object.metadata,)+ }
            }
        }
    };
}

kinds! {
    Namespace: false, "namespaces", ["v1"];
    Node: false, "nodes", ["v1"];
    ServiceAccount: true, "serviceaccounts", ["v1"];
    ConfigMap: true, "configmaps", ["v1"];
    Pod: true, "pods", ["v1"];
    Service: true, "services", ["v1"];
    EndpointSlice: true, "endpointslices", ["discovery.k8s.io/v1"];
    ServiceEntry: true, "serviceentries", ["networking.istio.io/v1", "networking.istio.io/v1beta1"];
    WorkloadEntry: true, "workloadentries", ["networking.istio.io/v1", "networking.istio.io/v1beta1"];
    WorkloadGroup: true, "workloadgroups", ["networking.istio.io/v1", "networking.istio.io/v1beta1"];
    Gateway: true, "gateways", ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    GatewayClass: false, "gatewayclasses", [
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1beta1"
    ];
    HTTPRoute: true, "httproutes", ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
    GRPCRoute: true, "grpcroutes", ["gateway.networking.k8s.io/v1"];
    TLSRoute: true, "tlsroutes", [
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1alpha3",
        "gateway.networking.k8s.io/v1alpha2"
    ];
    TCPRoute: true, "tcproutes", ["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];
    BackendTLSPolicy: true, "backendtlspolicies", [
        "gateway.networking.k8s.io/v1",
        "gateway.networking.k8s.io/v1alpha3"
    ];
    AuthorizationPolicy: true, "authorizationpolicies", ["security.istio.io/v1", "security.istio.io/v1beta1"];
    PeerAuthentication: true, "peerauthentications", ["security.istio.io/v1", "security.istio.io/v1beta1"];
    Telemetry: true, "telemetries", ["telemetry.istio.io/v1", "telemetry.istio.io/v1alpha1"];
    RequestAuthentication: true, "requestauthentications", [
        "security.istio.io/v1",
        "security.istio.io/v1beta1"
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which object: what the API server allows once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace; empty for a kind that has none.
    pub namespace: ArcStr,
    /// Name.
    pub name: ArcStr,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

impl Serialize for ObjectKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Object {
    /// Which object it is.
    pub fn key(&self) -> ObjectKey {
        self.metadata().key(self.kind())
    }
}
