// SPDX-License-Identifier: Apache-2.0
//! Reads captured Ethernet frames: addresses, ports and payload of TCP and UDP over IPv4 and IPv6.
//!
//! It is for judging what went over a wire, so whatever it cannot read stays visible as `Transport::Other` with its
//! bytes: a leak must not hide behind a header that this module does not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ETHERNET_HEADER: usize = 14;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// One IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// What it carries.
    pub transport: Transport<'a>,
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport<'a> {
    /// A TCP segment.
    Tcp {
        /// Sender's port.
        source: u16,
        /// Receiver's port.
        destination: u16,
        /// The flag byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
        flags: u8,
        /// Data after the header.
        payload: &'a [u8],
    },
    /// A UDP datagram.
    Udp {
        /// Sender's port.
        source: u16,
        /// Receiver's port.
        destination: u16,
        /// Data after the header.
        payload: &'a [u8],
    },
    /// A fragment, or another protocol.
    Other {
        /// Protocol number of the last header that was understood.
        protocol: u8,
        /// Everything after the IP header.
        payload: &'a [u8],
    },
}

impl<'a> Packet<'a> {
    /// Reads an Ethernet frame; `None` when it holds no whole IP header.
    #[must_use]
    pub fn of_frame(frame: &'a [u8]) -> Option<Self> {
        let kind = u16_at(frame, 12)?;
        let body = frame.get(ETHERNET_HEADER..)?;
        match kind {
            0x0800 => Self::of_v4(body),
            0x86dd => Self::of_v6(body),
            _ => None,
        }
    }

    /// Data after the transport's header.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        match self.transport {
            Transport::Tcp { payload, .. }
            | Transport::Udp { payload, .. }
            | Transport::Other { payload, .. } => payload,
        }
    }

    /// Both socket addresses of a TCP segment, sender first.
    #[must_use]
    pub fn tcp(&self) -> Option<(SocketAddr, SocketAddr)> {
        let Transport::Tcp { source, destination, .. } = self.transport else { return None };
        Some((SocketAddr::new(self.source, source), SocketAddr::new(self.destination, destination)))
    }

    fn of_v4(packet: &'a [u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let total = usize::from(u16_at(packet, 2)?);
        // A segmentation-offloaded packet says 0; Ethernet padding makes a frame longer than its packet.
        let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
        let fragmented = u16_at(packet, 6)? & 0x3fff != 0;
        let protocol = *packet.get(9)?;
        let body = packet.get(header..end)?;
        Some(Self {
            source: IpAddr::V4(Ipv4Addr::from(array_at::<4>(packet, 12)?)),
            destination: IpAddr::V4(Ipv4Addr::from(array_at::<4>(packet, 16)?)),
            transport: Transport::of(protocol, body, fragmented),
        })
    }

    fn of_v6(packet: &'a [u8]) -> Option<Self> {
        let length = usize::from(u16_at(packet, 4)?);
        let end = if length == 0 { packet.len() } else { (40 + length).min(packet.len()) };
        let mut protocol = *packet.get(6)?;
        let mut body = packet.get(40..end)?;
        let mut fragmented = false;
        // Hop-by-hop 0, routing 43, fragment 44, destination options 60; at most so many are looked through.
        for _ in 0..8 {
            let length = match protocol {
                0 | 43 | 60 => (usize::from(*body.get(1)?) + 1) * 8,
                44 => {
                    fragmented = fragmented || u16_at(body, 2)? & 0xfff9 != 0;
                    8
                }
                _ => break,
            };
            protocol = *body.first()?;
            body = body.get(length..)?;
        }
        Some(Self {
            source: IpAddr::V6(Ipv6Addr::from(array_at::<16>(packet, 8)?)),
            destination: IpAddr::V6(Ipv6Addr::from(array_at::<16>(packet, 24)?)),
            transport: Transport::of(protocol, body, fragmented),
        })
    }
}

impl<'a> Transport<'a> {
    fn of(protocol: u8, body: &'a [u8], fragmented: bool) -> Self {
        let known = if fragmented { None } else { Self::known(protocol, body) };
        known.unwrap_or(Self::Other { protocol, payload: body })
    }

    fn known(protocol: u8, body: &'a [u8]) -> Option<Self> {
        let (source, destination) = (u16_at(body, 0)?, u16_at(body, 2)?);
        match protocol {
            TCP => {
                let header = usize::from(*body.get(12)? >> 4) * 4;
                Some(Self::Tcp { source, destination, flags: *body.get(13)?, payload: body.get(header..)? })
            }
            UDP => Some(Self::Udp { source, destination, payload: body.get(8..)? }),
            _ => None,
        }
    }
}

/// Whether `haystack` contains `needle`.
#[must_use]
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    !needle.is_empty() && haystack.windows(needle.len()).any(|window| window == needle)
}

/// The classic dump: offset, sixteen bytes in hexadecimal, the same as text; at most `lines` lines.
#[must_use]
pub fn hexdump(bytes: &[u8], lines: usize) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for (number, row) in bytes.chunks(16).take(lines).enumerate() {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let text: String =
            row.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect();
        // Writing into a String cannot fail.
        writeln!(out, "{:06x}  {:<47}  {text}", number * 16, hex.join(" ")).unwrap_or_default();
    }
    out
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at::<2>(bytes, offset).map(u16::from_be_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ethernet(kind: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn tcp(payload: &[u8]) -> Vec<u8> {
        let mut segment = Vec::new();
        segment.extend(40000_u16.to_be_bytes());
        segment.extend(8080_u16.to_be_bytes());
        segment.extend([0; 8]);
        segment.extend([0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        segment.extend(payload);
        segment
    }

    fn v4(protocol: u8, fragment: u16, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(u16::try_from(20 + body.len()).unwrap().to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 10, 20, 1, 1, 10, 20, 2, 1]);
        packet.extend(body);
        packet
    }

    fn v6(next: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        packet.extend([next, 64]);
        packet.extend("fd00:20:1::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd00:20:2::1".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(body);
        packet
    }

    #[test]
    fn a_tcp_segment_over_ipv4_is_read_without_the_padding_of_its_frame() {
        let mut frame = ethernet(0x0800, &v4(TCP, 0x4000, &tcp(b"hello")));
        frame.extend([0; 7]);
        let packet = Packet::of_frame(&frame).unwrap();
        assert_eq!(packet.payload(), b"hello");
        assert_eq!(
            packet.tcp().unwrap(),
            ("10.20.1.1:40000".parse().unwrap(), "10.20.2.1:8080".parse().unwrap())
        );
    }

    #[test]
    fn a_tcp_segment_behind_ipv6_extension_headers_is_found() {
        let mut body = vec![TCP, 0, 1, 4, 0, 0, 0, 0];
        body.extend(tcp(b"behind"));
        let frame = ethernet(0x86dd, &v6(60, &body));
        let packet = Packet::of_frame(&frame).unwrap();
        assert_eq!(packet.payload(), b"behind");
        assert_eq!(packet.tcp().unwrap().1, "[fd00:20:2::1]:8080".parse().unwrap());
    }

    #[test]
    fn a_fragment_keeps_its_bytes_but_is_not_taken_for_a_segment() {
        for frame in [
            ethernet(0x0800, &v4(TCP, 0x2000, &tcp(b"part"))),
            ethernet(0x0800, &v4(TCP, 0x0003, &tcp(b"part"))),
            ethernet(0x86dd, &v6(44, &[&[TCP, 0, 0, 1, 0, 0, 0, 0], tcp(b"part").as_slice()].concat())),
        ] {
            let packet = Packet::of_frame(&frame).unwrap();
            assert_eq!(packet.tcp(), None);
            assert!(contains(packet.payload(), b"part"), "{packet:?}");
        }
    }

    #[test]
    fn what_is_cut_short_or_no_ip_is_not_read() {
        let whole = ethernet(0x0800, &v4(UDP, 0, &[0, 53, 0, 53, 0, 8, 0, 0]));
        assert!(Packet::of_frame(&whole).is_some());
        for length in 0..ETHERNET_HEADER + 20 {
            assert_eq!(Packet::of_frame(&whole[..length]), None, "{length} bytes");
        }
        assert_eq!(Packet::of_frame(&ethernet(0x0806, &[0; 28])), None);
    }

    #[test]
    fn a_hexdump_has_the_bytes_and_their_text() {
        assert_eq!(
            hexdump(b"GET / HTTP/1.1\r\n\x16", 2),
            "000000  47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a  GET./.HTTP/1.1..\n\
             000010  16                                               .\n"
        );
    }
}
