// SPDX-License-Identifier: Apache-2.0
//! What the capture programs, their loader and the proxy agree on: ports, marks, map names and the layout of keys and
//! values. It refuses to know how any of it is used. Every key and value is an array of words, so that neither side
//! needs an unsafe conversion.
#![no_std]

pub mod map;
pub mod route;

/// Where the proxy accepts connections that the pod opens.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy accepts connections to the pod that arrive in plaintext.
pub const INBOUND_PORT: u16 = 15006;
/// Where the proxy accepts HBONE; packets are already addressed to it.
pub const HBONE_PORT: u16 = 15008;
/// Where the proxy answers DNS, over TCP and UDP.
pub const DNS_PORT: u16 = 15053;
/// Where applications ask DNS.
pub const DOMAIN_PORT: u16 = 53;

/// `SO_MARK` of every socket of the proxy (Istio's). It routes; it proves nothing unless the agent is told to trust it.
pub const PROXY_MARK: u32 = 0x539;
/// Mark of packets that are to be delivered inside the pod (Istio's): see [`route`].
pub const LOOP_MARK: u32 = 0x111;
/// The bits of a packet's mark that both marks live in.
pub const MARK_MASK: u32 = 0xfff;

/// Index of `lo` in every network namespace.
pub const LOOPBACK_INDEX: u32 = 1;

/// Pods that one node can capture.
pub const MAX_PODS: u32 = 1024;

/// A listener of the proxy, as it is looked for and remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Listener {
    /// [`OUTBOUND_PORT`].
    Outbound = 0,
    /// [`INBOUND_PORT`].
    Inbound = 1,
    /// [`HBONE_PORT`].
    Hbone = 2,
    /// [`DNS_PORT`] over TCP.
    DnsTcp = 3,
    /// [`DNS_PORT`] over UDP.
    DnsUdp = 4,
}

impl Listener {
    /// Every listener.
    pub const ALL: [Self; 5] = [Self::Outbound, Self::Inbound, Self::Hbone, Self::DnsTcp, Self::DnsUdp];

    /// The port it is bound to.
    pub const fn port(self) -> u16 {
        match self {
            Self::Outbound => OUTBOUND_PORT,
            Self::Inbound => INBOUND_PORT,
            Self::Hbone => HBONE_PORT,
            Self::DnsTcp | Self::DnsUdp => DNS_PORT,
        }
    }
}

/// Counted per pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Event {
    /// A connection that the pod opened was given to the proxy (counted per SYN).
    CapturedOutbound = 0,
    /// A connection to the pod was given to the proxy (counted per SYN).
    CapturedInbound = 1,
    /// A DNS query over UDP was given to the proxy.
    CapturedDns = 2,
    /// A listener of the proxy was found and remembered.
    Adopted = 3,
    /// A connection of a peer or port that the settings exempt was let pass (counted per SYN).
    Exempted = 4,
    /// Dropped: the proxy does not listen.
    NoListener = 5,
    /// Dropped: a socket listens on the proxy's port and is not the proxy's.
    ForeignListener = 6,
    /// Dropped: a source address that is not the pod's, or the pod's own coming from outside.
    Spoofed = 7,
    /// Dropped: a fragment of TCP.
    Fragment = 8,
    /// Dropped: IPv6 extension headers before TCP, or so many that the transport cannot be known.
    Extension = 9,
    /// Dropped: IP inside a VLAN tag, which capture cannot see through.
    Tagged = 10,
    /// Dropped: TCP payload that no socket of this pod vouches for (raw and packet sockets, forwarded traffic).
    Unowned = 11,
    /// Dropped: a packet too short or malformed to be judged.
    Malformed = 12,
    /// Dropped: payload of a connection that was captured before the pod was released.
    Released = 13,
    /// Dropped: a SYN of a client from a port from which the proxy is connected to the application in that client's name.
    Collided = 14,
    /// A connection that kubelet opened was let pass (counted per SYN).
    Probed = 15,
}

/// Number of [`Event`]s, with room to grow.
pub const EVENTS: u32 = 16;

/// What shared programs are tail-called by a pod's own entry programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// Egress of the pod's interfaces.
    Egress = 0,
    /// Ingress of the pod's interfaces.
    Ingress = 1,
    /// Egress of `lo`.
    Loopback = 2,
}
