// SPDX-License-Identifier: Apache-2.0
//! Changes of the Index and what they touch.

use std::collections::BTreeSet;

use arcstr::ArcStr;

use crate::{
    l7::{Authentication, Guard, Route, RouteName, Traffic},
    name::{NetworkAddress, PolicyName, ServiceName, SpiffeId, WorkloadUid},
    policy::Policy,
    service::Service,
    telemetry::{Telemetry, TelemetryName},
    workload::{Workload, WorkloadKey},
};

/// One change of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A workload appeared or changed.
    Workload(Workload),
    /// A service appeared or changed.
    Service(Service),
    /// A policy appeared or changed.
    Policy(Policy),
    /// A route appeared or changed.
    Route(Route),
    /// A telemetry appeared or changed.
    Telemetry(Telemetry),
    /// What is said of the traffic of a service appeared or changed.
    Traffic(Traffic),
    /// A guard appeared or changed.
    Guard(Guard),
    /// An authentication appeared or changed.
    Authentication(Authentication),
    /// A workload is gone.
    WorkloadGone(WorkloadUid),
    /// A service is gone.
    ServiceGone(ServiceName),
    /// A policy is gone.
    PolicyGone(PolicyName),
    /// A route is gone.
    RouteGone(RouteName),
    /// A telemetry is gone.
    TelemetryGone(TelemetryName),
    /// Nothing is said of the traffic of a service any more.
    TrafficGone(ServiceName),
    /// A guard is gone.
    GuardGone(PolicyName),
    /// An authentication is gone.
    AuthenticationGone(PolicyName),
}

/// What changes touched: what the shell must look at again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Addresses behind which another identity stands now, or none: tunnels to them must close at once.
    pub moved: Vec<Moved>,
    /// A policy changed: every open connection must be asked again.
    pub policies: bool,
    /// Workloads that appeared, or to which other policies apply now: their open connections must be asked again.
    pub selections: BTreeSet<WorkloadKey>,
    /// A service appeared, changed or vanished.
    pub services: bool,
    /// A workload appeared, changed or vanished.
    pub workloads: bool,
    /// A route, or what is said of the traffic of a service, appeared, changed or vanished.
    pub routes: bool,
    /// A telemetry appeared, changed or vanished.
    pub telemetry: bool,
    /// A guard changed: every open connection must be asked again.
    pub guards: bool,
    /// An authentication changed.
    pub authentications: bool,
    /// Nodes on which the set of identities changed.
    pub nodes: BTreeSet<ArcStr>,
}

impl Touched {
    /// Adds what another change touched.
    pub fn merge(&mut self, other: Self) {
        self.moved.extend(other.moved);
        self.policies |= other.policies;
        self.selections.extend(other.selections);
        self.services |= other.services;
        self.workloads |= other.workloads;
        self.routes |= other.routes;
        self.telemetry |= other.telemetry;
        self.guards |= other.guards;
        self.authentications |= other.authentications;
        self.nodes.extend(other.nodes);
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An address that changed hands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The address.
    pub address: NetworkAddress,
    /// Who was there.
    pub was: SpiffeId,
    /// Who is there now.
    pub now: Option<SpiffeId>,
}
