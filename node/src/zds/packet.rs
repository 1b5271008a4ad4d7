// SPDX-License-Identifier: Apache-2.0
//! A `SOCK_SEQPACKET` socket: whole packets, a descriptor beside one, a deadline on each. It knows no message.
//! Tokio has no type for it; its `UnixDatagram` only lends the registration with the runtime, which is the same for
//! every unix socket.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, recv, sendmsg, socket_with,
};
use tokio::{io::Interest, net::UnixDatagram};

/// Largest packet either side may send.
pub const MAX_PACKET: usize = 1024;
/// How long one packet may take, in either direction.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// A handful of proxies at most is ever on one node.
const BACKLOG: i32 = 16;

/// Listens for packet sockets.
#[derive(Debug)]
pub struct Listener {
    socket: UnixDatagram,
}

/// One peer.
#[derive(Debug)]
pub struct Packets {
    socket: UnixDatagram,
}

impl Listener {
    /// Listens at a path, whose folder is made where needed. A socket file that is there belongs to an agent before
    /// this one: the state folder admits one agent at a time.
    ///
    /// # Errors
    /// When the path cannot be used.
    pub fn bind(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// The next peer. Cancel-safe.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub async fn accept(&self) -> io::Result<Packets> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = || Ok(accept_with(&self.socket, flags)?);
        Packets::new(self.socket.async_io(Interest::READABLE, accept).await?)
    }
}

impl Packets {
    /// Takes over a connected, non-blocking socket.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// Sends one packet, with a descriptor beside it.
    ///
    /// # Errors
    /// When the peer is gone or does not take it in time.
    pub async fn send(&self, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let sending =
            self.socket.async_io(Interest::WRITABLE, || send_packet(&self.socket, packet, descriptor));
        tokio::time::timeout(DEADLINE, sending)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next packet, within the deadline.
    ///
    /// # Errors
    /// When the peer is gone, silent, or sent more than is allowed.
    pub async fn receive(&self) -> io::Result<Vec<u8>> {
        let receiving = self.receive_whenever();
        tokio::time::timeout(DEADLINE, receiving)
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next packet, whenever it comes. Cancel-safe: a packet is taken whole or not at all.
    ///
    /// # Errors
    /// When the peer is gone, or sent more than is allowed.
    pub async fn receive_whenever(&self) -> io::Result<Vec<u8>> {
        self.socket.async_io(Interest::READABLE, || receive_packet(&self.socket)).await
    }
}

fn send_packet(socket: &UnixDatagram, packet: &[u8], descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_packet(socket: &UnixDatagram) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; MAX_PACKET];
    let (taken, length) = recv(socket, packet.as_mut_slice(), RecvFlags::TRUNC)?;
    if length > taken {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the packet is too long"));
    }
    if length == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    packet.truncate(taken);
    Ok(packet)
}
