// SPDX-License-Identifier: Apache-2.0
//! Where the API server has each kind, and which of them are watched.

use kubernetes::Resource;

use crate::objects::Kind;

/// The resources of a kind, the current version first.
pub(crate) fn resources(kind: Kind) -> Vec<Resource> {
    let group = |group, plural: &'static str, versions: &[&'static str]| {
        versions.iter().map(|version| Resource::new(group, version, plural)).collect()
    };
    let networking = |plural| group("networking.istio.io", plural, &["v1", "v1beta1"]);
    let security = |plural| group("security.istio.io", plural, &["v1", "v1beta1"]);
    let gateway = |plural| group("gateway.networking.k8s.io", plural, &["v1", "v1beta1"]);
    match kind {
        Kind::Namespace => vec![Resource::core("namespaces")],
        Kind::Node => vec![Resource::core("nodes")],
        Kind::ServiceAccount => vec![Resource::core("serviceaccounts")],
        Kind::ConfigMap => vec![Resource::core("configmaps")],
        Kind::Pod => vec![Resource::core("pods")],
        Kind::Service => vec![Resource::core("services")],
        Kind::EndpointSlice => group("discovery.k8s.io", "endpointslices", &["v1"]),
        Kind::ServiceEntry => networking("serviceentries"),
        Kind::WorkloadEntry => networking("workloadentries"),
        Kind::WorkloadGroup => networking("workloadgroups"),
        Kind::Gateway => gateway("gateways"),
        Kind::GatewayClass => gateway("gatewayclasses"),
        Kind::HTTPRoute => gateway("httproutes"),
        Kind::GRPCRoute => group("gateway.networking.k8s.io", "grpcroutes", &["v1"]),
        Kind::TLSRoute => group("gateway.networking.k8s.io", "tlsroutes", &["v1", "v1alpha3", "v1alpha2"]),
        Kind::TCPRoute => group("gateway.networking.k8s.io", "tcproutes", &["v1", "v1alpha2"]),
        Kind::BackendTLSPolicy => {
            group("gateway.networking.k8s.io", "backendtlspolicies", &["v1", "v1alpha3"])
        }
        Kind::AuthorizationPolicy => security("authorizationpolicies"),
        Kind::PeerAuthentication => security("peerauthentications"),
        Kind::Telemetry => group("telemetry.istio.io", "telemetries", &["v1", "v1alpha1"]),
        Kind::RequestAuthentication => security("requestauthentications"),
    }
}

/// The kinds that are watched: all but ConfigMaps, of which those alone are read that policies name.
pub(crate) fn watched() -> impl Iterator<Item = Kind> {
    Kind::ALL.into_iter().filter(|kind| *kind != Kind::ConfigMap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_watched_under_the_versions_that_it_is_read_in() {
        for kind in Kind::ALL {
            let watched: Vec<String> = resources(kind).iter().map(Resource::api_version).collect();
            assert_eq!(watched, kind.api_versions(), "{kind}");
        }
    }
}
