// SPDX-License-Identifier: Apache-2.0
//! From objects to what proxies are told: pure functions, one file per output.
//!
//! ```text
//!   Pod ──────────────► workload ◄── Node (locality), Service (membership), policies by label
//!   Service ──────────► service  ◄── Namespace (traffic distribution)
//!   AuthorizationPolicy ► policy
//!   PeerAuthentication ─► peer     (synthesized policies; a proxy never sees the object)
//! ```
//! Nothing is ignored in silence: what cannot be honoured comes back as a report beside the output.

pub(crate) mod check;
pub(crate) mod peer;
pub(crate) mod policy;
pub(crate) mod service;
pub(crate) mod workload;

use crate::{
    objects::{Kind, Metadata, Namespace},
    report::{Report, Reports},
};

/// What became of an object.
#[derive(Clone, Debug)]
pub(crate) struct Translation<T> {
    /// What proxies are told; `None`: nothing.
    pub(crate) output: Option<T>,
    /// What the owner of the object is told.
    pub(crate) reports: Vec<Report>,
}

/// What there is to say about a namespace; proxies are not told of it.
pub(crate) fn namespace(object: &Namespace) -> Translation<()> {
    let mut reports = Reports::of(object.metadata.key(Kind::Namespace));
    waypoint_warning(&object.metadata, &mut reports);
    Translation { output: None, reports: reports.done() }
}

/// The label that binds traffic to a waypoint.
const USE_WAYPOINT: &str = "istio.io/use-waypoint";

/// Says that a waypoint is asked for but not served.
fn waypoint_warning(metadata: &Metadata, reports: &mut Reports) {
    if metadata.label(USE_WAYPOINT).is_some_and(|value| value != "none") {
        reports.warning(
            format!("metadata.labels[{USE_WAYPOINT:?}]"),
            "waypoints are not served: traffic goes straight to the workloads; remove the label or set it to none",
        );
    }
}
