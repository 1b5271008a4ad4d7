// SPDX-License-Identifier: Apache-2.0
//! Addresses as the maps hold them: sixteen bytes in network order, IPv4 mapped into IPv6.

pub(crate) use crate::ebpf_abi::map::Address;

/// The third word of an IPv4-mapped address (RFC 4291, 2.5.5.2).
const MAPPED: u32 = 0x0000_ffff_u32.to_be();

/// An IPv4 address, itself in network order.
#[inline(always)]
pub(crate) fn mapped(ipv4: u32) -> Address {
    [0, 0, MAPPED, ipv4]
}

/// Whether it is `127.0.0.0/8` or `::1`.
#[inline(always)]
pub(crate) fn is_loopback(address: &Address) -> bool {
    if address[0] != 0 || address[1] != 0 {
        return false;
    }
    (address[2] == MAPPED && u32::from_be(address[3]) >> 24 == 127)
        || (address[2] == 0 && address[3] == 1_u32.to_be())
}
