// SPDX-License-Identifier: Apache-2.0
//! Kubelet's connections to pods: noted where they leave kubelet's control group, found again where they arrive. So
//! nobody's address is rewritten and no other process of the node is believed. The program is attached to that control
//! group alone; what it notes are both ends of a connection, which nobody else can have while kubelet has it.

use crate::ebpf_abi::map::{PROBE_CLOCK, PROBE_TICKS, probe_key};
use aya_ebpf::{helpers::generated::bpf_ktime_get_ns, macros::cgroup_skb, programs::SkBuffContext};

use crate::{
    address::{Address, mapped},
    maps::PROBES,
    packet::Segment,
};

const LET_PASS: i32 = 1;
const TCP: u32 = 6;
/// Length of an IPv6 header.
const IPV6: usize = 40;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Packets begin with their IP header here.
#[cgroup_skb(egress)]
pub fn note_probe(ctx: SkBuffContext) -> i32 {
    if let Some(key) = opened(&ctx) {
        // Not noted: then it is captured as any other connection.
        let _kept = PROBES.insert(key, now(), 0);
    }
    LET_PASS
}

/// Whether kubelet has just opened this connection.
#[inline(always)]
pub(crate) fn is_probe(segment: &Segment) -> bool {
    was_noted(&segment.source, segment.source_port, &segment.destination, segment.destination_port)
}

/// The same, from both ends of a connection that arrives.
#[inline(always)]
pub(crate) fn was_noted(source: &Address, source_port: u16, destination: &Address, port: u16) -> bool {
    match PROBES.get_ptr(probe_key(*source, source_port, *destination, port)) {
        // SAFETY: the pointer is of a live map element.
        Some(noted) => now().wrapping_sub(unsafe { *noted }) <= PROBE_TICKS,
        None => false,
    }
}

#[inline(always)]
fn opened(ctx: &SkBuffContext) -> Option<[u32; 9]> {
    let first = u32::from_be(ctx.load::<u32>(0).ok()?);
    match first >> 28 {
        4 => {
            let header = ctx.load::<[u32; 5]>(0).ok()?;
            if u32::from_be(header[2]) >> 16 & 0xff != TCP {
                return None;
            }
            let length = ((first >> 24 & 0x0f) * 4) as usize;
            key(ctx, length, mapped(header[3]), mapped(header[4]))
        }
        6 => {
            let header = ctx.load::<[u32; 10]>(0).ok()?;
            // Kubelet's sockets send no extension headers.
            if u32::from_be(header[1]) >> 8 & 0xff != TCP {
                return None;
            }
            let source = [header[2], header[3], header[4], header[5]];
            let destination = [header[6], header[7], header[8], header[9]];
            key(ctx, IPV6, source, destination)
        }
        _ => None,
    }
}

#[inline(always)]
fn key(ctx: &SkBuffContext, transport: usize, source: Address, destination: Address) -> Option<[u32; 9]> {
    let header = ctx.load::<[u32; 4]>(transport).ok()?;
    let flags = (u32::from_be(header[3]) >> 16) as u8;
    if flags & (SYN | ACK) != SYN {
        return None;
    }
    let ports = u32::from_be(header[0]);
    Some(probe_key(source, (ports >> 16) as u16, destination, ports as u16))
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: no memory is involved.
    (unsafe { bpf_ktime_get_ns() } >> PROBE_CLOCK) as u32
}
