// SPDX-License-Identifier: Apache-2.0
//! Messages and services on the wire, generated from `proto/`: workload discovery, authorization, routes, delta ADS, the
//! certificate service, ZDS and OTLP. It knows no meaning; `xds::codec` and `identity` do.
#![allow(
    missing_docs,
    unused_qualifications,
    single_use_lifetimes,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::disallowed_types,
    clippy::too_many_lines,
    reason = "generated code"
)]

/// `istio.workload`: the workload discovery API.
pub mod workload {
    tonic::include_proto!("istio.workload");
}

/// `istio.security`: L4 authorization.
pub mod security {
    tonic::include_proto!("istio.security");
}

/// `ambit.mesh.v1`: what control tells waypoints.
pub mod waypoint {
    tonic::include_proto!("ambit.mesh.v1");
}

/// `istio.v1.auth`: the certificate service.
pub mod ca {
    tonic::include_proto!("istio.v1.auth");
}

/// OTLP: spans to a collector.
pub mod otlp {
    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
}

/// `istio.workload.zds`: node agent to node proxy.
pub mod zds {
    tonic::include_proto!("istio.workload.zds");
}

/// Delta ADS, in the packages of xDS v3 (their nesting is what the generated paths expect).
pub mod envoy {
    pub mod config {
        pub mod core {
            pub mod v3 {
                tonic::include_proto!("envoy.config.core.v3");
            }
        }
    }
    pub mod service {
        pub mod discovery {
            pub mod v3 {
                tonic::include_proto!("envoy.service.discovery.v3");
            }
        }
    }
}

/// `google.rpc`.
pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub use envoy::{config::core::v3 as core, service::discovery::v3 as discovery};

/// Type URL of `istio.workload.Address`.
pub const ADDRESS: &str = "type.googleapis.com/istio.workload.Address";
/// Type URL of `istio.security.Authorization`.
pub const AUTHORIZATION: &str = "type.googleapis.com/istio.security.Authorization";
/// Type URL of `ambit.mesh.v1.Route`.
pub const ROUTE: &str = "type.googleapis.com/ambit.mesh.v1.Route";
/// Type URL of `ambit.mesh.v1.Telemetry`.
pub const TELEMETRY: &str = "type.googleapis.com/ambit.mesh.v1.Telemetry";
/// Type URL of `ambit.mesh.v1.Traffic`.
pub const TRAFFIC: &str = "type.googleapis.com/ambit.mesh.v1.Traffic";
/// Type URL of `ambit.mesh.v1.Guard`.
pub const GUARD: &str = "type.googleapis.com/ambit.mesh.v1.Guard";
/// Type URL of `ambit.mesh.v1.Authentication`.
pub const AUTHENTICATION: &str = "type.googleapis.com/ambit.mesh.v1.Authentication";
