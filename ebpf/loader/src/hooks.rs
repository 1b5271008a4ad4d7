// SPDX-License-Identifier: Apache-2.0
//! A pod's programs on its interfaces and its namespace: attached, pinned, taken off. Runs inside the namespace.

use std::{io, os::fd::BorrowedFd, path::Path};

use aya::{
    Ebpf,
    pin::PinError as AyaPinError,
    programs::{
        Link as _, LinkOrder, ProgramError, SkLookup, TcAttachType,
        links::{FdLink, LinkError},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
    },
};
use nix::libc::{EEXIST, EINVAL, ENOENT};

use crate::{
    netns::Interface,
    pins::{PinError, PodPins},
    programs::{ProgramsError, load},
};

/// Name of the link and of the program that chooses sockets.
pub(crate) const STEER: &str = "steer";
/// Name of the program that captures what leaves.
const EGRESS: &str = "enter_egress";
/// The loopback device.
const LOOPBACK: &str = "lo";
/// Place of our filters in a clsact qdisc: before all others.
const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 0x539);

/// How programs get onto an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// By tcx links.
    Links,
    /// By filters of a clsact qdisc.
    Filters,
    /// By filters at first, which is quick, and by links soon after, which nothing in the pod can take off.
    FiltersThenLinks,
}

/// One program on one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) program: &'static str,
    pub(crate) interface: String,
    pub(crate) way: TcAttachType,
    /// Name of the pinned link.
    pub(crate) link: String,
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It could not be loaded.
    #[error(transparent)]
    Programs(#[from] ProgramsError),
    /// The bpffs.
    #[error(transparent)]
    Unpinned(#[from] PinError),
    /// The kernel refused to attach it.
    #[error("cannot attach {program} to {place}")]
    Attach {
        /// Which program.
        program: &'static str,
        /// The interface, or the namespace.
        place: String,
        /// What the kernel said.
        #[source]
        source: Box<ProgramError>,
    },
    /// Its link is of an unknown kind.
    #[error("the link of {program} cannot be pinned")]
    Link {
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        source: LinkError,
    },
    /// Its link could not be pinned.
    #[error("cannot pin the link of {program}")]
    Pin {
        /// Which program.
        program: &'static str,
        /// What the kernel said.
        #[source]
        source: Box<AyaPinError>,
    },
}

impl Point {
    /// Whether what leaves the pod is captured here.
    pub(crate) fn captures(&self) -> bool {
        self.program == EGRESS
    }
}

/// Every point of a pod.
pub(crate) fn points(interfaces: &[Interface]) -> Vec<Point> {
    let point =
        |program, interface: &str, way, link| Point { program, interface: interface.to_owned(), way, link };
    let mut points = vec![point("enter_loopback", LOOPBACK, TcAttachType::Egress, "loopback".to_owned())];
    for (program, way, prefix) in
        [("enter_ingress", TcAttachType::Ingress, "ingress"), (EGRESS, TcAttachType::Egress, "egress")]
    {
        let each = |interface: &Interface| {
            // By index: a name may be another interface's tomorrow.
            point(program, &interface.name, way, format!("{prefix}-{}", interface.index))
        };
        points.extend(interfaces.iter().map(each));
    }
    points
}

/// Attaches and pins the program that chooses sockets.
pub(crate) fn attach_steer(ebpf: &mut Ebpf, netns: BorrowedFd<'_>, pins: &PodPins) -> Result<(), HookError> {
    let program: &mut SkLookup = ebpf
        .program_mut(STEER)
        .and_then(|program| program.try_into().ok())
        .ok_or(ProgramsError::Lacking { program: STEER })?;
    let refused = |source| ProgramsError::Refused { program: STEER, source: Box::new(source) };
    program.load().map_err(refused)?;
    let failed = |source| attach_error(STEER, "the network namespace", source);
    let link = program.attach(netns).and_then(|id| program.take_link(id)).map_err(failed)?;
    pin(FdLink::from(link), STEER, &pins.link(STEER))
}

/// Attaches a program by a tcx link and pins it. The kernel waits for a grace period of RCU, with its lock for all
/// interfaces held: milliseconds, more when the machine is busy.
pub(crate) fn link(ebpf: &mut Ebpf, point: &Point, pins: &PodPins) -> Result<(), HookError> {
    let program = load(ebpf, point.program)?;
    let failed = |source| attach_error(point.program, &point.interface, source);
    // First, so that no other program can take a packet away before.
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&point.interface, point.way, order).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| HookError::Link { program: point.program, source })?;
    pin(link, point.program, &pins.link(&point.link))
}

/// Attaches a program as a filter of a clsact qdisc, or exchanges the one that is there.
pub(crate) fn filter(ebpf: &mut Ebpf, point: &Point) -> Result<(), HookError> {
    let program = load(ebpf, point.program)?;
    let failed = |source| attach_error(point.program, &point.interface, source);
    match qdisc_add_clsact(&point.interface) {
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(EEXIST) => {}
        other => other.map_err(|source| failed(source.into()))?,
    }
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let id = match program.attach_with_options(&point.interface, point.way, TcAttachOptions::Netlink(options))
    {
        Err(ProgramError::TcError(TcError::NetlinkError(error))) if error.raw_os_error() == Some(EEXIST) => {
            // Ours, of an earlier agent: exchanged in place.
            let link = attached(point).map_err(|source| failed(TcError::IoError(source).into()))?;
            program.attach_to_link(link)
        }
        other => other,
    };
    let link = id.and_then(|id| program.take_link(id)).map_err(failed)?;
    // The filter is to outlive this process; dropping the link would remove it.
    std::mem::forget(link);
    Ok(())
}

/// Takes our filters off a clsact qdisc. The qdisc stays: somebody else may use it.
pub(crate) fn unfilter(points: &[Point]) -> Result<(), HookError> {
    for point in points {
        let Ok(link) = attached(point) else { continue };
        match link.detach() {
            Ok(()) => {}
            // No such filter, or no qdisc that could have one.
            Err(ProgramError::NetlinkError(error))
                if matches!(error.raw_os_error(), Some(ENOENT | EINVAL)) => {}
            Err(source) => return Err(attach_error(point.program, &point.interface, source)),
        }
    }
    Ok(())
}

/// Our filter on an interface, whoever attached it.
fn attached(point: &Point) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(&point.interface, point.way, PRIORITY, HANDLE, None)
}

fn pin(link: FdLink, program: &'static str, path: &Path) -> Result<(), HookError> {
    let pinned = link.pin(path).map_err(|source| HookError::Pin { program, source: Box::new(source) })?;
    // The pin holds it from here on.
    drop(pinned);
    Ok(())
}

fn attach_error(program: &'static str, place: &str, source: ProgramError) -> HookError {
    HookError::Attach { program, place: place.to_owned(), source: Box::new(source) }
}
