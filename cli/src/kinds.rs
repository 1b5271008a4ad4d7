// SPDX-License-Identifier: Apache-2.0
//! The kinds of other APIs that the mesh is told by.

use kubernetes::Resource;

/// Istio's. The base chart defines them.
pub(crate) const ISTIO: [Resource; 7] = [
    Resource::new("security.istio.io", "v1", "authorizationpolicies"),
    Resource::new("security.istio.io", "v1", "peerauthentications"),
    Resource::new("security.istio.io", "v1", "requestauthentications"),
    Resource::new("telemetry.istio.io", "v1", "telemetries"),
    Resource::new("networking.istio.io", "v1", "serviceentries"),
    Resource::new("networking.istio.io", "v1", "workloadentries"),
    Resource::new("networking.istio.io", "v1", "workloadgroups"),
];
/// Gateways of the Gateway API, under which waypoints are asked for.
pub(crate) const GATEWAYS: Resource = Resource::new("gateway.networking.k8s.io", "v1", "gateways");
/// The other kinds of the Gateway API that have one version alone wherever they are.
pub(crate) const GATEWAY_API: [Resource; 3] = [
    Resource::new("gateway.networking.k8s.io", "v1", "gatewayclasses"),
    Resource::new("gateway.networking.k8s.io", "v1", "httproutes"),
    Resource::new("gateway.networking.k8s.io", "v1", "grpcroutes"),
];

/// Name of the definition of a kind.
pub(crate) fn definition(kind: &Resource) -> String {
    format!("{}.{}", kind.plural, kind.group)
}
