// SPDX-License-Identifier: Apache-2.0
//! Programs of others that sit where a socket of a pod connects: what a socket-level load balancer does there happens
//! before there is a packet, so before capture. Whether one writes the destination is read from its instructions, as the
//! verifier left them.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use aya::programs::{ProgramInfo, loaded_programs};

use crate::kernel;

/// Hooks where a destination can be exchanged: their number in the kernel, and their name.
const HOOKS: [(u32, &str); 4] = [(10, "connect4"), (11, "connect6"), (14, "sendmsg4"), (15, "sendmsg6")];
/// Whose programs are known by their names, of which the kernel keeps 15 characters.
const OWNERS: [(&str, &str); 8] = [
    ("cil_sock4_conne", "Cilium"),
    ("cil_sock6_conne", "Cilium"),
    ("cil_sock4_sendm", "Cilium"),
    ("cil_sock6_sendm", "Cilium"),
    ("sock4_connect", "Cilium"),
    ("sock6_connect", "Cilium"),
    ("calico_connect_", "Calico"),
    ("calico_sendmsg_", "Calico"),
];

/// A program of somebody that sees the destination before the kernel does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketProgram {
    /// Its number, as `bpftool prog show id` takes it.
    pub id: u32,
    /// Its name, as far as the kernel keeps it.
    pub name: String,
    /// Where it is attached: `connect4`, `connect6`, `sendmsg4`, `sendmsg6`.
    pub hook: &'static str,
    /// Whose it is, where the name tells.
    pub owner: Option<&'static str>,
    /// What it does to a destination.
    pub effect: Effect,
}

/// What a program can do to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It has instructions that write the address or the port.
    Writes,
    /// It has none.
    Keeps,
    /// It goes on in programs that are not seen, or its instructions cannot be read.
    Unknown,
}

/// The programs that are attached to a control group itself, at every hook where a destination can be exchanged.
///
/// # Errors
/// When it is no control group of version 2, or the kernel does not say (CAP_NET_ADMIN is missing).
pub fn at_sockets(group: BorrowedFd<'_>) -> io::Result<Vec<SocketProgram>> {
    let mut found = Vec::new();
    for (number, hook) in HOOKS {
        let ids = kernel::attached(group, number)?;
        let infos = if ids.is_empty() { Vec::new() } else { loaded_programs().flatten().collect() };
        found.extend(ids.into_iter().map(|id| program(id, hook, &infos)));
    }
    Ok(found)
}

fn program(id: u32, hook: &'static str, infos: &[ProgramInfo]) -> SocketProgram {
    let info = infos.iter().find(|info| info.id() == id);
    let name = info.and_then(ProgramInfo::name_as_str).unwrap_or_default().to_owned();
    let owner = owner(&name);
    SocketProgram { id, owner, hook, effect: info.map_or(Effect::Unknown, effect_of), name }
}

fn owner(name: &str) -> Option<&'static str> {
    OWNERS.iter().find(|(prefix, _owner)| name.starts_with(prefix)).map(|&(_prefix, owner)| owner)
}

fn effect_of(info: &ProgramInfo) -> Effect {
    let size = info.size_translated().unwrap_or_default();
    let code = info.fd().ok().and_then(|fd| kernel::instructions(fd.as_fd(), size).ok());
    code.filter(|code| !code.is_empty()).map_or(Effect::Unknown, |code| effect(&code))
}

/// `BPF_STX | BPF_MEM | BPF_DW` and `BPF_LDX | BPF_MEM | BPF_DW`.
const STORE: u8 = 0x7b;
const LOAD: u8 = 0x79;
/// `BPF_JMP | BPF_CALL` of the helper that jumps to another program.
const CALL: u8 = 0x85;
const TAIL_CALL: i32 = 12;
/// Offsets in the kernel's `struct bpf_sock_addr_kern`, the same since there is one: the user's address, and where a
/// register is kept while the address is written through it.
const ADDRESS: i16 = 8;
const KEPT: i16 = 16;
/// Ports and addresses in `sockaddr_in` and `sockaddr_in6`.
const DESTINATION: std::ops::Range<i16> = 2..24;

/// What the kernel makes of `ctx->user_ip4 = x` is always the same: a register is kept, becomes the user's address, and
/// is stored through. Reading needs no register besides the target, so it cannot be taken for that.
fn effect(code: &[[u8; 8]]) -> Effect {
    let writes = code.windows(3).any(|window| {
        let [keep, load, store] = window else { return false };
        let (keep, load, store) = (Instruction::of(*keep), Instruction::of(*load), Instruction::of(*store));
        let kept = keep.code == STORE && keep.offset == KEPT;
        let loaded = load.code == LOAD && load.offset == ADDRESS;
        let through = keep.source == load.target && keep.target == load.source && store.target == load.target;
        kept && loaded && through && store.is_store() && DESTINATION.contains(&store.offset)
    });
    let leaves = code.iter().map(|bytes| Instruction::of(*bytes));
    match (writes, leaves.into_iter().any(|it| it.code == CALL && it.source == 0 && it.value == TAIL_CALL)) {
        (true, _) => Effect::Writes,
        (false, true) => Effect::Unknown,
        (false, false) => Effect::Keeps,
    }
}

struct Instruction {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    value: i32,
}

impl Instruction {
    fn of([code, registers, a, b, c, d, e, f]: [u8; 8]) -> Self {
        Self {
            code,
            target: registers & 0xf,
            source: registers >> 4,
            offset: i16::from_le_bytes([a, b]),
            value: i32::from_le_bytes([c, d, e, f]),
        }
    }

    /// `BPF_ST` or `BPF_STX` with `BPF_MEM`, of any size.
    fn is_store(&self) -> bool {
        matches!(self.code & 0x07, 0x02 | 0x03) && self.code & 0xe0 == 0x60
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(instructions: &[(u8, u8, i16, i32)]) -> Vec<[u8; 8]> {
        let bytes = |&(code, registers, offset, value): &(u8, u8, i16, i32)| {
            let ([a, b], [c, d, e, f]) = (offset.to_le_bytes(), value.to_le_bytes());
            [code, registers, a, b, c, d, e, f]
        };
        instructions.iter().map(bytes).collect()
    }

    #[test]
    fn owners_are_known_by_what_the_kernel_keeps_of_a_name() {
        assert_eq!(owner("cil_sock4_connect"), Some("Cilium"));
        assert_eq!(owner("calico_connect_v4"), Some("Calico"));
        assert_eq!(owner("enter_egress"), None);
    }

    #[test]
    fn a_destination_is_written_only_through_the_user_s_address() {
        let end = (0x95, 0, 0, 0);
        // user_ip4 = r2, as the kernel has it: r9 kept in the context (r1), the address in r9, stored, r9 back.
        let write = [(0x7b, 0x91, 16, 0), (0x79, 0x19, 8, 0), (0x63, 0x29, 4, 0), (0x79, 0x19, 16, 0), end];
        // r2 = user_ip4.
        let read = [(0x79, 0x12, 8, 0), (0x61, 0x22, 4, 0), end];
        // The source address of sendmsg is kept elsewhere.
        let source = [(0x7b, 0x91, 16, 0), (0x79, 0x19, 24, 0), (0x63, 0x29, 4, 0), end];
        for (instructions, expected) in [
            (write.as_slice(), Effect::Writes),
            (&read, Effect::Keeps),
            (&source, Effect::Keeps),
            (&[(0x85, 0, 0, 12), end], Effect::Unknown),
            (&[(0x85, 0, 0, 1), end], Effect::Keeps),
        ] {
            assert_eq!(effect(&code(instructions)), expected, "{instructions:?}");
        }
    }
}
