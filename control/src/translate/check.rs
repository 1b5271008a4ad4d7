// SPDX-License-Identifier: Apache-2.0
//! What is wrong with an object by itself, whatever else there is: the API server and Istio's webhook would refuse it.
//! Standalone mode has neither, so manifests are held to this.

use arcstr::ArcStr;

use super::{entry, guard, policy, service, telemetry, tls, workload_entry};
use crate::{
    objects::{Metadata, Object},
    report::{Report, Reports, Severity},
};

/// The errors of an object.
pub(crate) fn check(object: &Object) -> Vec<Report> {
    let mut reports = Reports::of(object.key());
    check_names(object, &mut reports);
    match object {
        Object::Service(object) => service::check(object, &mut reports),
        Object::AuthorizationPolicy(object) if object.spec.is_for_waypoints() => {
            guard::convert(object, &mut reports);
        }
        Object::AuthorizationPolicy(object) => {
            policy::convert(object, &mut reports);
        }
        Object::RequestAuthentication(object) => drop(guard::convert_tokens(object, &mut reports)),
        Object::ServiceEntry(object) => entry::check(object, &mut reports),
        Object::WorkloadEntry(object) => workload_entry::check(object, &mut reports),
        Object::Telemetry(object) => telemetry::check(object, &mut reports),
        Object::BackendTLSPolicy(object) => tls::check(object, &mut reports),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::ServiceAccount(_)
        | Object::ConfigMap(_)
        | Object::Pod(_)
        | Object::EndpointSlice(_)
        | Object::WorkloadGroup(_)
        | Object::Gateway(_)
        | Object::GatewayClass(_)
        | Object::HTTPRoute(_)
        | Object::GRPCRoute(_)
        | Object::TLSRoute(_)
        | Object::TCPRoute(_)
        | Object::PeerAuthentication(_) => {}
    }
    let mut reports = reports.done();
    reports.retain(|report| report.severity == Severity::Error);
    reports
}

fn check_names(object: &Object, reports: &mut Reports) {
    let Metadata { name, namespace, .. } = object.metadata();
    let named = match object {
        Object::Namespace(_) | Object::Service(_) => is_label(name),
        Object::Node(_)
        | Object::ServiceAccount(_)
        | Object::ConfigMap(_)
        | Object::BackendTLSPolicy(_)
        | Object::Pod(_)
        | Object::EndpointSlice(_)
        | Object::ServiceEntry(_)
        | Object::WorkloadEntry(_)
        | Object::WorkloadGroup(_)
        | Object::Gateway(_)
        | Object::GatewayClass(_)
        | Object::HTTPRoute(_)
        | Object::GRPCRoute(_)
        | Object::TLSRoute(_)
        | Object::TCPRoute(_)
        | Object::AuthorizationPolicy(_)
        | Object::PeerAuthentication(_)
        | Object::RequestAuthentication(_)
        | Object::Telemetry(_) => is_subdomain(name),
    };
    if !named {
        reports.error(
            "metadata.name",
            format!("{name:?} is not a name: lower-case letters, digits and '-' (RFC 1123)"),
        );
    }
    match (object.kind().is_namespaced(), namespace.is_empty()) {
        (true, _) if !is_label(namespace) => {
            reports.error(
                "metadata.namespace",
                format!("{namespace:?} is not the name of a namespace (RFC 1123)"),
            );
        }
        (false, false) => {
            reports.error("metadata.namespace", format!("a {} has no namespace", object.kind()))
        }
        (true | false, _) => {}
    }
}

/// RFC 1123 label.
fn is_label(name: &str) -> bool {
    let bytes = name.as_bytes();
    let inner = bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    inner
        && bytes.len() <= 63
        && bytes.first().is_some_and(|byte| *byte != b'-')
        && bytes.last() != Some(&b'-')
}

/// RFC 1123 subdomain.
fn is_subdomain(name: &ArcStr) -> bool {
    name.len() <= 253 && name.split('.').all(is_label)
}
