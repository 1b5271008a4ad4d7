// SPDX-License-Identifier: Apache-2.0
//! What a frame carries, as the network will read it: from its bytes alone, never from what a sending socket said about
//! it. Whoever calls decides what to do with it; here only TCP that cannot be followed is told apart from the rest.

use crate::ebpf_abi::Event;

use crate::{
    address::{Address, mapped},
    skb::Skb,
};

/// Length of an Ethernet header; lo has one too.
const ETHERNET: u32 = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// Tags in the frame itself (IEEE 802.1Q, 802.1ad, and its predecessor).
const TAGS: [u16; 3] = [0x8100, 0x88a8, 0x9100];

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Extension headers that a packet of an honest sender can have before TCP: two or three. Beyond this it is dropped.
const MAX_EXTENSIONS: u32 = 8;

const FIN_TO_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A frame.
pub(crate) enum Frame {
    /// A whole TCP header is at hand.
    Tcp(Segment),
    /// A whole UDP header is at hand.
    Udp(Segment),
    /// Not TCP, or not IP.
    Other,
    /// May be TCP, but cannot be judged.
    Opaque(Event),
}

/// The header of a segment or datagram.
pub(crate) struct Segment {
    pub(crate) ipv6: bool,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Where the transport header begins.
    pub(crate) transport: u32,
    /// TCP: the first SYN of a connection.
    pub(crate) opens: bool,
    /// TCP: whether anything follows the header.
    pub(crate) payload: bool,
}

/// Where the IPv4 or IPv6 header begins.
pub(crate) const NETWORK: u32 = ETHERNET;

/// Reads a frame.
#[inline(always)]
pub(crate) fn read(skb: Skb) -> Frame {
    if skb.is_tagged() {
        return Frame::Opaque(Event::Tagged);
    }
    let Some(kind) = skb.load::<u16>(ETHERNET - 2) else { return Frame::Opaque(Event::Malformed) };
    let kind = u16::from_be(kind);
    if kind == IPV4 {
        ipv4(skb)
    } else if kind == IPV6 {
        ipv6(skb)
    } else if kind == TAGS[0] || kind == TAGS[1] || kind == TAGS[2] {
        Frame::Opaque(Event::Tagged)
    } else {
        Frame::Other
    }
}

#[inline(always)]
fn ipv4(skb: Skb) -> Frame {
    let Some(header) = skb.load::<[u32; 5]>(ETHERNET) else { return Frame::Opaque(Event::Malformed) };
    let first = u32::from_be(header[0]);
    let length = (first >> 24 & 0x0f) * 4;
    if first >> 28 != 4 || length < 20 {
        return Frame::Opaque(Event::Malformed);
    }
    // More fragments, or an offset.
    let fragment = u32::from_be(header[1]) & 0x3fff != 0;
    let protocol = (u32::from_be(header[2]) >> 16) as u8;
    let ends = (mapped(header[3]), mapped(header[4]));
    transport(
        skb,
        Network { protocol, fragment, extended: false, ipv6: false, transport: ETHERNET + length },
        ends,
    )
}

#[inline(always)]
fn ipv6(skb: Skb) -> Frame {
    let Some(header) = skb.load::<[u32; 10]>(ETHERNET) else { return Frame::Opaque(Event::Malformed) };
    if u32::from_be(header[0]) >> 28 != 6 {
        return Frame::Opaque(Event::Malformed);
    }
    let source = [header[2], header[3], header[4], header[5]];
    let destination = [header[6], header[7], header[8], header[9]];
    let mut network = Network {
        protocol: (u32::from_be(header[1]) >> 8) as u8,
        fragment: false,
        extended: false,
        ipv6: true,
        transport: ETHERNET + 40,
    };
    for _ in 0..MAX_EXTENSIONS {
        match network.step(skb) {
            Step::Transport => return transport(skb, network, (source, destination)),
            Step::Further => {}
            Step::Lost => return Frame::Opaque(Event::Extension),
        }
    }
    Frame::Opaque(Event::Extension)
}

/// How far the chain of IPv6 headers has been followed.
struct Network {
    protocol: u8,
    fragment: bool,
    extended: bool,
    ipv6: bool,
    transport: u32,
}

enum Step {
    Transport,
    Further,
    /// The transport cannot be known.
    Lost,
}

impl Network {
    /// Goes past one extension header (RFC 8200; RFC 4302 for the length of an authentication header).
    #[inline(always)]
    fn step(&mut self, skb: Skb) -> Step {
        const HOP_BY_HOP: u8 = 0;
        const ROUTING: u8 = 43;
        const FRAGMENT: u8 = 44;
        const AUTHENTICATION: u8 = 51;
        const DESTINATION: u8 = 60;
        const MOBILITY: u8 = 135;
        const HOST_IDENTITY: u8 = 139;
        const SHIM6: u8 = 140;
        let kind = self.protocol;
        match kind {
            HOP_BY_HOP | ROUTING | AUTHENTICATION | DESTINATION | MOBILITY | HOST_IDENTITY | SHIM6
            | FRAGMENT => {}
            _ => return Step::Transport,
        }
        if self.fragment {
            // Behind an offset there is data, not the header that its number names.
            return Step::Lost;
        }
        let Some(extension) = skb.load::<[u8; 4]>(self.transport) else { return Step::Lost };
        self.protocol = extension[0];
        self.extended = true;
        self.transport += match kind {
            FRAGMENT => {
                let place = u16::from_be_bytes([extension[2], extension[3]]);
                // An offset; the first fragment still shows its headers.
                self.fragment = place & 0xfff8 != 0;
                8
            }
            AUTHENTICATION => (u32::from(extension[1]) + 2) * 4,
            _ => (u32::from(extension[1]) + 1) * 8,
        };
        Step::Further
    }
}

#[inline(always)]
fn transport(skb: Skb, network: Network, (source, destination): (Address, Address)) -> Frame {
    match network.protocol {
        TCP if network.fragment => Frame::Opaque(Event::Fragment),
        TCP if network.extended => Frame::Opaque(Event::Extension),
        TCP => tcp(skb, &network, (source, destination)),
        UDP if network.fragment || network.extended => Frame::Other,
        UDP => udp(skb, &network, (source, destination)),
        _ => Frame::Other,
    }
}

#[inline(always)]
fn tcp(skb: Skb, network: &Network, (source, destination): (Address, Address)) -> Frame {
    let Some(header) = skb.load::<[u32; 4]>(network.transport) else {
        return Frame::Opaque(Event::Malformed);
    };
    let ports = u32::from_be(header[0]);
    let fourth = u32::from_be(header[3]);
    let length = (fourth >> 28) * 4;
    let end = network.transport + length;
    if length < 20 || skb.len() < end {
        return Frame::Opaque(Event::Malformed);
    }
    let flags = (fourth >> 16) as u8 & FIN_TO_ACK;
    Frame::Tcp(Segment {
        ipv6: network.ipv6,
        source,
        destination,
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        transport: network.transport,
        opens: flags & (SYN | ACK) == SYN,
        // Of what is really there: the lengths in the headers are the sender's word.
        payload: skb.len() != end,
    })
}

#[inline(always)]
fn udp(skb: Skb, network: &Network, (source, destination): (Address, Address)) -> Frame {
    let Some(ports) = skb.load::<u32>(network.transport) else { return Frame::Other };
    let ports = u32::from_be(ports);
    Frame::Udp(Segment {
        ipv6: network.ipv6,
        source,
        destination,
        source_port: (ports >> 16) as u16,
        destination_port: ports as u16,
        transport: network.transport,
        opens: false,
        payload: true,
    })
}
