// SPDX-License-Identifier: Apache-2.0
//! What is wrong with a service entry, and what of it is not honoured.

use std::net::IpAddr;

use mesh::{Hostname, SpiffeId};

use super::{block, is_udp};
use crate::{
    objects::{Resolution, ServiceEntry, WorkloadEntrySpec},
    report::Reports,
};

/// Errors of the object by itself.
pub(crate) fn check(object: &ServiceEntry, reports: &mut Reports) {
    let spec = &object.spec;
    if spec.hosts.is_empty() {
        reports.error("spec.hosts", "is empty: name at least one host");
    }
    for (at, host) in spec.hosts.iter().enumerate() {
        if let Err(error) = Hostname::parse(host) {
            reports.error(format!("spec.hosts[{at}]"), error.to_string());
        }
    }
    for (at, text) in spec.addresses.iter().enumerate().filter(|(_, text)| block(text).is_none()) {
        let field = format!("spec.addresses[{at}]");
        reports
            .error(field, format!("{text:?} is neither an address nor a block like 10.0.0.0/8 or fd00::/64"));
    }
    for (at, port) in spec.ports.iter().enumerate() {
        if port.number == 0 {
            reports.error(format!("spec.ports[{at}].number"), "must be from 1 to 65535");
        }
        if spec.ports.iter().take(at).any(|other| other.number == port.number) {
            reports.error(format!("spec.ports[{at}].number"), format!("{} is listed twice", port.number));
        }
    }
    for (at, text) in spec.subject_alt_names.iter().enumerate() {
        if text.starts_with("spiffe://") && text.parse::<SpiffeId>().is_err() {
            let form = "spiffe://<trust domain>/ns/<namespace>/sa/<service account>";
            reports.error(format!("spec.subjectAltNames[{at}]"), format!("{text:?} must be {form}"));
        }
    }
    check_endpoints(object, reports);
}

fn check_endpoints(object: &ServiceEntry, reports: &mut Reports) {
    let spec = &object.spec;
    if !spec.endpoints.is_empty() && spec.workload_selector.is_some() {
        reports.error("spec.workloadSelector", "cannot stand beside endpoints: remove one of them");
    }
    if spec.resolution == Resolution::None && !spec.endpoints.is_empty() {
        reports.error(
            "spec.endpoints",
            "have no use with resolution NONE: set resolution to STATIC or DNS, or remove them",
        );
    }
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        let field = format!("spec.endpoints[{at}].address");
        let address = endpoint.address.as_str();
        if address.is_empty() || address.starts_with("unix://") {
            continue;
        }
        if spec.resolution.is_dns() {
            if let Err(error) = Hostname::parse(address).map(drop)
                && address.parse::<IpAddr>().is_err()
            {
                reports.error(field, error.to_string());
            }
        } else if spec.resolution == Resolution::Static && address.parse::<IpAddr>().is_err() {
            reports
                .error(field, format!("{address:?} is not an address: write one, or set resolution to DNS"));
        }
    }
}

/// Says what of it the mesh does not do.
pub(super) fn notes(object: &ServiceEntry, reports: &mut Reports) {
    let spec = &object.spec;
    for (at, host) in spec.hosts.iter().enumerate().filter(|(_, host)| host.contains('*')) {
        let field = format!("spec.hosts[{at}]");
        reports.warning(
            field,
            format!("{host} is a pattern: only a waypoint could tell its hosts apart, so it is not honoured"),
        );
    }
    if spec.export_to.iter().any(|namespace| namespace != "*") {
        reports.warning("spec.exportTo", "is not honoured: every namespace sees the hosts");
    }
    if spec.resolution == Resolution::None && spec.addresses.is_empty() {
        reports.warning(
            "spec.addresses",
            "with resolution NONE a connection is known by its address only: list the addresses of the hosts",
        );
    }
    if spec.resolution == Resolution::DynamicDns {
        reports
            .warning("spec.resolution", "DYNAMIC_DNS is a waypoint's work: there are no endpoints; use DNS");
    }
    if spec.resolution == Resolution::Static && spec.endpoints.is_empty() && spec.workload_selector.is_none()
    {
        reports.warning("spec.endpoints", "there are none: add some, or a workloadSelector");
    }
    for (at, text) in spec.subject_alt_names.iter().enumerate() {
        if !text.starts_with("spiffe://") {
            reports.warning(
                format!("spec.subjectAltNames[{at}]"),
                format!("{text:?} is no SPIFFE id: the mesh knows no other identities"),
            );
        }
    }
    for (at, port) in spec.ports.iter().enumerate() {
        if is_udp(port) {
            let field = format!("spec.ports[{at}].protocol");
            reports.warning(field, format!("port {} is not TCP and stays outside the mesh", port.number));
        }
    }
    for (at, endpoint) in spec.endpoints.iter().enumerate() {
        endpoint_notes(&format!("spec.endpoints[{at}]"), endpoint, reports);
    }
}

/// Says what of an endpoint or workload entry the mesh does not do.
pub(crate) fn endpoint_notes(field: &str, endpoint: &WorkloadEntrySpec, reports: &mut Reports) {
    if endpoint.address.is_empty() {
        reports.warning(
            format!("{field}.address"),
            "is missing: an endpoint behind a gateway of another network is not honoured",
        );
    } else if endpoint.address.starts_with("unix://") {
        reports.warning(format!("{field}.address"), "is a unix socket, which no other machine can reach");
    }
}
