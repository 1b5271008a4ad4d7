// SPDX-License-Identifier: Apache-2.0
//! The program that notes kubelet's connections, on kubelet's control group: attached, pinned, taken off.

use std::{fs, io::ErrorKind, os::fd::BorrowedFd, path::Path};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, links::FdLink},
};

use crate::{hooks::HookError, pins::PinError, programs::ProgramsError};

const PROGRAM: &str = "note_probe";
const PLACE: &str = "the control group";

/// Attaches the program and pins its link. One that was there goes when the new one is in force.
pub(crate) fn attach(ebpf: &mut Ebpf, group: BorrowedFd<'_>, pin: &Path) -> Result<(), HookError> {
    let program: &mut CgroupSkb = ebpf
        .program_mut(PROGRAM)
        .and_then(|program| program.try_into().ok())
        .ok_or(ProgramsError::Lacking { program: PROGRAM })?;
    program.load().map_err(|source| ProgramsError::Refused { program: PROGRAM, source: Box::new(source) })?;
    let failed =
        |source| HookError::Attach { program: PROGRAM, place: PLACE.to_owned(), source: Box::new(source) };
    // A link always lets others have programs there too, and takes no flag that says so.
    let mode = CgroupAttachMode::Single;
    let id = program.attach(group, CgroupSkbAttachType::Egress, mode).map_err(failed)?;
    let link = program.take_link(id).map_err(failed)?;
    let link = FdLink::try_from(link).map_err(|source| HookError::Link { program: PROGRAM, source })?;
    detach(pin)?;
    let pinned =
        link.pin(pin).map_err(|source| HookError::Pin { program: PROGRAM, source: Box::new(source) })?;
    // The pin holds it from here on.
    drop(pinned);
    Ok(())
}

/// Removes the pinned link, which detaches the program. Nothing happens when there is none.
pub(crate) fn detach(pin: &Path) -> Result<(), PinError> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(PinError { verb: "remove", path: pin.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}
