// SPDX-License-Identifier: Apache-2.0
//! What must hold in a pod's network namespace for capture to work. The programs redirect packets to `lo` with
//! [`super::LOOP_MARK`]; these lines make the kernel deliver them there. The node agent sets them before it attaches:
//!
//! ```text
//! ip    rule add pref 60 fwmark 0x111/0xfff lookup 100      (and with -6)
//! ip    route add local default dev lo table 100            (and with -6)
//! ```
//!
//! and [`SYSCTLS`]. `lo` must be up. Nothing here is needed for un-enrolled pods, so all of it is taken back at release.

/// Preference of the rule: after `local` (0), before whatever the pod's CNI has.
pub const RULE_PREFERENCE: u32 = 60;
/// The table that holds nothing but the local default route.
pub const TABLE: u32 = 100;

/// Kernel settings below `/proc/sys`, with the value each must have.
pub const SYSCTLS: [(&str, &str); 6] = [
    // A captured packet comes in by lo with a source that is local: without this it is a martian.
    ("net/ipv4/conf/lo/accept_local", "1"),
    // The proxy's connection to the application comes in by lo with its client's source address. The reverse path
    // check must look it up with the packet's mark, where the answer is "by lo"; needed where rp_filter is 1.
    ("net/ipv4/conf/lo/src_valid_mark", "1"),
    // An accepted socket takes the mark of its SYN (for IPv6 too), so that its answers stay inside the pod.
    ("net/ipv4/tcp_fwmark_accept", "1"),
    // What the kernel answers without a socket (RST, ICMP) takes the same way.
    ("net/ipv4/fwmark_reflect", "1"),
    ("net/ipv6/fwmark_reflect", "1"),
    // Connections that a closing listener has not accepted yet move to the next proxy's listener.
    ("net/ipv4/tcp_migrate_req", "1"),
];
