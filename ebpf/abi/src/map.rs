// SPDX-License-Identifier: Apache-2.0
//! Names, keys and values of the maps. An address is four words that hold its sixteen bytes in network order, IPv4
//! mapped into IPv6, so that one key serves both families.

use super::Listener;

/// An IP address: sixteen bytes in network order.
pub type Address = [u32; 4];

/// The slot's record, by slot.
pub const PODS: &str = "PODS";
/// The pod's own addresses: [`own_key`].
pub const OWN: &str = "OWN";
/// Networks with a meaning of their own: [`network_key`], longest prefix first.
pub const NETWORKS: &str = "NETWORKS";
/// Ports with a meaning of their own: [`port_key`].
pub const PORTS: &str = "PORTS";
/// The proxy's listeners: [`listener_index`].
pub const LISTENERS: &str = "LISTENERS";
/// How often each event happened: [`count_index`].
pub const COUNTS: &str = "COUNTS";
/// Whom a pod asked by DNS over UDP, so that the answer can come from there: [`question_key`].
pub const QUESTIONS: &str = "QUESTIONS";
/// Connections that kubelet has just begun, with the time ([`PROBE_CLOCK`]): [`probe_key`]. Outlives every generation of
/// programs.
pub const PROBES: &str = "PROBES";
/// Shared programs, by [`super::Hook`].
pub const HOOKS: &str = "HOOKS";
/// Sockets of the proxy. Socket storage; outlives every generation of programs.
pub const CLAIMS: &str = "CLAIMS";
/// Sockets whose connection was captured. Socket storage; outlives every generation of programs.
pub const CAPTURED: &str = "CAPTURED";
/// Read-only variable: whether [`super::PROXY_MARK`] alone proves that a socket is the proxy's.
pub const TRUST_MARK: &str = "TRUST_MARK";
/// Read-only variable of a pod's own programs: [`Identity`].
pub const IDENTITY: &str = "IDENTITY";

/// A tick of the time in [`PROBES`] is so many bits of nanoseconds: about a second.
pub const PROBE_CLOCK: u32 = 30;
/// For so many ticks a connection in [`PROBES`] may arrive; later its ports may be another process'.
pub const PROBE_TICKS: u32 = 1;

/// The value of a claim. What counts is that there is one.
pub const CLAIMED: u32 = 1;

/// Listeners of one pod in [`LISTENERS`], with room to grow: five, for IPv4 and IPv6.
pub const LISTENERS_PER_POD: u32 = 16;

/// Which pod a pod's own programs speak for: slot, and the cookie of its network namespace in two halves (low, high).
/// A record whose cookie differs belongs to somebody else and is not used.
pub type Identity = [u32; 3];

/// A slot's record: cookie of the network namespace (low, high), [`flag`]s, reserved.
pub type Record = [u32; 4];

/// Bits of a record's third word.
pub mod flag {
    /// DNS is captured.
    pub const DNS: u32 = 1;
    /// Connections to the pod are not captured.
    pub const INBOUND_BYPASSED: u32 = 1 << 1;
    /// [`super::NETWORKS`] has exempt peers of this pod.
    pub const EXEMPT_PEERS: u32 = 1 << 2;
    /// [`super::NETWORKS`] has excluded destinations of this pod.
    pub const EXCLUDED_DESTINATIONS: u32 = 1 << 3;
    /// [`super::PORTS`] has excluded ports of this pod.
    pub const EXCLUDED_PORTS: u32 = 1 << 4;
    /// The pod has left: nothing is captured, and what was may not leak.
    pub const RELEASED: u32 = 1 << 5;
}

/// Direction of an entry in [`NETWORKS`] or [`PORTS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Way {
    /// Connections that the pod opens.
    Out = 0,
    /// Connections to the pod.
    In = 1,
}

/// Key of [`OWN`].
pub const fn own_key(slot: u32, address: Address) -> [u32; 5] {
    [slot, address[0], address[1], address[2], address[3]]
}

/// Key of [`NETWORKS`] behind its prefix length. The two first words always count: see [`network_prefix`].
pub const fn network_key(slot: u32, way: Way, address: Address) -> [u32; 6] {
    [slot, way as u32, address[0], address[1], address[2], address[3]]
}

/// Prefix length of a key of [`NETWORKS`], from that of the mapped address (IPv4 counts from 96).
pub const fn network_prefix(mapped: u32) -> u32 {
    64 + mapped
}

/// Key of [`PORTS`].
pub const fn port_key(slot: u32, way: Way, port: u16) -> [u32; 2] {
    [slot, (way as u32) << 16 | port as u32]
}

/// Index in [`LISTENERS`]. A dual-stack listener is found, and remembered, once for each family.
pub const fn listener_index(slot: u32, listener: Listener, ipv6: bool) -> u32 {
    slot * LISTENERS_PER_POD + (listener as u32) * 2 + ipv6 as u32
}

/// Index in [`COUNTS`].
pub const fn count_index(slot: u32, event: super::Event) -> u32 {
    slot * super::EVENTS + event as u32
}

/// Key of [`QUESTIONS`]: who asked, from which port.
pub const fn question_key(slot: u32, client: Address, port: u16) -> [u32; 6] {
    [slot, client[0], client[1], client[2], client[3], port as u32]
}

/// Key of [`PROBES`]: both ends of a connection, from the side that opens it.
pub const fn probe_key(source: Address, source_port: u16, destination: Address, port: u16) -> [u32; 9] {
    let [a, b, c, d] = source;
    let [e, f, g, h] = destination;
    [a, b, c, d, e, f, g, h, (source_port as u32) << 16 | port as u32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_listeners_share_an_index() {
        let mut seen = [false; 2 * LISTENERS_PER_POD as usize];
        for slot in 0..2 {
            for listener in Listener::ALL {
                for ipv6 in [false, true] {
                    let index = listener_index(slot, listener, ipv6) as usize;
                    assert!(!core::mem::replace(&mut seen[index], true), "{listener:?} {ipv6}");
                }
            }
        }
    }

    #[test]
    fn ports_of_both_ways_are_apart() {
        assert_ne!(port_key(1, Way::Out, 80), port_key(1, Way::In, 80));
    }
}
