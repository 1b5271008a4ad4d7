// SPDX-License-Identifier: Apache-2.0
//! What the proxy sends inside the pod. Its connection to the application has the client's source address, so the
//! application would answer into the network: the connection gets the mark that keeps the answers inside. Everything
//! else on `lo`, above all the application's own, passes untouched.

use crate::ebpf_abi::{DNS_PORT, DOMAIN_PORT, HBONE_PORT, LOOP_MARK, Listener, map::question_key};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    address::is_loopback,
    maps::QUESTIONS,
    packet::{Frame, NETWORK, Segment, read},
    pod::Pod,
    skb::{DROP, NEXT, Skb},
    socket::{Sender, Socket, adopt},
};

#[classifier]
pub fn loopback(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    let Some(pod) = Pod::entered(skb) else { return NEXT };
    let Sender::Proxy(socket) = Sender::of(skb) else { return NEXT };
    match read(skb) {
        Frame::Tcp(segment) if pod.owns(&segment.destination) => deliver(skb, pod, socket, &segment),
        Frame::Udp(segment) if segment.source_port == DNS_PORT => answer(skb, pod, &segment),
        _ => NEXT,
    }
}

#[inline(always)]
fn deliver(skb: Skb, pod: Pod, socket: Socket, segment: &Segment) -> i32 {
    if segment.opens && segment.destination_port == HBONE_PORT {
        // A pod that calls itself through the mesh. `steer` lets only the listener found here have it.
        adopt(skb, pod, Listener::Hbone, segment.ipv6, &segment.destination);
        return NEXT;
    }
    if pod.owns(&segment.source) || is_loopback(&segment.source) {
        return NEXT;
    }
    if segment.opens && !socket.note_captured() {
        return DROP;
    }
    if socket.is_captured() {
        // To the application that serves. Redirected, the packet is routed as one that comes in by lo; otherwise it
        // would keep the interface of its way out, and `steer` could not tell it from one that came from outside.
        return skb.deliver_inside();
    }
    // To the application that asked: only what the kernel may answer without a socket needs the mark.
    skb.set_mark(LOOP_MARK);
    NEXT
}

/// An answer by DNS over UDP that the proxy sends from its own port gets the source that was asked. (One that it sends
/// from there itself needs nothing.)
#[inline(always)]
fn answer(skb: Skb, pod: Pod, segment: &Segment) -> i32 {
    let asker = question_key(pod.slot, segment.destination, segment.destination_port);
    // SAFETY: an entry that is reused meanwhile is another question's; its asker then gets an answer it ignores.
    let Some(&asked) = (unsafe { QUESTIONS.get(asker) }) else { return NEXT };
    let replaced = if segment.ipv6 {
        skb.replace_ipv6(NETWORK + 8, segment.transport + 6, segment.source, asked)
    } else {
        skb.replace_ipv4(NETWORK + 12, (NETWORK + 10, segment.transport + 6), segment.source[3], asked[3])
    };
    let (from, to) = (DNS_PORT.to_be(), DOMAIN_PORT.to_be());
    if replaced && skb.replace_port(segment.transport, segment.transport + 6, from, to) { NEXT } else { DROP }
}
