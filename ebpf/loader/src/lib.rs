// SPDX-License-Identifier: Apache-2.0
//! Loads, attaches and pins the capture programs. Everything it makes outlives it: an agent that dies changes nothing,
//! one that starts again finds what is there. It refuses to know pods beyond their network namespace, and sets no
//! routes, rules or kernel settings: those are the agent's, listed in [`abi::route`].

mod capture;
mod hooks;
mod kernel;
mod kubelet;
mod netns;
mod object;
mod pins;
mod pod;
mod programs;
mod sockets;
mod support;
mod tables;

pub use ebpf_abi as abi;

pub use self::{
    capture::{AttachError, Capture, DetachError, LoadError, Mode, Settings, UpdateError},
    hooks::HookError,
    netns::NetnsError,
    object::ObjectError,
    pins::PinError,
    pod::{Adopted, Attached, Counters, Exclusions, PodNetns, Rules, Standing},
    programs::ProgramsError,
    sockets::{Effect, SocketProgram, at_sockets},
    support::{Refusal, has_tcx, supported},
};
