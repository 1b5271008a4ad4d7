// SPDX-License-Identifier: Apache-2.0
//! The pod that a program runs for, and what its record says.

use core::arch::asm;

use crate::ebpf_abi::{
    Event, Listener,
    map::{Identity, Way, count_index, flag, network_key, network_prefix, own_key, port_key},
};

use crate::{
    address::Address,
    maps::{COUNTS, NETWORKS, OWN, PODS, PORTS, TRUST_MARK},
    skb::{DROP, Skb},
};

/// A pod whose record is in force.
#[derive(Clone, Copy)]
pub(crate) struct Pod {
    pub(crate) slot: u32,
    flags: u32,
}

impl Pod {
    /// The pod for which an entry program tail-called.
    #[inline(always)]
    pub(crate) fn entered(skb: Skb) -> Option<Self> {
        Self::recorded([skb.word(0), skb.word(1), skb.word(2)])
    }

    /// The pod of an identity; none when its slot is empty or another's by now.
    #[inline(always)]
    pub(crate) fn recorded([slot, low, high]: Identity) -> Option<Self> {
        let record = PODS.get(slot)?;
        (record[0] == low && record[1] == high).then_some(Self { slot, flags: record[2] })
    }

    #[inline(always)]
    pub(crate) fn is_released(self) -> bool {
        self.flags & flag::RELEASED != 0
    }

    #[inline(always)]
    pub(crate) fn captures_dns(self) -> bool {
        self.flags & flag::DNS != 0
    }

    /// Whether DNS over TCP has a listener of its own. A proxy that is believed by its mark, Istio's, has one that cannot
    /// answer in another's name; it takes such connections as it takes any other.
    #[inline(always)]
    pub(crate) fn captures_dns_streams(self) -> bool {
        self.captures_dns() && TRUST_MARK.load() == 0
    }

    /// Whether an address is the pod's own.
    #[inline(always)]
    pub(crate) fn owns(self, address: &Address) -> bool {
        OWN.get_ptr(own_key(self.slot, *address)).is_some()
    }

    /// Whether a connection that the pod opens goes past the proxy.
    #[inline(always)]
    pub(crate) fn excludes(self, destination: &Address, port: u16) -> bool {
        (self.flags & flag::EXCLUDED_PORTS != 0 && self.lists_port(Way::Out, port))
            || (self.flags & flag::EXCLUDED_DESTINATIONS != 0 && self.lists_network(Way::Out, destination))
    }

    /// Which listener a connection to the pod goes to; none when it goes straight to the application.
    #[inline(always)]
    pub(crate) fn receives(self, port: u16, peer: &Address) -> Option<Listener> {
        if port == crate::ebpf_abi::HBONE_PORT {
            return Some(Listener::Hbone);
        }
        let exempt = self.flags & flag::INBOUND_BYPASSED != 0
            || (self.flags & flag::EXCLUDED_PORTS != 0 && self.lists_port(Way::In, port))
            || (self.flags & flag::EXEMPT_PEERS != 0 && self.lists_network(Way::In, peer));
        (!exempt).then_some(Listener::Inbound)
    }

    #[inline(always)]
    fn lists_port(self, way: Way, port: u16) -> bool {
        PORTS.get_ptr(port_key(self.slot, way, port)).is_some()
    }

    #[inline(always)]
    fn lists_network(self, way: Way, address: &Address) -> bool {
        let key =
            aya_ebpf::maps::lpm_trie::Key::new(network_prefix(128), network_key(self.slot, way, *address));
        NETWORKS.get(key).is_some()
    }

    #[inline(always)]
    pub(crate) fn count(self, event: Event) {
        if let Some(count) = COUNTS.get_ptr_mut(count_index(self.slot, event)) {
            // SAFETY: the pointer is of a live map element. Rust's atomics do not exist for this target.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) }
        }
    }

    #[inline(always)]
    pub(crate) fn drop(self, event: Event) -> i32 {
        self.count(event);
        DROP
    }
}
