// SPDX-License-Identifier: Apache-2.0
//! Frames: read off the bridge's ports, and sent as a hostile process with CAP_NET_RAW would.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt,
        socket, sockopt,
    },
};

use crate::{
    app::PATIENCE,
    world::{Space, World},
};

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;

/// Numbers what is sent to mark a moment: each passes several ports of the bridge and is seen as often.
static FLARES: AtomicU32 = AtomicU32::new(1000);

/// Listens to every frame on the bridge.
pub(crate) struct Wire {
    socket: OwnedFd,
}

impl Wire {
    pub(crate) fn tap(world: &World) -> Self {
        let socket = world.fabric().run(packet_socket);
        let wait = nix::sys::time::TimeVal::new(0, 50_000);
        setsockopt(&socket, sockopt::ReceiveTimeout, &wait).unwrap();
        setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)).unwrap();
        Self { socket }
    }

    /// Whether a frame held `wanted` up to now. Now is when a datagram arrives that is sent from one space to the other,
    /// on the way that such a frame would have taken.
    pub(crate) fn saw_before_now(&self, wanted: &str, (from, to): (&Space, &Space)) -> bool {
        let end = format!("now {}", FLARES.fetch_add(1, Ordering::Relaxed));
        flare(from, to, &end);
        let mut saw = false;
        let deadline = Instant::now() + PATIENCE;
        let mut frame = vec![0; 70_000];
        while Instant::now() < deadline {
            let Ok(length) = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
            saw |= holds(&frame[..length], wanted);
            if holds(&frame[..length], &end) {
                return saw;
            }
        }
        panic!("{end:?} was not seen on the wire");
    }
}

fn holds(frame: &[u8], text: &str) -> bool {
    frame.windows(text.len()).any(|window| window == text.as_bytes())
}

fn packet_socket() -> OwnedFd {
    socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
}

/// A packet socket in a pod.
pub(crate) struct Forger {
    space: Space,
    socket: OwnedFd,
    device: LinkAddr,
}

impl Forger {
    pub(crate) fn new(space: &Space, device: &str) -> Self {
        let (socket, device) = space.run(|| (packet_socket(), link(device)));
        Self { space: space.clone(), socket, device }
    }

    pub(crate) fn mark(self, mark: u32) -> Self {
        setsockopt(&self.socket, sockopt::Mark, &mark).unwrap();
        self
    }

    /// Sends a packet to whom `to` is on the bridge.
    pub(crate) fn send(&self, to: &Space, kind: Option<u16>, packet: &[u8]) {
        let kind = kind.unwrap_or(if packet[0] >> 4 == 4 { IPV4 } else { IPV6 });
        let mut frame = Vec::new();
        frame.extend(to.run(|| link("eth0")).addr().unwrap());
        frame.extend(self.space.run(|| link("eth0")).addr().unwrap());
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        self.put(&frame);
    }

    /// Sends a packet on `lo`.
    pub(crate) fn loop_back(&self, packet: &[u8]) {
        let kind = if packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        self.put(&frame);
    }

    fn put(&self, frame: &[u8]) {
        match sendto(self.socket.as_raw_fd(), frame, &self.device, MsgFlags::empty()) {
            // How the kernel says that a program dropped it.
            Ok(_) | Err(nix::Error::ENOBUFS) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn link(device: &str) -> LinkAddr {
    let of_device = getifaddrs().unwrap().filter(|entry| entry.interface_name == device);
    of_device.filter_map(|entry| entry.address?.as_link_addr().copied()).next().unwrap()
}

/// An IP packet; `fragment` is the offset in units of eight bytes and whether more follow.
pub(crate) fn ip(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    fragment: Option<(u16, bool)>,
    body: &[u8],
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let (offset, more) = fragment.unwrap_or_default();
            let place = offset | u16::from(more) << 13;
            let mut packet = vec![0x45, 0];
            packet.extend((20 + body.len() as u16).to_be_bytes());
            packet.extend([0x12, 0x34]);
            packet.extend(place.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet.extend(body);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut chain = Vec::new();
            let mut first = protocol;
            if let Some((offset, more)) = fragment {
                first = 44;
                chain.extend([protocol, 0]);
                chain.extend((offset << 3 | u16::from(more)).to_be_bytes());
                chain.extend([0, 0, 0, 1]);
            }
            chain.extend(body);
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((chain.len() as u16).to_be_bytes());
            packet.extend([first, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(chain);
            packet
        }
        _ => panic!("two families"),
    }
}

/// `count` IPv6 destination options before a body of `protocol`; the packet's own protocol is then 60.
pub(crate) fn options(count: usize, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut chain = Vec::new();
    for number in 1..=count {
        chain.extend([if number == count { protocol } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    chain.extend(body);
    chain
}

/// A TCP segment.
pub(crate) fn tcp(ports: (u16, u16), flags: u8, body: &str) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(ports.0.to_be_bytes());
    segment.extend(ports.1.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(body.as_bytes());
    segment
}

/// A TCP segment whose checksum is right, as the kernel that receives it wants.
pub(crate) fn summed_tcp(source: IpAddr, destination: IpAddr, ports: (u16, u16), flags: u8) -> Vec<u8> {
    let mut segment = tcp(ports, flags, "");
    let mut pseudo = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => pseudo.extend(v4.octets()),
            IpAddr::V6(v6) => pseudo.extend(v6.octets()),
        }
    }
    pseudo.extend([0, TCP]);
    pseudo.extend((segment.len() as u16).to_be_bytes());
    pseudo.extend(&segment);
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    ip(source, destination, TCP, None, &segment)
}

/// A UDP datagram.
pub(crate) fn udp(ports: (u16, u16), body: &str) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(ports.0.to_be_bytes());
    datagram.extend(ports.1.to_be_bytes());
    datagram.extend((8 + body.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(body.as_bytes());
    datagram
}

fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Sends a datagram that nobody captures, so that a test can tell that all before it has passed.
pub(crate) fn flare(from: &Space, to: &Space, text: &str) {
    from.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(text.as_bytes(), (to.v4, 9)).unwrap();
    });
}
