// SPDX-License-Identifier: Apache-2.0
//! Kinds of resources that one ADS stream carries, each with a type URL and a state of its own.

use std::fmt;

/// A type of discovery resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `istio.security.Authorization`: policies.
    Authorization,
    /// `istio.workload.Address`: workloads and services.
    Address,
    /// `ambit.mesh.v1.Route`: routes.
    Route,
    /// `ambit.mesh.v1.Telemetry`: what is to be observed.
    Telemetry,
    /// `ambit.mesh.v1.Traffic`: how the traffic of services is handled.
    Traffic,
    /// `ambit.mesh.v1.Guard`: policies of waypoints.
    Guard,
    /// `ambit.mesh.v1.Authentication`: whose tokens waypoints believe.
    Authentication,
}

impl Kind {
    /// All of them. Policies come first: a workload must not arrive before the policy that guards it when both are due.
    /// Routes come last: what they lead to is known before.
    pub const ALL: [Self; 7] = [
        Self::Authorization,
        Self::Authentication,
        Self::Guard,
        Self::Address,
        Self::Traffic,
        Self::Route,
        Self::Telemetry,
    ];
    /// Those of a node proxy, which are Istio's.
    pub const L4: [Self; 2] = [Self::Authorization, Self::Address];

    /// Its type URL.
    pub const fn type_url(self) -> &'static str {
        match self {
            Self::Authorization => proto::AUTHORIZATION,
            Self::Address => proto::ADDRESS,
            Self::Route => proto::ROUTE,
            Self::Telemetry => proto::TELEMETRY,
            Self::Traffic => proto::TRAFFIC,
            Self::Guard => proto::GUARD,
            Self::Authentication => proto::AUTHENTICATION,
        }
    }

    /// The kind with this type URL.
    pub fn of_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authorization => "Authorization",
            Self::Address => "Address",
            Self::Route => "Route",
            Self::Telemetry => "Telemetry",
            Self::Traffic => "Traffic",
            Self::Guard => "Guard",
            Self::Authentication => "Authentication",
        })
    }
}

/// One value per kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerKind<T> {
    authorization: T,
    address: T,
    route: T,
    telemetry: T,
    traffic: T,
    guard: T,
    authentication: T,
}

impl<T> PerKind<T> {
    /// With a value for each.
    pub fn new(mut of: impl FnMut(Kind) -> T) -> Self {
        Self {
            authorization: of(Kind::Authorization),
            address: of(Kind::Address),
            route: of(Kind::Route),
            telemetry: of(Kind::Telemetry),
            traffic: of(Kind::Traffic),
            guard: of(Kind::Guard),
            authentication: of(Kind::Authentication),
        }
    }

    /// The value of a kind.
    pub fn of(&self, kind: Kind) -> &T {
        match kind {
            Kind::Authorization => &self.authorization,
            Kind::Address => &self.address,
            Kind::Route => &self.route,
            Kind::Telemetry => &self.telemetry,
            Kind::Traffic => &self.traffic,
            Kind::Guard => &self.guard,
            Kind::Authentication => &self.authentication,
        }
    }

    /// The value of a kind.
    pub fn of_mut(&mut self, kind: Kind) -> &mut T {
        match kind {
            Kind::Authorization => &mut self.authorization,
            Kind::Address => &mut self.address,
            Kind::Route => &mut self.route,
            Kind::Telemetry => &mut self.telemetry,
            Kind::Traffic => &mut self.traffic,
            Kind::Guard => &mut self.guard,
            Kind::Authentication => &mut self.authentication,
        }
    }
}
