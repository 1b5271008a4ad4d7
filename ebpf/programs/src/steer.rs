// SPDX-License-Identifier: Apache-2.0
//! Which socket a connection to this pod gets. The kernel asks whenever it looks for a listener, also when a SYN hits a
//! socket in TIME_WAIT, which is why this is not left to the programs on the interfaces.
//!
//! What can be trusted here: the index of the interface. 1 means that the packet was routed in by `lo`, which happens to
//! what the programs redirected and to what is sent on `lo` with the loop mark by hand; the latter comes from inside the
//! pod and can only reach the pod's own application or, with the pod's own source address, its proxy. A call of the pod
//! to itself keeps the interface of its way out; from outside nothing with a source of the pod gets here ([`ingress`]).
//!
//! [`ingress`]: crate::ingress

use core::{ffi::c_void, ptr};

use crate::ebpf_abi::{
    DOMAIN_PORT, Event, HBONE_PORT, INBOUND_PORT, LOOPBACK_INDEX, Listener, OUTBOUND_PORT,
    map::listener_index,
};
use aya_ebpf::{
    bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, sk_action},
    helpers::generated::{bpf_map_lookup_elem, bpf_sk_assign, bpf_sk_release},
    macros::sk_lookup,
    programs::SkLookupContext,
};

use crate::{
    address::{Address, is_loopback, mapped},
    maps::{IDENTITY, LISTENERS},
    pod::Pod,
    probe::was_noted,
};

const PASS: u32 = sk_action::SK_PASS;
const REFUSE: u32 = sk_action::SK_DROP;

const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const AF_INET6: u32 = 10;

#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let Some(pod) = Pod::recorded(IDENTITY.load()) else { return PASS };
    // A search of the programs themselves: they check what they find.
    if pod.is_released() || remote_port(&ctx) == 0 {
        return PASS;
    }
    let ends = Ends::of(&ctx);
    if is_loopback(&ends.local) {
        return if is_captor(ends.port) { REFUSE } else { PASS };
    }
    match protocol(&ctx) {
        IPPROTO_TCP => stream(&ctx, pod, &ends),
        IPPROTO_UDP => datagram(&ctx, pod, &ends),
        _ => PASS,
    }
}

#[inline(always)]
fn stream(ctx: &SkLookupContext, pod: Pod, ends: &Ends) -> u32 {
    let within = pod.owns(&ends.remote);
    if ends.inside && !pod.owns(&ends.local) {
        if !within {
            pod.count(Event::Spoofed);
            return REFUSE;
        }
        let dns = pod.captures_dns_streams() && ends.port == DOMAIN_PORT;
        return assign(ctx, pod, if dns { Listener::DnsTcp } else { Listener::Outbound }, ends.ipv6);
    }
    if ends.inside || within {
        // From the proxy to the application, or a call of the pod to itself.
        return match ends.port {
            HBONE_PORT => assign(ctx, pod, Listener::Hbone, ends.ipv6),
            port if is_captor(port) => REFUSE,
            _ => PASS,
        };
    }
    match pod.receives(ends.port, &ends.remote) {
        Some(Listener::Inbound)
            if was_noted(&ends.remote, u16::from_be(remote_port(ctx)), &ends.local, ends.port) =>
        {
            PASS
        }
        Some(listener) => assign(ctx, pod, listener, ends.ipv6),
        None => PASS,
    }
}

#[inline(always)]
fn datagram(ctx: &SkLookupContext, pod: Pod, ends: &Ends) -> u32 {
    if !ends.inside || ends.port != DOMAIN_PORT || pod.owns(&ends.local) || !pod.captures_dns() {
        return PASS;
    }
    if !pod.owns(&ends.remote) {
        pod.count(Event::Spoofed);
        return REFUSE;
    }
    assign(ctx, pod, Listener::DnsUdp, ends.ipv6)
}

/// Ports of the proxy to which nobody connects by name: a connection that was captured has another destination.
#[inline(always)]
fn is_captor(port: u16) -> bool {
    port == OUTBOUND_PORT || port == INBOUND_PORT
}

#[inline(always)]
fn assign(ctx: &SkLookupContext, pod: Pod, listener: Listener, ipv6: bool) -> u32 {
    let index = listener_index(pod.slot, listener, ipv6);
    // Without a look at others that share the port: one of them may be an application's.
    let flags = u64::from(BPF_SK_LOOKUP_F_NO_REUSEPORT);
    // SAFETY: the key is as long as the map says; the socket is released.
    unsafe {
        let socket = bpf_map_lookup_elem((&raw const LISTENERS) as *mut c_void, ptr::from_ref(&index).cast());
        if socket.is_null() {
            pod.count(Event::NoListener);
            return REFUSE;
        }
        let assigned = bpf_sk_assign(ctx.lookup.cast(), socket, flags) == 0;
        bpf_sk_release(socket);
        if assigned { PASS } else { REFUSE }
    }
}

/// The two ends of a connection, as seen from the pod.
struct Ends {
    ipv6: bool,
    local: Address,
    port: u16,
    remote: Address,
    inside: bool,
}

impl Ends {
    #[inline(always)]
    fn of(ctx: &SkLookupContext) -> Self {
        let lookup = ctx.lookup;
        // SAFETY: the context of the program; each access is checked by the verifier, as all below.
        unsafe {
            // Both families are read, the other one as zeros: merged reads would make the verifier refuse the program.
            let ipv6 = field(&raw const (*lookup).family) == AF_INET6;
            let (local4, remote4) =
                (field(&raw const (*lookup).local_ip4), field(&raw const (*lookup).remote_ip4));
            let (local6, remote6) =
                (words(&raw const (*lookup).local_ip6), words(&raw const (*lookup).remote_ip6));
            let (local, remote) = if ipv6 { (local6, remote6) } else { (mapped(local4), mapped(remote4)) };
            Self {
                ipv6,
                local,
                port: field(&raw const (*lookup).local_port) as u16,
                remote,
                inside: field(&raw const (*lookup).ingress_ifindex) == LOOPBACK_INDEX,
            }
        }
    }
}

#[inline(always)]
fn protocol(ctx: &SkLookupContext) -> u32 {
    // SAFETY: as in `Ends::of`.
    unsafe { field(&raw const (*ctx.lookup).protocol) }
}

#[inline(always)]
fn remote_port(ctx: &SkLookupContext) -> u16 {
    // SAFETY: as in `Ends::of`.
    unsafe { ptr::read_volatile(&raw const (*ctx.lookup).remote_port) }
}

/// A word of the context, read alone: the kernel refuses reads that a compiler has merged.
#[inline(always)]
unsafe fn field(word: *const u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { ptr::read_volatile(word) }
}

#[inline(always)]
unsafe fn words(words: *const [u32; 4]) -> Address {
    let first = words.cast::<u32>();
    // SAFETY: the caller's, for four words.
    unsafe { [field(first), field(first.add(1)), field(first.add(2)), field(first.add(3))] }
}
