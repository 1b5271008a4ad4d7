// SPDX-License-Identifier: Apache-2.0
//! What arrives at the pod from outside. It only prepares for `steer`: finds the listener, and drops what pretends to be
//! from inside. Segments of open connections pass untouched.

use crate::ebpf_abi::{Event, LOOP_MARK, Listener, PROXY_MARK};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    packet::{Frame, Segment, read},
    pod::Pod,
    probe::is_probe,
    skb::{DROP, NEXT, Skb},
    socket::{adopt, has_double},
};

#[classifier]
pub fn ingress(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    let Some(pod) = Pod::entered(skb) else { return NEXT };
    if pod.is_released() {
        return NEXT;
    }
    let mark = skb.mark();
    if mark == LOOP_MARK || mark == PROXY_MARK {
        // Both mean something only when they are set inside.
        skb.set_mark(0);
    }
    match read(skb) {
        Frame::Tcp(segment) if segment.opens => open(skb, pod, &segment),
        _ => NEXT,
    }
}

#[inline(always)]
fn open(skb: Skb, pod: Pod, segment: &Segment) -> i32 {
    if !pod.owns(&segment.destination) {
        return NEXT;
    }
    if segment.source_port == 0 {
        return pod.drop(Event::Malformed);
    }
    // `steer` cannot tell a call of the pod to itself from this.
    if pod.owns(&segment.source) {
        return pod.drop(Event::Spoofed);
    }
    let Some(listener) = pod.receives(segment.destination_port, &segment.source) else {
        pod.count(Event::Exempted);
        return NEXT;
    };
    if let Listener::Inbound = listener
        && is_probe(segment)
    {
        pod.count(Event::Probed);
        return NEXT;
    }
    // Dropped, not refused: a peer that sends its SYN again a second later may find the next proxy.
    if !adopt(skb, pod, listener, segment.ipv6, &segment.destination) {
        return DROP;
    }
    if let Listener::Inbound = listener {
        if has_double(skb, segment) {
            return pod.drop(Event::Collided);
        }
        pod.count(Event::CapturedInbound);
    }
    NEXT
}
