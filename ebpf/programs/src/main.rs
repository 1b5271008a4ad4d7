// SPDX-License-Identifier: Apache-2.0
//! Which packets of a pod go where. In the pod's network namespace, without netfilter:
//!
//! ```text
//!   app ── SYN ──► egress of eth0 ── mark, redirect ──► ingress of lo ── routed local by mark ──► steer ──► :15001
//!   peer ─────────► ingress of eth0 (finds the listener) ─────────────────────────────────────► steer ──► :15006
//!   proxy, with the peer's source address ──► egress of lo ── mark, redirect ──► ingress of lo ► steer ──► app
//! ```
//!
//! How pods are kept apart. The large programs ([`egress`], [`ingress`], [`loopback`]) exist once per node; each pod has
//! tiny programs of its own ([`entry`], [`steer`]) with the pod's slot and the cookie of its network namespace as
//! constants in their code. So no packet, address, mark, interface index or socket can make a program act for another
//! pod: it is the place of attachment that speaks. Entry programs hand the identity over in the packet's control block
//! directly before the tail call, where nothing runs in between. `sk_lookup` has neither a cookie helper nor a control
//! block, which is why [`steer`] is loaded per pod.
//!
//! Kubelet's probes are noted as they leave its control group ([`probe`]) and go straight to the application.
//!
//! What proves that a socket is the proxy's: a claim in its socket storage, made through a map that no pod can open
//! ([`socket`]). What proves that a connection is captured: a flag in the storage of the application's socket, set with
//! its first SYN; it stays, so that not one segment leaves when the proxy dies.
//!
//! Everything fails closed: no listener, no identity, no shared program, no memory for a flag means drop.
//!
//! What none of this sees or stops, because it is on no hook or cannot be told apart: frames of packet sockets with
//! `PACKET_QDISC_BYPASS` and of AF_XDP (CAP_NET_RAW); a connection made by `TCP_REPAIR`, which has no SYN and counts as
//! open before capture (CAP_NET_ADMIN); what fits into the headers of raw segments without payload; whatever is not TCP,
//! tunnels included; an interface that was added since the pod was last attached.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

/// The source of the abi crate. It is no dependency, because it lies outside this workspace: cargo would put its path, and
/// with it the checkout's, into the name of every symbol.
#[path = "../../abi/src/lib.rs"]
#[allow(
    dead_code,
    unused_attributes,
    reason = "the loader uses the rest; the attributes are those of a crate"
)]
mod ebpf_abi;

mod address;
mod egress;
mod entry;
mod ingress;
mod loopback;
mod maps;
mod packet;
mod pod;
mod probe;
mod skb;
mod socket;
mod steer;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier refuses programs that could get here.
    loop {}
}

/// Several helpers are for programs under a licence compatible with the GPL. The programs are under Apache-2.0 and, for
/// the kernel, dually under MIT or GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
