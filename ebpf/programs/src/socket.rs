// SPDX-License-Identifier: Apache-2.0
//! Sockets: whose they are, what was captured, and where the proxy listens.
//!
//! The proxy's listeners are found, not announced: each SYN looks, in the namespace of the device it is on, for a socket
//! bound to the proxy's port, and takes it if it is claimed. It is kept in a SOCKMAP, from which the kernel removes it
//! when it is closed, so that the next SYN finds the next one. A socket that an application bound to such a port is
//! never taken, also when it shares the port with the proxy by `SO_REUSEPORT`.

use core::{ffi::c_void, mem::zeroed, ptr};

use crate::ebpf_abi::{Event, Listener, MARK_MASK, PROXY_MARK, map::listener_index};
use aya_ebpf::{
    bindings::{BPF_F_CURRENT_NETNS, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple},
    helpers::generated::{
        bpf_get_prandom_u32, bpf_map_lookup_elem, bpf_map_update_elem, bpf_sk_fullsock, bpf_sk_lookup_tcp,
        bpf_sk_lookup_udp, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get, bpf_skc_lookup_tcp,
    },
};

use crate::{
    address::{Address, mapped},
    maps::{CAPTURED, CLAIMS, LISTENERS, TRUST_MARK},
    packet::Segment,
    pod::Pod,
    skb::Skb,
};

/// States of a socket (`enum` in the kernel's `tcp_states.h`).
const TIME_WAIT: u32 = 6;
const LISTEN: u32 = 10;
const IPPROTO_TCP: u32 = 6;
const SOCK_STREAM: u32 = 1;
/// How often a socket is looked for among those that share a port: the first time is enough unless an application has
/// bound sockets to a port of the proxy, which then costs it, not others, a SYN that is dropped and sent again.
const ATTEMPTS: u32 = 8;

/// The socket that sent a packet.
#[derive(Clone, Copy)]
pub(crate) enum Sender {
    /// The proxy.
    Proxy(Socket),
    /// A TCP socket of an application.
    Application(Socket),
    /// None, one that is not a full socket (a connection request, TIME_WAIT), or one that speaks TCP itself (raw and
    /// packet sockets; the kernel's own for RST).
    Nobody,
}

impl Sender {
    /// Who sent `skb`. A socket that is not full has no storage, so that a claim cannot be seen there.
    #[inline(always)]
    pub(crate) fn of(skb: Skb) -> Self {
        let sender = skb.sender();
        if sender.is_null() {
            return Self::Nobody;
        }
        // SAFETY: not null; the verifier follows the types of socket pointers, as all below.
        let socket = unsafe { bpf_sk_fullsock(sender) };
        if socket.is_null() {
            return Self::Nobody;
        }
        let socket = Socket(socket);
        if socket.is_proxys() {
            return Self::Proxy(socket);
        }
        if socket.is_stream() { Self::Application(socket) } else { Self::Nobody }
    }
}

/// A full socket.
#[derive(Clone, Copy)]
pub(crate) struct Socket(*mut bpf_sock);

impl Socket {
    /// Notes that the connection of this socket is captured (an application's) or a captured one's other half (the
    /// proxy's, to the application).
    #[inline(always)]
    pub(crate) fn note_captured(self) -> bool {
        // SAFETY: a full socket, by construction.
        unsafe { storage(&raw const CAPTURED, self.0, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) }
    }

    /// A new connection of the same socket, which is not captured.
    #[inline(always)]
    pub(crate) fn forget_captured(self) {
        // SAFETY: a full socket, by construction; nothing to remove is fine.
        unsafe { bpf_sk_storage_delete((&raw const CAPTURED) as *mut c_void, self.0.cast()) };
    }

    /// Whether that was noted.
    #[inline(always)]
    pub(crate) fn is_captured(self) -> bool {
        // SAFETY: a full socket, by construction.
        unsafe { storage(&raw const CAPTURED, self.0, 0) }
    }

    #[inline(always)]
    fn is_proxys(self) -> bool {
        // SAFETY: a full socket, by construction.
        unsafe {
            storage(&raw const CLAIMS, self.0, 0)
                || (TRUST_MARK.load() != 0 && (*self.0).mark & MARK_MASK == PROXY_MARK)
        }
    }

    #[inline(always)]
    fn is_stream(self) -> bool {
        // SAFETY: a full socket, by construction.
        unsafe { (*self.0).protocol == IPPROTO_TCP && (*self.0).type_ == SOCK_STREAM }
    }
}

/// Whether a socket has a value in a map of socket storage.
#[inline(always)]
unsafe fn storage<M>(map: *const M, socket: *mut bpf_sock, flags: u64) -> bool {
    // SAFETY: the caller has a full socket and a map of that type.
    unsafe { !bpf_sk_storage_get(map as *mut c_void, socket.cast(), ptr::null_mut(), flags).is_null() }
}

/// Whether the pod itself holds the other end of a segment: then its connection was captured.
#[inline(always)]
pub(crate) fn has_receiver(skb: Skb, segment: &Segment) -> bool {
    let source = (&segment.source, segment.source_port);
    let destination = (&segment.destination, segment.destination_port);
    state(skb, segment.ipv6, source, destination).is_some_and(|state| state != LISTEN)
}

/// Whether the pod itself holds this end of a segment that comes from outside: the proxy is connected to the application
/// in the name of the same client from the same port.
#[inline(always)]
pub(crate) fn has_double(skb: Skb, segment: &Segment) -> bool {
    let source = (&segment.source, segment.source_port);
    let destination = (&segment.destination, segment.destination_port);
    state(skb, segment.ipv6, destination, source).is_some_and(|state| state != LISTEN && state != TIME_WAIT)
}

/// The state of the pod's socket to which a segment of such ends would go.
#[inline(always)]
fn state(skb: Skb, ipv6: bool, source: (&Address, u16), destination: (&Address, u16)) -> Option<u32> {
    let (mut tuple, size) = tuple(ipv6, source, destination);
    // SAFETY: the tuple is as long as said; a socket that is found is released.
    unsafe {
        let socket = bpf_skc_lookup_tcp(skb.raw(), &mut tuple, size, CURRENT_NETNS, 0);
        if socket.is_null() {
            return None;
        }
        let state = (*socket).state;
        bpf_sk_release(socket.cast());
        Some(state)
    }
}

/// Makes sure that `steer` knows the listener for a connection, looking for it at `local`, an address of the pod.
#[inline(always)]
pub(crate) fn adopt(skb: Skb, pod: Pod, listener: Listener, ipv6: bool, local: &Address) -> bool {
    let index = listener_index(pod.slot, listener, ipv6);
    let datagrams = matches!(listener, Listener::DnsUdp);
    if is_known(index, datagrams) {
        return true;
    }
    let mut found = look(skb, pod.slot, listener, ipv6, local);
    if found == NOTHING && matches!(listener, Listener::DnsTcp | Listener::DnsUdp) {
        // Istio's proxy answers DNS on the loopback addresses only.
        let local = if ipv6 { [0, 0, 0, 1_u32.to_be()] } else { mapped(0x7f00_0001_u32.to_be()) };
        found = look(skb, pod.slot, listener, ipv6, &local);
    }
    pod.count(match found {
        ADOPTED => Event::Adopted,
        FOREIGN => Event::ForeignListener,
        _ => Event::NoListener,
    });
    found == ADOPTED
}

const CURRENT_NETNS: u64 = BPF_F_CURRENT_NETNS as u64;

const NOTHING: u32 = 0;
const ADOPTED: u32 = 1;
const FOREIGN: u32 = 2;

#[inline(always)]
fn is_known(index: u32, datagrams: bool) -> bool {
    // SAFETY: the key is as long as the map says; a socket that is found is released.
    unsafe {
        let socket: *mut bpf_sock =
            bpf_map_lookup_elem((&raw const LISTENERS) as *mut c_void, ptr::from_ref(&index).cast()).cast();
        if socket.is_null() {
            return false;
        }
        let open = datagrams || (*socket).state == LISTEN;
        bpf_sk_release(socket.cast());
        open
    }
}

/// Not inlined: it is needed three times, and the verifier reads it faster alone.
#[inline(never)]
fn look(skb: Skb, slot: u32, listener: Listener, ipv6: bool, local: &Address) -> u32 {
    let index = listener_index(slot, listener, ipv6);
    let datagrams = matches!(listener, Listener::DnsUdp);
    let mut outcome = NOTHING;
    for _ in 0..ATTEMPTS {
        // Another source chooses another of the sockets that share the port; at random, so that the next SYN tries
        // others. Port 0 tells `steer` that this is no packet.
        let mut source = *local;
        // SAFETY: no memory is involved.
        source[3] = unsafe { bpf_get_prandom_u32() };
        let (mut tuple, size) = tuple(ipv6, (&source, 0), (local, listener.port()));
        // SAFETY: the tuple is as long as said; a socket that is found is released.
        unsafe {
            let socket = if datagrams {
                bpf_sk_lookup_udp(skb.raw(), &mut tuple, size, CURRENT_NETNS, 0)
            } else {
                bpf_sk_lookup_tcp(skb.raw(), &mut tuple, size, CURRENT_NETNS, 0)
            };
            if socket.is_null() {
                return outcome;
            }
            outcome = if !Socket(socket).is_proxys() {
                FOREIGN
            } else if bpf_map_update_elem(
                (&raw const LISTENERS) as *mut c_void,
                ptr::from_ref(&index).cast(),
                socket.cast(),
                0,
            ) == 0
            {
                ADOPTED
            } else {
                NOTHING
            };
            bpf_sk_release(socket.cast());
        }
        if outcome == ADOPTED {
            return outcome;
        }
    }
    outcome
}

/// A tuple and its length; which of the two halves of the union it is, the length tells the kernel.
#[inline(always)]
fn tuple(ipv6: bool, source: (&Address, u16), destination: (&Address, u16)) -> (bpf_sock_tuple, u32) {
    // SAFETY: plain integers, for which all zeros are a value.
    let mut tuple: bpf_sock_tuple = unsafe { zeroed() };
    if ipv6 {
        tuple.__bindgen_anon_1.ipv6.saddr = *source.0;
        tuple.__bindgen_anon_1.ipv6.daddr = *destination.0;
        tuple.__bindgen_anon_1.ipv6.sport = source.1.to_be();
        tuple.__bindgen_anon_1.ipv6.dport = destination.1.to_be();
        (tuple, 36)
    } else {
        tuple.__bindgen_anon_1.ipv4.saddr = source.0[3];
        tuple.__bindgen_anon_1.ipv4.daddr = destination.0[3];
        tuple.__bindgen_anon_1.ipv4.sport = source.1.to_be();
        tuple.__bindgen_anon_1.ipv4.dport = destination.1.to_be();
        (tuple, 12)
    }
}
