// SPDX-License-Identifier: Apache-2.0
//! The vocabulary of the mesh, the Index and every decision that proxies and control share.
//!
//! It knows no IO, clock, runtime, protobuf, TLS or Kubernetes: data in, data out. Decisions about one flow are built
//! on it in `plan`; the wire form of its types is in `xds::codec`.

pub mod authz;
pub mod balance;
pub mod chance;
pub mod expression;
#[cfg(test)]
mod fixtures;
pub mod index;
pub mod l7;
pub mod name;
pub mod policy;
pub mod service;
pub mod telemetry;
pub mod workload;

pub use index::{Change, Index, Moved, Touched};
pub use l7::{Authentication, Guard, Route, RouteName, Traffic};
pub use name::{
    Hostname, InvalidName, Network, NetworkAddress, PolicyName, ServiceName, SpiffeId, TrustDomain,
    WorkloadUid,
};
pub use policy::Policy;
pub use service::Service;
pub use telemetry::{Telemetry, TelemetryName};
pub use workload::{Workload, WorkloadKey};
