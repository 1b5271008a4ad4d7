// SPDX-License-Identifier: Apache-2.0
//! Sockets inside a pod, with the options that Istio's node proxy sets, so that either capture (Ambit's programs or
//! istio-cni's rules) recognises them: mark 1337 on all, transparent listeners, a foreign source address upstream.
//! Where the node agent offers its claim map every socket is claimed too: a mark is no proof, a claim is.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    sync::Arc,
    time::Duration,
};

use ebpf_claim::Claims;
use nix::sys::socket::{
    setsockopt,
    sockopt::{IpBindAddressNoPort, Ipv4OrigDstAddr, Ipv6OrigDstAddr},
};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use crate::{netns::Netns, ports::SourcePorts};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;
/// A peer that does not answer a SYN for so long is not there.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that the kernel keeps for a peer beside those on their way. Without such a bound it keeps as many as its buffer grows
/// to, and asks for more only when a third of it is free: many slow readers then cost a burst instead of a trickle.
const UNSENT: u32 = 32 * 1024;

/// What every socket of this process gets.
#[derive(Debug)]
pub struct SocketOptions {
    /// `SO_MARK` (env `PACKET_MARK`).
    pub mark: Option<u32>,
    /// Keepalive of both application and mesh sockets.
    pub keepalive: Option<Keepalive>,
    /// Whether listeners are dual stack.
    pub ipv6: bool,
    /// `SO_REUSEPORT`: an upgraded process binds beside the old one.
    pub port_reuse: bool,
    /// How sockets are proven to be ours.
    pub claims: Option<Claims>,
}

/// TCP keepalive (env `KEEPALIVE_*`).
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Idle time before the first probe.
    pub time: Duration,
    /// Time between probes.
    pub interval: Duration,
    /// Probes without an answer before the connection is dropped.
    pub retries: u32,
    /// Whether `TCP_USER_TIMEOUT` is set to the sum of all that.
    pub user_timeout: bool,
}

/// Makes sockets in one pod's namespace.
#[derive(Clone, Debug)]
pub struct Sockets {
    pod: Netns,
    home: Netns,
    options: Arc<SocketOptions>,
    ports: Arc<SourcePorts>,
}

impl Sockets {
    /// For a pod.
    pub fn new(pod: Netns, home: Netns, options: Arc<SocketOptions>) -> Self {
        Self { pod, home, options, ports: Arc::new(SourcePorts::new(rand::random())) }
    }

    /// Source ports of [`Self::connect_from`].
    pub fn ports(&self) -> &Arc<SourcePorts> {
        &self.ports
    }

    /// The pod's namespace.
    pub fn netns(&self) -> &Netns {
        &self.pod
    }

    /// A transparent TCP listener on every address of the pod. What it accepts has its options.
    ///
    /// # Errors
    /// When the port is taken or an option is refused.
    pub fn listen(&self, port: u16) -> io::Result<TcpListener> {
        let socket = self.bound(Type::STREAM, Protocol::TCP, port)?;
        prompt(&socket)?;
        self.keep_alive(&socket)?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    }

    /// A transparent UDP socket on every address of the pod, which tells each datagram's original destination.
    ///
    /// # Errors
    /// When the port is taken or an option is refused.
    pub fn listen_udp(&self, port: u16) -> io::Result<UdpSocket> {
        let socket = self.bound(Type::DGRAM, Protocol::UDP, port)?;
        let raw = socket.as_fd();
        setsockopt(&raw, Ipv4OrigDstAddr, &true)?;
        if self.options.ipv6 {
            setsockopt(&raw, Ipv6OrigDstAddr, &true)?;
        }
        UdpSocket::from_std(socket.into())
    }

    /// A UDP socket that sends from an address which is not the pod's: the server that the application asked.
    ///
    /// # Errors
    /// When an option is refused.
    pub fn answer_from(&self, source: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.made(Domain::for_address(source), Type::DGRAM, Protocol::UDP)?;
        socket.set_reuse_address(true)?;
        socket.set_ip_transparent_v4(true)?;
        socket.bind(&source.into())?;
        UdpSocket::from_std(socket.into())
    }

    /// Connects from the pod's own address.
    ///
    /// # Errors
    /// When the peer refuses, does not answer in [`CONNECT_TIMEOUT`], or the socket cannot be made.
    pub async fn connect(&self, destination: SocketAddr) -> io::Result<TcpStream> {
        let socket = self.made(Domain::for_address(destination), Type::STREAM, Protocol::TCP)?;
        prompt(&socket)?;
        self.keep_alive(&socket)?;
        dial(socket, destination).await
    }

    /// Connects to the application in the pod from the client's address; see [`crate::ports`].
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_from(&self, source: IpAddr, destination: SocketAddr) -> io::Result<TcpStream> {
        for port in self.ports.candidates(source) {
            let socket = self.disguised(destination)?;
            let connected = match socket.bind(&SocketAddr::new(source, port).into()) {
                Ok(()) => dial(socket, destination).await,
                Err(error) => Err(error),
            };
            match connected {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable) => {
                }
                other => return other,
            }
        }
        let socket = self.disguised(destination)?;
        // The port is chosen at connect, by the whole tuple: a port per client address would run out early.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        dial(socket, destination).await
    }

    /// A socket for a connection inside the pod from an address that is not the pod's. It is not kept alive: an end that
    /// shares its kernel with the other is never silent.
    fn disguised(&self, destination: SocketAddr) -> io::Result<Socket> {
        let socket = self.made(Domain::for_address(destination), Type::STREAM, Protocol::TCP)?;
        prompt(&socket)?;
        // It allows any source, as IP_FREEBIND does.
        socket.set_ip_transparent_v4(true)?;
        socket.set_reuse_address(true)?;
        Ok(socket)
    }

    fn bound(&self, kind: Type, protocol: Protocol, port: u16) -> io::Result<Socket> {
        let (domain, any): (_, IpAddr) = if self.options.ipv6 {
            (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into())
        } else {
            (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into())
        };
        let socket = self.made(domain, kind, protocol)?;
        if self.options.ipv6 {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        if self.options.port_reuse {
            socket.set_reuse_port(true)?;
        }
        // On an IPv6 socket this sets IPV6_TRANSPARENT too.
        socket.set_ip_transparent_v4(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        Ok(socket)
    }

    fn made(&self, domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let socket = self
            .pod
            .run(&self.home, || Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol)))??;
        if let Some(mark) = self.options.mark {
            socket.set_mark(mark)?;
        }
        if let Some(claims) = &self.options.claims {
            claims.claim(&socket).map_err(io::Error::other)?;
        }
        Ok(socket)
    }

    fn keep_alive(&self, socket: &Socket) -> io::Result<()> {
        let Some(keepalive) = self.options.keepalive else { return Ok(()) };
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(keepalive.time)
                .with_interval(keepalive.interval)
                .with_retries(keepalive.retries),
        )?;
        if keepalive.user_timeout {
            socket.set_tcp_user_timeout(Some(keepalive.time + keepalive.interval * keepalive.retries))?;
        }
        Ok(())
    }
}

/// What is written leaves at once, and no more waits in the kernel than is of use.
fn prompt(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)
}

async fn dial(socket: Socket, destination: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket.into());
    match tokio::time::timeout(CONNECT_TIMEOUT, socket.connect(destination)).await {
        Ok(result) => result,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Where the application wanted to go. istio-cni's rules rewrite the destination and conntrack remembers it; Ambit's
/// programs leave it in place, so there it is the accepted socket's own address.
///
/// # Errors
/// When the connection is gone already.
pub fn original_destination(stream: &TcpStream, capture: Capture) -> io::Result<SocketAddr> {
    if let Capture::Redirected = capture {
        let socket = SockRef::from(stream);
        if let Some(address) = socket
            .original_dst_v4()
            .or_else(|_| socket.original_dst_v6())
            .ok()
            .and_then(|address| address.as_socket())
        {
            return Ok(canonical(address));
        }
    }
    Ok(canonical(stream.local_addr()?))
}

/// Who brings connections to the listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capture {
    /// Programs that leave the destination in place.
    InPlace,
    /// Rules that rewrite it (netfilter REDIRECT).
    Redirected,
}

/// The IPv4 address inside an IPv4-mapped IPv6 one.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
