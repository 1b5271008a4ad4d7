// SPDX-License-Identifier: Apache-2.0
//! A packet in a tc program: the few fields and helpers that capture needs, behind safe functions.

use core::{ffi::c_void, mem::MaybeUninit, ptr};

use crate::ebpf_abi::{LOOP_MARK, LOOPBACK_INDEX, MARK_MASK, map::Address};
use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_INGRESS, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_sock,
    },
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};

/// Go on as if there were no program.
pub(crate) const NEXT: i32 = TC_ACT_UNSPEC;
/// Drop.
pub(crate) const DROP: i32 = TC_ACT_SHOT;

/// A packet.
#[derive(Clone, Copy)]
pub(crate) struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub(crate) fn of(ctx: &TcContext) -> Self {
        Self(ctx.skb.skb)
    }

    /// For helpers.
    #[inline(always)]
    pub(crate) fn raw(self) -> *mut c_void {
        self.0.cast()
    }

    #[inline(always)]
    pub(crate) fn mark(self) -> u32 {
        // SAFETY: the context of a tc program; the access is checked by the verifier, as all below.
        unsafe { ptr::read_volatile(&raw const (*self.0).mark) & MARK_MASK }
    }

    #[inline(always)]
    pub(crate) fn set_mark(self, mark: u32) {
        // SAFETY: as in `mark`.
        unsafe {
            let other = ptr::read_volatile(&raw const (*self.0).mark) & !MARK_MASK;
            ptr::write_volatile(&raw mut (*self.0).mark, other | mark);
        }
    }

    #[inline(always)]
    pub(crate) fn len(self) -> u32 {
        // SAFETY: as in `mark`.
        unsafe { ptr::read_volatile(&raw const (*self.0).len) }
    }

    /// Whether there is a VLAN tag beside the packet.
    #[inline(always)]
    pub(crate) fn is_tagged(self) -> bool {
        // SAFETY: as in `mark`.
        unsafe { ptr::read_volatile(&raw const (*self.0).vlan_present) != 0 }
    }

    /// A word of the control block.
    #[inline(always)]
    pub(crate) fn word(self, index: usize) -> u32 {
        // SAFETY: as in `mark`.
        unsafe { ptr::read_volatile(&raw const (*self.0).cb[index]) }
    }

    #[inline(always)]
    pub(crate) fn set_word(self, index: usize, word: u32) {
        // SAFETY: as in `mark`.
        unsafe { ptr::write_volatile(&raw mut (*self.0).cb[index], word) }
    }

    /// The socket that sent it, or null. Only to be asked on the way out: on the way in it may be another namespace's.
    #[inline(always)]
    pub(crate) fn sender(self) -> *mut bpf_sock {
        // SAFETY: as in `mark`.
        unsafe { (*self.0).__bindgen_anon_2.sk }
    }

    /// Bytes of the packet, the link layer's header included.
    #[inline(always)]
    pub(crate) fn load<T: Copy>(self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `value` or fails; `T` is an integer or an array of them.
        unsafe {
            match bpf_skb_load_bytes(self.0.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
            {
                0 => Some(value.assume_init()),
                _ => None,
            }
        }
    }

    /// Overwrites bytes of the packet without touching checksums.
    #[inline(always)]
    pub(crate) fn store<T: Copy>(self, offset: u32, value: &T) -> bool {
        // SAFETY: `value` is as long as said.
        unsafe {
            bpf_skb_store_bytes(self.0, offset, ptr::from_ref(value).cast(), size_of::<T>() as u32, 0) == 0
        }
    }

    /// Sends it into `lo` as if it had just arrived there, to be delivered inside the pod.
    #[inline(always)]
    pub(crate) fn deliver_inside(self) -> i32 {
        self.set_mark(LOOP_MARK);
        // lo has the address zero; with the neighbour's it would count as another host's packet.
        if !self.store(0, &[0_u8; 6]) {
            return DROP;
        }
        // SAFETY: no memory is involved.
        unsafe { bpf_redirect(LOOPBACK_INDEX, u64::from(BPF_F_INGRESS)) as i32 }
    }

    /// Replaces an IPv4 address and corrects the checksums of the header and of UDP, at `sums`.
    #[inline(always)]
    pub(crate) fn replace_ipv4(self, offset: u32, sums: (u32, u32), from: u32, to: u32) -> bool {
        let (old, new) = (u64::from(from), u64::from(to));
        // SAFETY: no memory but the packet's.
        let corrected = unsafe {
            bpf_l3_csum_replace(self.0, sums.0, old, new, 4) == 0
                && bpf_l4_csum_replace(self.0, sums.1, old, new, PSEUDO_HEADER | 4) == 0
        };
        corrected && self.store(offset, &to)
    }

    /// Replaces an IPv6 address and corrects the checksum of UDP, at `sum`.
    #[inline(always)]
    pub(crate) fn replace_ipv6(self, offset: u32, sum: u32, mut from: Address, mut to: Address) -> bool {
        // SAFETY: both are sixteen bytes.
        let corrected = unsafe {
            let difference = bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0);
            difference >= 0 && bpf_l4_csum_replace(self.0, sum, 0, difference as u64, PSEUDO_HEADER) == 0
        };
        corrected && self.store(offset, &to)
    }

    /// Replaces a port of UDP, both in network order, and corrects the checksum at `sum`.
    #[inline(always)]
    pub(crate) fn replace_port(self, offset: u32, sum: u32, from: u16, to: u16) -> bool {
        let flags = u64::from(BPF_F_MARK_MANGLED_0) | 2;
        // SAFETY: no memory but the packet's.
        let corrected =
            unsafe { bpf_l4_csum_replace(self.0, sum, u64::from(from), u64::from(to), flags) == 0 };
        corrected && self.store(offset, &to)
    }
}

/// The checksum covers the addresses too, and zero means that there is none (RFC 768).
const PSEUDO_HEADER: u64 = (BPF_F_PSEUDO_HDR | BPF_F_MARK_MANGLED_0) as u64;
