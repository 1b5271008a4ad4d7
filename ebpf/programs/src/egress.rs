// SPDX-License-Identifier: Apache-2.0
//! What leaves the pod. The first SYN of a connection decides: it goes to the proxy, and so does all that follows, or it
//! is dropped. What an application's socket sends on a connection that was open before capture began, passes.

use crate::ebpf_abi::{DOMAIN_PORT, Event, Listener, PROXY_MARK, map::question_key};
use aya_ebpf::{macros::classifier, programs::TcContext};

use crate::{
    address::is_loopback,
    maps::QUESTIONS,
    packet::{Frame, Segment, read},
    pod::Pod,
    skb::{DROP, NEXT, Skb},
    socket::{Sender, adopt, has_receiver},
};

#[classifier]
pub fn egress(ctx: TcContext) -> i32 {
    let skb = Skb::of(&ctx);
    let Some(pod) = Pod::entered(skb) else { return NEXT };
    let sender = Sender::of(skb);
    if let Sender::Proxy(_) = sender {
        return NEXT;
    }
    if pod.is_released() {
        return after_release(skb, pod, sender);
    }
    match read(skb) {
        Frame::Tcp(segment) if segment.opens => open(skb, pod, sender, &segment),
        Frame::Tcp(segment) => go_on(skb, pod, sender, &segment),
        Frame::Udp(segment) => ask(skb, pod, &segment),
        Frame::Other => NEXT,
        Frame::Opaque(event) => pod.drop(event),
    }
}

/// The pod is out of the mesh, but what was said inside it must not go on in the open.
#[inline(always)]
fn after_release(skb: Skb, pod: Pod, sender: Sender) -> i32 {
    let Sender::Application(socket) = sender else { return NEXT };
    if !socket.is_captured() {
        return NEXT;
    }
    match read(skb) {
        Frame::Tcp(segment) if segment.opens => {
            socket.forget_captured();
            NEXT
        }
        // The proxy may still be finishing.
        Frame::Tcp(segment) if has_receiver(skb, &segment) => skb.deliver_inside(),
        _ => pod.drop(Event::Released),
    }
}

#[inline(always)]
fn open(skb: Skb, pod: Pod, sender: Sender, segment: &Segment) -> i32 {
    if pod.excludes(&segment.destination, segment.destination_port) {
        if let Sender::Application(socket) = sender {
            // Its connection before this one may have been captured.
            socket.forget_captured();
        }
        pod.count(Event::Exempted);
        return NEXT;
    }
    if let Some(event) = forged(pod, segment) {
        return pod.drop(event);
    }
    if let Sender::Application(socket) = sender
        && !socket.note_captured()
    {
        return pod.drop(Event::Unowned);
    }
    let dns = pod.captures_dns_streams() && segment.destination_port == DOMAIN_PORT;
    let listener = if dns { Listener::DnsTcp } else { Listener::Outbound };
    if !adopt(skb, pod, listener, segment.ipv6, &segment.source) {
        return DROP;
    }
    pod.count(Event::CapturedOutbound);
    skb.deliver_inside()
}

#[inline(always)]
fn go_on(skb: Skb, pod: Pod, sender: Sender, segment: &Segment) -> i32 {
    if let Sender::Application(socket) = sender {
        return if socket.is_captured() { skb.deliver_inside() } else { NEXT };
    }
    // SYN-ACK, the last ACK of TIME_WAIT and RST come from sockets without storage. None of them has payload, so that
    // nothing can be leaked by believing their mark.
    if !segment.payload && skb.mark() == PROXY_MARK {
        return NEXT;
    }
    if has_receiver(skb, segment) {
        return skb.deliver_inside();
    }
    if segment.payload { pod.drop(Event::Unowned) } else { NEXT }
}

/// A question by DNS over UDP.
#[inline(always)]
fn ask(skb: Skb, pod: Pod, segment: &Segment) -> i32 {
    if !pod.captures_dns()
        || segment.destination_port != DOMAIN_PORT
        || pod.excludes(&segment.destination, segment.destination_port)
    {
        return NEXT;
    }
    if let Some(event) = forged(pod, segment) {
        return pod.drop(event);
    }
    if !adopt(skb, pod, Listener::DnsUdp, segment.ipv6, &segment.source) {
        return DROP;
    }
    let asker = question_key(pod.slot, segment.source, segment.source_port);
    // Full means that the oldest question is forgotten; then its answer does not come, as if lost on the way.
    let _kept = QUESTIONS.insert(asker, segment.destination, 0);
    pod.count(Event::CapturedDns);
    skb.deliver_inside()
}

/// What a socket of this pod would not send to a captured destination.
#[inline(always)]
fn forged(pod: Pod, segment: &Segment) -> Option<Event> {
    if segment.source_port == 0 || is_loopback(&segment.destination) {
        return Some(Event::Malformed);
    }
    (!pod.owns(&segment.source)).then_some(Event::Spoofed)
}
