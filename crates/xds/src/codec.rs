// SPDX-License-Identifier: Apache-2.0
//! How resources look on the wire: `istio.workload.Address`, `istio.security.Authorization`, and `Route`, `Traffic`,
//! `Guard`, `Authentication` and `Telemetry` of `ambit.mesh.v1`, both directions.
//!
//! `decode(encode(x)) == x`. Names, addresses and enums are checked here once and trusted afterwards. What only describes
//! (application protocol, kind of owner) falls back to its default when it is newer than this code; what decides is
//! refused. It knows no stream, version or Index.

mod authentication;
mod field;
mod guard;
mod policy;
mod route;
mod service;
mod telemetry;
mod traffic;
mod workload;

use std::fmt;

use arcstr::ArcStr;
use mesh::{
    Authentication, Change, Guard, Policy, PolicyName, Route, RouteName, Service, ServiceName, Telemetry,
    TelemetryName, Traffic, Workload, WorkloadUid,
};
use prost::Message;
use proto::workload::address;

pub use self::field::{FieldError, Problem};
use crate::kind::Kind;

/// One discovery resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// An `Address` that is a workload.
    Workload(Box<Workload>),
    /// An `Address` that is a service.
    Service(Box<Service>),
    /// An `Authorization`.
    Policy(Box<Policy>),
    /// A `Route`.
    Route(Box<Route>),
    /// A `Telemetry`.
    Telemetry(Box<Telemetry>),
    /// A `Traffic`.
    Traffic(Box<Traffic>),
    /// A `Guard`.
    Guard(Box<Guard>),
    /// An `Authentication`.
    Authentication(Box<Authentication>),
}

/// What a resource is, and its name in the form that `mesh` knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ResourceKey {
    /// A workload.
    Workload(WorkloadUid),
    /// A service.
    Service(ServiceName),
    /// A policy.
    Policy(PolicyName),
    /// A route.
    Route(RouteName),
    /// A telemetry.
    Telemetry(TelemetryName),
    /// The traffic of a service.
    Traffic(ServiceName),
    /// A guard.
    Guard(PolicyName),
    /// An authentication.
    Authentication(PolicyName),
}

impl Resource {
    /// The type it travels under.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Workload(_) | Self::Service(_) => Kind::Address,
            Self::Policy(_) => Kind::Authorization,
            Self::Route(_) => Kind::Route,
            Self::Telemetry(_) => Kind::Telemetry,
            Self::Traffic(_) => Kind::Traffic,
            Self::Guard(_) => Kind::Guard,
            Self::Authentication(_) => Kind::Authentication,
        }
    }

    /// What it is and is called.
    pub fn key(&self) -> ResourceKey {
        match self {
            Self::Workload(workload) => ResourceKey::Workload(workload.uid.clone()),
            Self::Service(service) => ResourceKey::Service(service.key()),
            Self::Policy(policy) => ResourceKey::Policy(policy.name.clone()),
            Self::Route(route) => ResourceKey::Route(route.name.clone()),
            Self::Telemetry(telemetry) => ResourceKey::Telemetry(telemetry.name.clone()),
            Self::Traffic(traffic) => ResourceKey::Traffic(traffic.service.clone()),
            Self::Guard(guard) => ResourceKey::Guard(guard.name.clone()),
            Self::Authentication(found) => ResourceKey::Authentication(found.name.clone()),
        }
    }

    /// Its name on the wire.
    pub fn name(&self) -> ArcStr {
        self.key().to_string().into()
    }

    /// Its message, as in `google.protobuf.Any.value`. The same resource always gives the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Workload(workload) => workload::encode(workload).encode_to_vec(),
            Self::Service(service) => service::encode(service).encode_to_vec(),
            Self::Policy(policy) => policy::encode(policy).encode_to_vec(),
            Self::Route(route) => route::encode(route).encode_to_vec(),
            Self::Telemetry(telemetry) => telemetry::encode(telemetry).encode_to_vec(),
            Self::Traffic(traffic) => traffic::encode(traffic).encode_to_vec(),
            Self::Guard(guard) => guard::encode(guard).encode_to_vec(),
            Self::Authentication(found) => authentication::encode(found).encode_to_vec(),
        }
    }
}

impl ResourceKey {
    /// What a name on the wire may stand for: an `Address` is a workload or a service.
    pub fn named(kind: Kind, name: &str) -> [Option<Self>; 2] {
        match kind {
            Kind::Authorization => [name.parse().ok().map(Self::Policy), None],
            Kind::Route => [name.parse().ok().map(Self::Route), None],
            Kind::Telemetry => [name.parse().ok().map(Self::Telemetry), None],
            Kind::Traffic => [name.parse().ok().map(Self::Traffic), None],
            Kind::Guard => [name.parse().ok().map(Self::Guard), None],
            Kind::Authentication => [name.parse().ok().map(Self::Authentication), None],
            Kind::Address => {
                [WorkloadUid::parse(name).ok().map(Self::Workload), name.parse().ok().map(Self::Service)]
            }
        }
    }

    /// The change that takes it away.
    pub fn gone(self) -> Change {
        match self {
            Self::Workload(uid) => Change::WorkloadGone(uid),
            Self::Service(name) => Change::ServiceGone(name),
            Self::Policy(name) => Change::PolicyGone(name),
            Self::Route(name) => Change::RouteGone(name),
            Self::Telemetry(name) => Change::TelemetryGone(name),
            Self::Traffic(name) => Change::TrafficGone(name),
            Self::Guard(name) => Change::GuardGone(name),
            Self::Authentication(name) => Change::AuthenticationGone(name),
        }
    }
}

impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(uid) => uid.fmt(f),
            Self::Service(name) | Self::Traffic(name) => name.fmt(f),
            Self::Policy(name) | Self::Guard(name) | Self::Authentication(name) => name.fmt(f),
            Self::Route(name) => name.fmt(f),
            Self::Telemetry(name) => name.fmt(f),
        }
    }
}

impl From<Resource> for Change {
    fn from(resource: Resource) -> Self {
        match resource {
            Resource::Workload(workload) => Self::Workload(*workload),
            Resource::Service(service) => Self::Service(*service),
            Resource::Policy(policy) => Self::Policy(*policy),
            Resource::Route(route) => Self::Route(*route),
            Resource::Telemetry(telemetry) => Self::Telemetry(*telemetry),
            Resource::Traffic(traffic) => Self::Traffic(*traffic),
            Resource::Guard(guard) => Self::Guard(*guard),
            Resource::Authentication(found) => Self::Authentication(*found),
        }
    }
}

impl From<Workload> for Resource {
    fn from(workload: Workload) -> Self {
        Self::Workload(Box::new(workload))
    }
}

impl From<Service> for Resource {
    fn from(service: Service) -> Self {
        Self::Service(Box::new(service))
    }
}

impl From<Policy> for Resource {
    fn from(policy: Policy) -> Self {
        Self::Policy(Box::new(policy))
    }
}

impl From<Route> for Resource {
    fn from(route: Route) -> Self {
        Self::Route(Box::new(route))
    }
}

impl From<Telemetry> for Resource {
    fn from(telemetry: Telemetry) -> Self {
        Self::Telemetry(Box::new(telemetry))
    }
}

impl From<Traffic> for Resource {
    fn from(traffic: Traffic) -> Self {
        Self::Traffic(Box::new(traffic))
    }
}

impl From<Guard> for Resource {
    fn from(guard: Guard) -> Self {
        Self::Guard(Box::new(guard))
    }
}

impl From<Authentication> for Resource {
    fn from(authentication: Authentication) -> Self {
        Self::Authentication(Box::new(authentication))
    }
}

/// A resource that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a message of its type.
    #[error("is not a valid {kind}: {reason}")]
    Malformed {
        /// Type it should be.
        kind: Kind,
        /// What the decoder says.
        reason: String,
    },
    /// Another type than the response says, or none.
    #[error("has type {url:?}")]
    WrongType {
        /// Its type URL.
        url: String,
    },
    /// An `Address` that is neither workload nor service.
    #[error("is neither a workload nor a service")]
    Empty,
    /// It says something that this end does not know: leaving it out would change what it means.
    #[error("has fields that this version does not know")]
    Newer,
    /// What it calls itself is not what it was sent as.
    #[error("calls itself {key:?}")]
    Misnamed {
        /// Its own name.
        key: String,
    },
    /// A field has a value that cannot be honoured.
    #[error(transparent)]
    Field(#[from] FieldError),
}

/// Decodes the message that was sent under `name`.
///
/// # Errors
/// When the bytes are not such a message, a field has no meaning here, or it calls itself something else.
pub fn decode(kind: Kind, name: &str, bytes: &[u8]) -> Result<Resource, Refused> {
    let malformed = |error: prost::DecodeError| Refused::Malformed { kind, reason: error.to_string() };
    let resource = match kind {
        Kind::Authorization => {
            policy::decode(proto::security::Authorization::decode(bytes).map_err(malformed)?)?.into()
        }
        Kind::Address => match proto::workload::Address::decode(bytes).map_err(malformed)?.r#type {
            Some(address::Type::Workload(message)) => workload::decode(message)?.into(),
            Some(address::Type::Service(message)) => service::decode(message)?.into(),
            None => return Err(Refused::Empty),
        },
        Kind::Route => {
            let message = proto::waypoint::Route::decode(bytes).map_err(malformed)?;
            route::decode(whole(message, bytes)?)?.into()
        }
        Kind::Guard => {
            let message = proto::waypoint::Guard::decode(bytes).map_err(malformed)?;
            guard::decode(whole(message, bytes)?)?.into()
        }
        Kind::Authentication => {
            let message = proto::waypoint::Authentication::decode(bytes).map_err(malformed)?;
            authentication::decode(whole(message, bytes)?)?.into()
        }
        Kind::Telemetry => {
            let message = proto::waypoint::Telemetry::decode(bytes).map_err(malformed)?;
            telemetry::decode(whole(message, bytes)?)?.into()
        }
        Kind::Traffic => {
            let message = proto::waypoint::Traffic::decode(bytes).map_err(malformed)?;
            traffic::decode(&whole(message, bytes)?)?.into()
        }
    };
    named(resource, name)
}

/// Unknown fields are lost in decoding, so they show in the length.
fn whole<M: Message>(message: M, bytes: &[u8]) -> Result<M, Refused> {
    if message.encoded_len() == bytes.len() { Ok(message) } else { Err(Refused::Newer) }
}

/// Holds a resource to the name it was sent under: removal goes by that name.
fn named(resource: Resource, name: &str) -> Result<Resource, Refused> {
    // Compared as keys: host names have no case and no trailing dot.
    let key = resource.key();
    let same = ResourceKey::named(resource.kind(), name).contains(&Some(key.clone()));
    if same { Ok(resource) } else { Err(Refused::Misnamed { key: key.to_string() }) }
}

#[cfg(test)]
mod tests;
