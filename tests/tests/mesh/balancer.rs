// SPDX-License-Identifier: Apache-2.0
//! A balancer at the socket, as small as it can be: a program on the root of the control groups that exchanges one
//! service's address and port for those of an endpoint when anybody connects. It is gone when this is dropped, and when
//! its process dies.

use std::{fs::File, net::SocketAddrV4};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr},
};
use lab::kube::cgroup;

/// Its name.
pub(crate) const PROGRAM: &str = "exchange";
const HOOK: &str = "cgroup/connect4";

/// See the module.
pub(crate) struct Balancer {
    _programs: Ebpf,
}

impl Balancer {
    /// Exchanges `service` for `endpoint` from now on, on the whole machine.
    pub(crate) fn attach(service: SocketAddrV4, endpoint: SocketAddrV4) -> Result<Self> {
        let root = cgroup::unified()?.context("no cgroup2 is mounted")?;
        let mut programs = Ebpf::load(&object(&code(service, endpoint))).context("the object")?;
        let program = programs.program_mut(PROGRAM).context("no such program")?;
        let program: &mut CgroupSockAddr = program.try_into()?;
        program.load().context("loading it")?;
        program.attach(File::open(root)?, CgroupAttachMode::Single).context("attaching it")?;
        Ok(Self { _programs: programs })
    }
}

/// `bpf_sock_addr` has the address at 4 and the port at 24, both in the order of the network.
fn code(service: SocketAddrV4, endpoint: SocketAddrV4) -> Vec<u8> {
    let ip = |address: SocketAddrV4| i32::from_ne_bytes(address.ip().octets());
    let port = |address: SocketAddrV4| i32::from(address.port().to_be());
    let instructions: [(u8, u8, i16, i32); 10] = [
        (0x61, 0x12, 4, 0),             // w2 = address
        (0x56, 0x02, 6, ip(service)),   // not the service: end
        (0x61, 0x12, 24, 0),            // w2 = port
        (0x56, 0x02, 4, port(service)), // not the service: end
        (0xb4, 0x02, 0, ip(endpoint)),
        (0x63, 0x21, 4, 0), // address = w2
        (0xb4, 0x02, 0, port(endpoint)),
        (0x63, 0x21, 24, 0), // port = w2
        (0xb7, 0x00, 0, 1),  // end: go on
        (0x95, 0x00, 0, 0),
    ];
    let bytes = instructions.iter().flat_map(|(code, registers, offset, value)| {
        [&[*code, *registers][..], &offset.to_le_bytes(), &value.to_le_bytes()].concat()
    });
    bytes.collect()
}

/// An object with one program: ELF, as a compiler for eBPF would write it.
fn object(code: &[u8]) -> Vec<u8> {
    let names = format!("\0{HOOK}\0license\0.symtab\0.strtab\0{PROGRAM}\0");
    let name = |name: &str| {
        u32::try_from(names.find(&format!("\0{name}\0")).map_or(0, |at| at + 1)).unwrap_or_default()
    };
    let mut symbols = vec![0; 24];
    symbols.extend(name(PROGRAM).to_le_bytes());
    // A global function in the first section.
    symbols.extend([0x12, 0, 1, 0]);
    symbols.extend([0, code.len() as u64].map(u64::to_le_bytes).concat());
    // Type, flags, link, info, size of an entry.
    let sections: [(&str, [u64; 5], &[u8]); 5] = [
        ("", [0; 5], &[]),
        (HOOK, [1, 6, 0, 0, 0], code),
        ("license", [1, 3, 0, 0, 0], b"GPL\0"),
        (".symtab", [2, 0, 4, 1, 24], &symbols),
        (".strtab", [3, 0, 0, 0, 0], names.as_bytes()),
    ];
    let (mut contents, mut headers) = (Vec::new(), Vec::new());
    for (section, [kind, flags, link, info, entry], bytes) in sections {
        while contents.len() % 8 != 0 {
            contents.push(0);
        }
        let half = |number: u64| u32::try_from(number).unwrap_or_default().to_le_bytes();
        headers.extend([name(section).to_le_bytes(), half(kind)].concat());
        let place = (HEADER + contents.len()) as u64;
        headers.extend([flags, 0, place, bytes.len() as u64].map(u64::to_le_bytes).concat());
        headers.extend([half(link), half(info)].concat());
        headers.extend([8, entry].map(u64::to_le_bytes).concat());
        contents.extend(bytes);
    }
    while contents.len() % 8 != 0 {
        contents.push(0);
    }
    // 64 bits, little-endian, relocatable, for eBPF (247); five section headers of 64 bytes, names in the last section.
    let mut object = b"\x7fELF\x02\x01\x01".to_vec();
    object.resize(16, 0);
    object.extend([1_u16, 247, 1, 0].map(u16::to_le_bytes).concat());
    object.extend([0, 0, (HEADER + contents.len()) as u64].map(u64::to_le_bytes).concat());
    object.extend([0_u16, 0, 64, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
    [object, contents, headers].concat()
}

/// Length of the first header.
const HEADER: usize = 64;
