// SPDX-License-Identifier: Apache-2.0
//! The Kubernetes and Istio objects that we read, with the fields that we use.
//!
//! Core objects ignore what they do not know, real ones have a hundred fields; in policies an unknown field is an
//! error, because a misspelt condition would silently let someone in. Nothing here knows where an object came from: a
//! folder of YAML and a watch of the API server feed the same types.

mod meta;
mod pod;
mod security;
mod service;

use std::fmt;

use arcstr::ArcStr;
use serde::{Deserialize, Serialize};

pub(crate) use self::meta::contains;
pub use self::{
    meta::{LabelSelector, Labels, Metadata, OwnerReference},
    pod::{Condition, Container, ContainerPort, Phase, Pod, PodIp, PodSpec, PodStatus, Protocol},
    security::{
        AuthorizationAction, AuthorizationPolicy, AuthorizationPolicySpec, AuthorizationRule,
        ExtensionProvider, From, MtlsMode, MutualTls, Operation, PeerAuthentication, PeerAuthenticationSpec,
        Source, TargetReference, To, When,
    },
    service::{ClusterIp, IpFamily, Port, Service, ServiceSpec, TargetPort, TrafficPolicy},
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

/// Kind of an object that we read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum Kind {
    /// v1
    Namespace,
    /// v1
    Node,
    /// v1
    ServiceAccount,
    /// v1
    Pod,
    /// v1
    Service,
    /// security.istio.io/v1
    AuthorizationPolicy,
    /// security.istio.io/v1
    PeerAuthentication,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::Namespace,
        Self::Node,
        Self::ServiceAccount,
        Self::Pod,
        Self::Service,
        Self::AuthorizationPolicy,
        Self::PeerAuthentication,
    ];

    /// As in manifests.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::ServiceAccount => "ServiceAccount",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::PeerAuthentication => "PeerAuthentication",
        }
    }

    /// The `apiVersion`s under which we read it, the current one first.
    pub fn api_versions(self) -> &'static [&'static str] {
        match self {
            Self::Namespace | Self::Node | Self::ServiceAccount | Self::Pod | Self::Service => &["v1"],
            Self::AuthorizationPolicy | Self::PeerAuthentication => {
                &["security.istio.io/v1", "security.istio.io/v1beta1"]
            }
        }
    }

    /// Whether its objects live in a namespace.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }
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

/// An object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// See [`Namespace`].
    Namespace(Namespace),
    /// See [`Node`].
    Node(Node),
    /// See [`ServiceAccount`].
    ServiceAccount(ServiceAccount),
    /// See [`Pod`].
    Pod(Pod),
    /// See [`Service`].
    Service(Service),
    /// See [`AuthorizationPolicy`].
    AuthorizationPolicy(AuthorizationPolicy),
    /// See [`PeerAuthentication`].
    PeerAuthentication(PeerAuthentication),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Node(_) => Kind::Node,
            Self::ServiceAccount(_) => Kind::ServiceAccount,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::AuthorizationPolicy(_) => Kind::AuthorizationPolicy,
            Self::PeerAuthentication(_) => Kind::PeerAuthentication,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &Metadata {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Node(object) => &object.metadata,
            Self::ServiceAccount(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::AuthorizationPolicy(object) => &object.metadata,
            Self::PeerAuthentication(object) => &object.metadata,
        }
    }

    /// Its metadata, to be completed.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        match self {
            Self::Namespace(object) => &mut object.metadata,
            Self::Node(object) => &mut object.metadata,
            Self::ServiceAccount(object) => &mut object.metadata,
            Self::Pod(object) => &mut object.metadata,
            Self::Service(object) => &mut object.metadata,
            Self::AuthorizationPolicy(object) => &mut object.metadata,
            Self::PeerAuthentication(object) => &mut object.metadata,
        }
    }

    /// Which object it is.
    pub fn key(&self) -> ObjectKey {
        self.metadata().key(self.kind())
    }
}
