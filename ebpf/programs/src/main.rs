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
//! What proves that a socket is the proxy's: a claim in its socket storage, made through a map that no pod can open
//! ([`socket`]). What proves that a connection is captured: a flag in the storage of the application's socket, set with
//! its first SYN; it stays, so that not one segment leaves when the proxy dies.
//!
//! Everything fails closed: no listener, no identity, no shared program, no memory for a flag means drop.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod address;
mod egress;
mod entry;
mod ingress;
mod loopback;
mod maps;
mod packet;
mod pod;
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
