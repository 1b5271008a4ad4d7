// SPDX-License-Identifier: Apache-2.0
//! Every number that the control plane exports. Where istiod has one of the same meaning, the name is istiod's.

use std::time::SystemTime;

use metrics::{counter, gauge};

/// `citadel_server_success_cert_issuance_count`: certificates issued.
pub(crate) fn certificate_issued() {
    counter!("citadel_server_success_cert_issuance_count").increment(1);
}

/// `citadel_server_csr_count`: certificates asked for, whatever the answer.
pub(crate) fn certificate_asked() {
    counter!("citadel_server_csr_count").increment(1);
}

/// `ambit_certificates_refused_total{reason}`: certificates not issued; the reasons are those of `ca::Denied`, `request` and `stale`.
pub(crate) fn certificate_refused(reason: &'static str) {
    counter!("ambit_certificates_refused_total", "reason" => reason).increment(1);
}

/// `citadel_server_authentication_failure_count`: calls without a token that is known.
pub(crate) fn authentication_failed() {
    counter!("citadel_server_authentication_failure_count").increment(1);
}

/// `citadel_server_root_cert_expiry_timestamp`, in seconds since 1970.
pub(crate) fn root_expires(at: SystemTime) {
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    gauge!("citadel_server_root_cert_expiry_timestamp").set(seconds.as_secs_f64());
}

/// `pilot_total_xds_rejects`: responses that a proxy refused.
pub(crate) fn rejected() {
    counter!("pilot_total_xds_rejects").increment(1);
}

/// `pilot_xds`: connected proxies.
pub(crate) fn proxies(count: usize) {
    gauge!("pilot_xds").set(number(count));
}

/// `ambit_objects{kind}`: objects in force.
pub(crate) fn objects(kind: &'static str, count: usize) {
    gauge!("ambit_objects", "kind" => kind).set(number(count));
}

/// `ambit_resources{type}`: resources that proxies are told of.
pub(crate) fn resources(kind: &'static str, count: usize) {
    gauge!("ambit_resources", "type" => kind).set(number(count));
}

/// `ambit_manifest_files{state}`: files of the folder; a broken one's last good content is in force.
pub(crate) fn manifest_files(state: &'static str, count: usize) {
    gauge!("ambit_manifest_files", "state" => state).set(number(count));
}

/// `ambit_manifest_errors`: errors in the files of the folder now.
pub(crate) fn manifest_errors(count: usize) {
    gauge!("ambit_manifest_errors").set(number(count));
}

/// `ambit_manifest_changes_total{result}`: contents of files that came into force (`accepted`) or did not (`broken`).
pub(crate) fn manifest_changes(result: &'static str, count: usize) {
    counter!("ambit_manifest_changes_total", "result" => result)
        .increment(u64::try_from(count).unwrap_or(u64::MAX));
}

/// `ambit_stale_kinds`: kinds of which this replica knows only how they were, because the API server is out of reach.
pub(crate) fn stale_kinds(count: usize) {
    gauge!("ambit_stale_kinds").set(number(count));
}

/// `ambit_leader`: 1 on the replica that writes what only one may write.
pub(crate) fn leader(leads: bool) {
    gauge!("ambit_leader").set(if leads { 1.0 } else { 0.0 });
}

fn number(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from)
}

/// `ambit_rights_lacking`: rights that control's roles lack; `/status` names them.
pub(crate) fn rights_lacking(count: usize) {
    gauge!("ambit_rights_lacking").set(number(count));
}
