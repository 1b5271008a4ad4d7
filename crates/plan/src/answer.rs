// SPDX-License-Identifier: Apache-2.0
//! Answers of pure decisions: ready, or what is missing for one.

use mesh::{Hostname, PolicyName, WorkloadKey};

use crate::{
    authority::Authority,
    failure::{Failure, What},
};

/// A decision, or what it lacks. The shell waits for it (at most 5 s and 4 rounds per flow) and asks again; when the
/// wait is over, [`Missing::failure`] says how it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// Decided.
    Ready(T),
    /// Cannot be decided without this.
    Needs(Missing),
}

/// What a decision lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// The first push of addresses and of policies: wait for both.
    Sync,
    /// The workload that the decision is for: wait for a change of workloads.
    Workload(WorkloadKey),
    /// A policy that the workload names: wait for a change of policies.
    Policy(PolicyName),
    /// Addresses of a host name: resolve it and put the result into `Flow::resolved`.
    Host(Hostname),
    /// A service or workload that this waypoint serves: whoever sends to a waypoint may know of it a moment earlier.
    Served(Authority),
}

impl Missing {
    /// What became of the flow when it did not come in time.
    pub fn failure(&self) -> What {
        match self {
            Self::Sync => What::NotSynced,
            Self::Workload(key) => What::UnknownWorkload(key.clone()),
            Self::Policy(name) => What::PolicyMissing(name.clone()),
            Self::Host(hostname) => What::Unresolved(hostname.clone()),
            Self::Served(authority) => What::NotServed(authority.to_string()),
        }
    }
}

/// Why a decision ends early; lets the steps of one be written with `?`.
pub(crate) enum Stop {
    /// It lacks something.
    Needs(Missing),
    /// The flow fails.
    Fails(What),
}

impl From<What> for Stop {
    fn from(what: What) -> Self {
        Self::Fails(what)
    }
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Self {
        Self::Needs(missing)
    }
}

impl<T> From<Result<T, Stop>> for Answer<Result<T, Failure>> {
    fn from(result: Result<T, Stop>) -> Self {
        match result {
            Ok(decision) => Self::Ready(Ok(decision)),
            Err(Stop::Fails(what)) => Self::Ready(Err(what.into())),
            Err(Stop::Needs(missing)) => Self::Needs(missing),
        }
    }
}
