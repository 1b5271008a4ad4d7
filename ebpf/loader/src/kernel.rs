// SPDX-License-Identifier: Apache-2.0
//! Two questions to the kernel that aya does not ask: which programs a control group has, and what a program is made of.
#![expect(unsafe_code, reason = "no safe crate wraps these two commands of bpf(2)")]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use nix::libc;

/// Commands of bpf(2).
const PROG_QUERY: libc::c_int = 16;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
/// More programs than anybody attaches to one group at one hook.
const MOST: usize = 64;
/// Longest program that is read; the verifier takes a million instructions, real ones have thousands.
const LONGEST: u32 = 8 << 20;

/// The part of `union bpf_attr` of a query, and room for what later kernels write behind it.
#[repr(C)]
struct Query {
    group: u32,
    hook: u32,
    flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    rest: [u32; 41],
}

/// The part of `union bpf_attr` that asks about a descriptor.
#[repr(C)]
struct InfoQuery {
    program: u32,
    length: u32,
    info: u64,
    rest: [u64; 22],
}

/// The beginning of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramHead {
    kind: u32,
    id: u32,
    tag: u64,
    machine_length: u32,
    length: u32,
    machine_code: u64,
    code: u64,
}

/// Numbers of the programs that are attached to a control group itself, at the hook with this number.
pub(crate) fn attached(group: BorrowedFd<'_>, hook: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0_u32; MOST];
    let mut query = Query {
        group: group.as_raw_fd().cast_unsigned(),
        hook,
        flags: 0,
        attach_flags: 0,
        ids: address(&raw mut ids),
        count: u32::try_from(MOST).unwrap_or_default(),
        rest: [0; 41],
    };
    // SAFETY: the kernel writes only within `query`, whose size it is told, and at most `count` numbers to `ids`, which
    // has as many; both live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(query.count).unwrap_or(MOST);
    Ok(ids.into_iter().take(count).collect())
}

/// The instructions of a program, as the verifier left them, of which there are `size` bytes.
pub(crate) fn instructions(program: BorrowedFd<'_>, size: u32) -> io::Result<Vec<[u8; 8]>> {
    let size = size.min(LONGEST);
    let mut code = vec![[0_u8; 8]; usize::try_from(size / 8).unwrap_or_default()];
    let mut head =
        ProgramHead { length: size / 8 * 8, code: address(code.as_mut_ptr()), ..ProgramHead::default() };
    let mut query = InfoQuery {
        program: program.as_raw_fd().cast_unsigned(),
        length: u32::try_from(size_of::<ProgramHead>()).unwrap_or_default(),
        info: address(&raw mut head),
        rest: [0; 22],
    };
    // SAFETY: the kernel writes within `query` and `head`, whose sizes it is told, and at most `head.length` bytes to
    // `code`, which has as many; all live until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET_INFO_BY_FD, &raw mut query, size_of::<InfoQuery>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Without the right to see them the kernel says that there are none.
    let known = if head.code == 0 { 0 } else { usize::try_from(head.length / 8).unwrap_or_default() };
    code.truncate(known);
    Ok(code)
}

fn address<T>(pointer: *mut T) -> u64 {
    pointer.addr() as u64
}
