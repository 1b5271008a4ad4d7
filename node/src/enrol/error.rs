// SPDX-License-Identifier: Apache-2.0
//! Why a pod was not enrolled or not released, as a caller needs to know it: whose fault, and what is captured.

use runtime::TaskError;

use super::{ladder::Action, steps::Shared};
use crate::{netns::OpenError, pod::Uid};

/// Why a pod was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Its namespace is none that can be captured. Nothing was changed.
    #[error("the pod's network namespace cannot be used")]
    Netns(#[source] OpenError),
    /// Two pods in one namespace cannot be told apart. Nothing was changed.
    #[error("the network namespace belongs to the pod {other} already")]
    Shared {
        /// The pod that has it.
        other: Uid,
    },
    /// It is captured, but has no traffic yet; the agent goes on trying.
    #[error("the pod is captured, but not served yet")]
    Pending(#[source] Shared),
    /// A step failed; everything before it was taken back.
    #[error("cannot {}; undone: {}", failed.words(), list(undone))]
    Undone {
        /// Which step.
        failed: Action,
        /// What was taken back.
        undone: Vec<Action>,
        /// Why.
        #[source]
        source: Shared,
    },
    /// A step failed and the pod stays as it is.
    #[error("cannot {}; the pod stays as it is", failed.words())]
    Stuck {
        /// Which step.
        failed: Action,
        /// Why.
        #[source]
        source: Shared,
    },
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped(#[source] TaskError),
}

/// Why a pod was not released.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such pod.
    #[error("the pod is not enrolled on this node")]
    Unknown,
    /// A step failed; removing it again goes on from there.
    #[error("cannot {}; remove the pod again to go on from there", failed.words())]
    Stuck {
        /// Which step.
        failed: Action,
        /// Why.
        #[source]
        source: Shared,
    },
    /// Whether it is still there cannot be said.
    #[error("the pod's network namespace cannot be opened")]
    Netns(#[source] OpenError),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopped(#[source] TaskError),
}

fn list(actions: &[Action]) -> String {
    actions.iter().map(|action| action.words()).collect::<Vec<_>>().join(", ")
}
