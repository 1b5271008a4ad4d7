// SPDX-License-Identifier: Apache-2.0
//! What proxies are told of what is different, and in which order: what others name comes before them and goes after
//! them.

use mesh::Change;

use super::outputs::Replaced;

/// See the module.
#[derive(Default)]
pub(super) struct Changes(Vec<Change>);

impl Changes {
    /// Adds what is different among outputs of one type: what is there `now`, or that it is `gone`.
    pub(super) fn add<V>(
        &mut self,
        replaced: impl IntoIterator<Item = Replaced<V>>,
        now: impl Fn(V) -> Change,
        gone: impl Fn(V) -> Change,
    ) {
        self.0.extend(replaced.into_iter().filter_map(|replaced| match replaced {
            (_, Some(output)) => Some(now(output)),
            (Some(output), None) => Some(gone(output)),
            (None, None) => None,
        }));
    }

    /// All of them; those that may come in any order in the one they were added in.
    pub(super) fn in_order(mut self) -> Vec<Change> {
        self.0.sort_by_key(turn);
        self.0
    }
}

/// Whose turn it is when.
fn turn(change: &Change) -> u8 {
    match change {
        Change::Policy(_) | Change::Guard(_) | Change::Authentication(_) => 0,
        Change::Service(_) => 1,
        Change::Workload(_) => 2,
        Change::Traffic(_) => 3,
        Change::Route(_) => 4,
        // Nothing else depends on them, nor they on anything.
        Change::Telemetry(_) | Change::TelemetryGone(_) => 5,
        Change::RouteGone(_) => 6,
        Change::TrafficGone(_) => 7,
        Change::ServiceGone(_) | Change::WorkloadGone(_) => 8,
        Change::PolicyGone(_) | Change::GuardGone(_) | Change::AuthenticationGone(_) => 9,
    }
}
