// SPDX-License-Identifier: Apache-2.0
//! Why a verb of [`super::Capture`] failed.

use std::{io, path::PathBuf};

use aya::maps::MapError;

use crate::{
    Refusal, hooks::HookError, netns::NetnsError, object::ObjectError, pins::PinError,
    programs::ProgramsError,
};

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The kernel cannot do it.
    #[error("this kernel cannot capture: {}", refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unsupported {
        /// Every reason.
        refusals: Vec<Refusal>,
    },
    /// The object is not that of the capture programs.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The bpffs.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Another agent works in the same folder.
    #[error("cannot lock {}, is another agent running?", path.display())]
    Busy {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The kernel refused the programs.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The kernel refused access to a map.
    #[error("cannot use the maps of the capture programs")]
    Maps(#[source] Box<MapError>),
}

/// Why a pod could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// All slots are taken.
    #[error("this node captures {} pods already", ebpf_abi::MAX_PODS)]
    Full,
    /// There is nothing to capture: its network is not set up yet, or all of it is excluded.
    #[error("the pod has no Ethernet interface to capture")]
    NoInterface,
    /// Its namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// Its namespace could not be kept open.
    #[error("cannot keep the network namespace open")]
    Descriptor(#[source] io::Error),
    /// The kernel refused its programs.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The kernel refused its entries in the maps.
    #[error("cannot enter the pod into the maps")]
    Maps(#[source] Box<MapError>),
    /// The bpffs.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// What was attached before could not be removed.
    #[error(transparent)]
    Before(#[from] Box<DetachError>),
}

/// Why a pod's rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// It is not attached.
    #[error("pod {uid} is not captured")]
    Unknown {
        /// The pod.
        uid: String,
    },
    /// The kernel refused its entries in the maps.
    #[error("cannot change the pod's entries in the maps")]
    Maps(#[source] Box<MapError>),
}

/// Why a pod could not be released, detached or found.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// It is not attached.
    #[error("pod {uid} is not captured")]
    Unknown {
        /// The pod.
        uid: String,
    },
    /// The bpffs.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Its namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A filter stays attached.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The kernel refused to remove its entries.
    #[error("cannot remove the pod's entries from the maps")]
    Maps(#[source] Box<MapError>),
}
