// SPDX-License-Identifier: Apache-2.0
//! Packets that no socket of TCP would send, and the two ways out for them that CAP_NET_RAW opens: raw sockets and
//! packet sockets. It refuses to judge what becomes of them.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use lab::{Node, Pod};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket},
};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
const TCP: u8 = 6;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
/// `IPPROTO_RAW`: the IP header comes with the packet.
const RAW: i32 = 255;

/// How a segment is put into packets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Dress {
    /// As it is.
    Plain,
    /// As the first of several fragments.
    FirstFragment,
    /// As a later fragment: payload without a header.
    LaterFragment,
    /// Behind so many destination options (IPv6 only).
    Options(usize),
}

/// A packet and its ends.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) to: IpAddr,
    pub(crate) bytes: Vec<u8>,
}

/// An IP packet with a TCP segment from one end to the other.
pub(crate) fn packet(from: IpAddr, to: SocketAddr, flags: u8, dress: Dress, words: &[u8]) -> Packet {
    let body = match dress {
        Dress::LaterFragment => words.to_vec(),
        Dress::Plain | Dress::FirstFragment | Dress::Options(_) => segment(to.port(), flags, words),
    };
    let bytes = match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => v4(&from.octets(), &to.octets(), dress, &body),
        (IpAddr::V6(from), IpAddr::V6(to)) => v6(&from.octets(), &to.octets(), dress, &body),
        (IpAddr::V4(_) | IpAddr::V6(_), _) => Vec::new(),
    };
    Packet { to: to.ip(), bytes }
}

/// The checksum is 0: whoever forwards it does not look, and it is the wire that is asked.
fn segment(port: u16, flags: u8, words: &[u8]) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(41_234_u16.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(words);
    segment
}

fn v4(from: &[u8; 4], to: &[u8; 4], dress: Dress, body: &[u8]) -> Vec<u8> {
    // In units of eight bytes; the highest bit but two says that more follow.
    let place: u16 = match dress {
        Dress::FirstFragment => 0x2000,
        Dress::LaterFragment => 3,
        Dress::Plain | Dress::Options(_) => 0,
    };
    let mut packet = vec![0x45, 0];
    packet.extend(length(20 + body.len()));
    packet.extend([0x12, 0x34]);
    packet.extend(place.to_be_bytes());
    packet.extend([64, TCP, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(body);
    packet
}

fn v6(from: &[u8; 16], to: &[u8; 16], dress: Dress, body: &[u8]) -> Vec<u8> {
    let (first, chain) = match dress {
        Dress::Plain => (TCP, Vec::new()),
        Dress::FirstFragment => (FRAGMENT, vec![TCP, 0, 0, 1, 0, 0, 0, 1]),
        Dress::LaterFragment => (FRAGMENT, vec![TCP, 0, 0, 3 << 3, 0, 0, 0, 1]),
        Dress::Options(count) => (
            DESTINATION_OPTIONS,
            (1..=count)
                .flat_map(|number| {
                    [if number == count { TCP } else { DESTINATION_OPTIONS }, 0, 1, 4, 0, 0, 0, 0]
                })
                .collect(),
        ),
    };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length(chain.len() + body.len()));
    packet.extend([first, 64]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(chain);
    packet.extend(body);
    packet
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

/// The addresses of the pod's link: the node's end and its own.
pub(crate) fn link_addresses(node: &Node, pod: &Pod) -> Result<[[u8; 6]; 2]> {
    let port = pod.port().to_owned();
    let near = node.namespace().on_thread(move || hardware(&port)?.addr().context("no link address"))?;
    let own = pod.namespace().on_thread(|| hardware("eth0")?.addr().context("no link address"))?;
    Ok([near, own])
}

/// Sends a packet by a packet socket, as a frame to the node.
pub(crate) fn by_frame(pod: &Pod, [near, own]: [[u8; 6]; 2], packet: Packet, mark: u32) -> Result<()> {
    pod.namespace().on_thread(move || {
        let kind: u16 = if packet.to.is_ipv4() { 0x0800 } else { 0x86dd };
        let frame = [&near[..], &own, &kind.to_be_bytes(), &packet.bytes].concat();
        let socket =
            socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Mark, &mark)?;
        match sendto(socket.as_raw_fd(), &frame, &hardware("eth0")?, MsgFlags::empty()) {
            // How the kernel says that a program dropped it.
            Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
            Err(error) => Err(error).context("sending a frame"),
        }
    })
}

/// Sends a packet by a raw socket that takes IP headers as they come.
pub(crate) fn by_raw_socket(pod: &Pod, packet: Packet, mark: u32) -> Result<()> {
    raw(pod, RAW, packet.to, packet.bytes, mark)
}

/// Sends a segment by a raw socket of TCP, for which the kernel writes the IP header.
pub(crate) fn by_raw_tcp(pod: &Pod, to: SocketAddr, flags: u8, words: &[u8], mark: u32) -> Result<()> {
    raw(pod, i32::from(TCP), to.ip(), segment(to.port(), flags, words), mark)
}

fn raw(pod: &Pod, protocol: i32, to: IpAddr, bytes: Vec<u8>, mark: u32) -> Result<()> {
    pod.namespace().on_thread(move || {
        let to = SocketAddr::new(to, 0);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_mark(mark)?;
        match socket.send_to(&bytes, &to.into()) {
            Ok(_) => Ok(()),
            Err(error) if dropped(&error) => Ok(()),
            Err(error) => Err(error).context("sending by a raw socket"),
        }
    })
}

/// How the kernel says that a program dropped a packet, or that a mark routes it nowhere.
fn dropped(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOBUFS | Errno::ENETUNREACH))
}

fn hardware(link: &str) -> Result<LinkAddr> {
    let mut entries = getifaddrs()?.filter(|entry| entry.interface_name == link);
    entries
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no link {link}"))
}
