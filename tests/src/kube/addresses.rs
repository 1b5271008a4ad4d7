// SPDX-License-Identifier: Apache-2.0
//! The address plan of a Kubernetes cluster. Every cluster has a block of its own, `S` below, so that several of them
//! and the lab never meet, not even on the machine itself, which has a link into each.
//!
//! ```text
//! fabric     10.S.0.0/24       fd00:S::/64          node k is .k and ::k; control plane .254, router .253, machine .252
//! balanced   10.S.1.0/24       fd00:S:1::/112       addresses of Services of type LoadBalancer
//! services   10.S.64.0/18      fd00:S:64::/112      .64.1 is the API server, .64.10 the DNS server
//! pods       10.S.128.0/17     fd00:S:128::/48      node k has 10.S.(128+k).0/24 and fd00:S:128:k::/64
//! ```

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

use crate::net::addresses::Pair;

/// Host number of the control plane on the fabric.
pub const CONTROL: u8 = 254;
/// Host number of the router: the fabric itself.
pub const ROUTER: u8 = 253;
/// Host number of the machine that all of this runs on.
pub const MACHINE: u8 = 252;
/// Which blocks there are.
pub const BLOCKS: RangeInclusive<u8> = 64..=127;
/// Prefix lengths of the fabric.
pub const FABRIC_PREFIX: (u8, u8) = (24, 64);

/// The block of one cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Block(u8);

/// A range in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address of each.
    pub first: Pair,
    /// Prefix length in IPv4.
    pub v4_prefix: u8,
    /// Prefix length in IPv6.
    pub v6_prefix: u8,
}

impl Range {
    /// Both as address and prefix length, IPv4 first.
    #[must_use]
    pub fn both(&self) -> [(IpAddr, u8); 2] {
        [(IpAddr::V4(self.first.v4), self.v4_prefix), (IpAddr::V6(self.first.v6), self.v6_prefix)]
    }

    /// The IPv4 range as text.
    #[must_use]
    pub fn v4(&self) -> String {
        format!("{}/{}", self.first.v4, self.v4_prefix)
    }

    /// The IPv6 range as text.
    #[must_use]
    pub fn v6(&self) -> String {
        format!("{}/{}", self.first.v6, self.v6_prefix)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.v4(), self.v6())
    }
}

impl Block {
    /// The block of that number.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        BLOCKS.contains(&number).then_some(Self(number))
    }

    /// All blocks, the one that a name prefers first.
    pub fn preferred_by(name: &str) -> impl Iterator<Item = Self> {
        let count = u32::from(BLOCKS.end() - BLOCKS.start()) + 1;
        let hash = name.bytes().fold(5381_u32, |hash, byte| hash.wrapping_mul(33) ^ u32::from(byte));
        (0..count).filter_map(move |step| {
            let offset = u8::try_from((hash % count + step) % count).ok()?;
            Some(Self(BLOCKS.start() + offset))
        })
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }

    /// Everything of this cluster.
    #[must_use]
    pub fn whole(self) -> Range {
        self.range(0, 16, &[], 32)
    }

    /// A host on the fabric.
    #[must_use]
    pub fn fabric(self, host: u8) -> Pair {
        self.host(0, host, &[])
    }

    /// The pods of all nodes.
    #[must_use]
    pub fn pods(self) -> Range {
        self.range(128, 17, &[0x128], 48)
    }

    /// The pods of node `node`.
    #[must_use]
    pub fn pods_of(self, node: u8) -> Range {
        self.range(128 + (node & 127), 24, &[0x128, u16::from(node)], 64)
    }

    /// Cluster addresses of services.
    #[must_use]
    pub fn services(self) -> Range {
        self.range(64, 18, &[0x64], 112)
    }

    /// Service number `host`: 1 is the API server, 10 the DNS server.
    #[must_use]
    pub fn service(self, host: u8) -> Pair {
        self.host(64, host, &[0x64])
    }

    /// Addresses that the load-balancer gives out.
    #[must_use]
    pub fn balanced(self) -> Range {
        self.range(1, 24, &[1], 112)
    }

    /// Address number `host` of those.
    #[must_use]
    pub fn balanced_host(self, host: u8) -> Pair {
        self.host(1, host, &[1])
    }

    /// Name of the machine's link into this cluster.
    #[must_use]
    pub fn link(self) -> String {
        format!("ambit{}", self.0)
    }

    fn range(self, third: u8, v4_prefix: u8, groups: &[u16], v6_prefix: u8) -> Range {
        Range { first: self.host(third, 0, groups), v4_prefix, v6_prefix }
    }

    fn host(self, third: u8, host: u8, groups: &[u16]) -> Pair {
        let group = |index: usize| groups.get(index).copied().unwrap_or_default();
        let v6 = Ipv6Addr::new(0xfd00, digits_as_hex(self.0), group(0), group(1), 0, 0, 0, u16::from(host));
        Pair { v4: Ipv4Addr::new(10, self.0, third, host), v6 }
    }
}

/// 64 becomes 0x64, so that both families show the same digits.
fn digits_as_hex(number: u8) -> u16 {
    let number = u16::from(number);
    number / 100 * 0x100 + number / 10 % 10 * 0x10 + number % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_show_the_same_digits() {
        let block = Block::numbered(127).unwrap();
        assert_eq!(block.fabric(2).both().map(|address| address.to_string()), ["10.127.0.2", "fd00:127::2"]);
        assert_eq!(block.services().to_string(), "10.127.64.0/18,fd00:127:64::/112");
        assert_eq!(block.pods_of(2).to_string(), "10.127.130.0/24,fd00:127:128:2::/64");
        assert_eq!(block.balanced_host(7).v6.to_string(), "fd00:127:1::7");
        assert!(block.link().len() < 16);
    }

    #[test]
    fn a_name_prefers_one_block_and_takes_any_other() {
        let all: Vec<Block> = Block::preferred_by("dev").collect();
        assert_eq!(all.len(), 64);
        assert_eq!(all.first(), Block::preferred_by("dev").collect::<Vec<_>>().first());
        assert!(BLOCKS.into_iter().all(|number| all.contains(&Block(number))));
    }
}
