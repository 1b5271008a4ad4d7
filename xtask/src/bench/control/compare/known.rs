// SPDX-License-Identifier: Apache-2.0
//! Differences between istiod's resources and ours that are meant, each with its reason; docs/interop.md has the same list.

use super::Difference;

/// A difference that is meant.
struct Known {
    sort: &'static str,
    field: &'static str,
    /// Whether a difference is this one: name, ours, theirs.
    is: fn(&str, &str, &str) -> bool,
    reason: &'static str,
}

const KNOWN: &[Known] = &[
    Known {
        sort: "Workload",
        field: "workload_type",
        // A pod of a Deployment; a pod.
        is: |_, ours, theirs| ours == "0" && theirs == "2",
        reason: "istiod calls every workload a pod, ours says what owns it",
    },
    Known {
        sort: "Workload",
        field: "authorization_policies",
        is: |name, _, _| is_inline_endpoint(name),
        reason: "istiod goes by the labels of the ServiceEntry, and without any takes every policy with a selector; \
                 ours by those of the endpoint",
    },
    Known {
        sort: "Workload",
        field: "canonical_name",
        is: |name, _, _| is_inline_endpoint(name),
        reason: "istiod goes by the labels of the ServiceEntry, ours by those of the endpoint",
    },
];

fn is_inline_endpoint(name: &str) -> bool {
    name.contains("/networking.istio.io/ServiceEntry/")
}

/// Why a difference is meant; nothing when nobody has said so.
pub(super) fn reason(difference: &Difference) -> Option<&'static str> {
    let Difference { sort, field, name, ours, theirs } = difference;
    let is = |known: &&Known| known.sort == *sort && known.field == *field && (known.is)(name, ours, theirs);
    KNOWN.iter().find(is).map(|known| known.reason)
}
