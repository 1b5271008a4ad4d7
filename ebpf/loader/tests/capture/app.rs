// SPDX-License-Identifier: Apache-2.0
//! Applications: a server that says who calls, and clients with whatever options a test wants. Lines end with a newline.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::world::Space;

/// Long enough for a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Long enough for what would succeed, had it not been stopped: one SYN more than the first.
const IMPATIENCE: Duration = Duration::from_millis(1200);

/// A server that answers each line with `PEER|LINE`; `bye` ends the connection, after `raw` every byte comes back.
pub(crate) struct Server {
    listener: Socket,
}

impl Server {
    pub(crate) fn start(space: &Space, port: u16) -> Self {
        let listener = space.run(move || bound(port));
        let accepting = TcpListener::from(listener.try_clone().unwrap());
        thread::spawn(move || {
            for stream in accepting.incoming() {
                let Ok(stream) = stream else { return };
                thread::spawn(move || serve(&stream));
            }
        });
        Self { listener }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread that accepts.
        let _ended = nix::sys::socket::shutdown(
            std::os::fd::AsRawFd::as_raw_fd(&self.listener.as_fd()),
            nix::sys::socket::Shutdown::Both,
        );
    }
}

/// A dual-stack listener.
pub(crate) fn bound(port: u16) -> Socket {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_only_v6(false).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into()).unwrap();
    socket.listen(128).unwrap();
    socket
}

fn serve(stream: &TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    let peer = peer.ip().to_canonical();
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    while lines.read_line(&mut line).is_ok_and(|length| length > 0) {
        if (&*stream).write_all(format!("{peer}|{line}").as_bytes()).is_err() {
            return;
        }
        match line.trim_end() {
            "bye" => return,
            "raw" => return drop(io::copy(&mut lines, &mut &*stream)),
            _ => line.clear(),
        }
    }
}

/// A client, before it connects.
pub(crate) struct Client {
    socket: Socket,
    destination: SocketAddr,
    patience: Duration,
}

/// A connection.
pub(crate) struct Talk {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn new(space: &Space, destination: SocketAddr) -> Self {
        Self::of(space, destination, Protocol::TCP)
    }

    /// With MPTCP (RFC 8684).
    pub(crate) fn multipath(space: &Space, destination: SocketAddr) -> Self {
        Self::of(space, destination, Protocol::MPTCP)
    }

    fn of(space: &Space, destination: SocketAddr, protocol: Protocol) -> Self {
        let socket = space
            .run(|| Socket::new(Domain::for_address(destination), Type::STREAM, Some(protocol)).unwrap());
        Self { socket, destination, patience: PATIENCE }
    }

    /// For a busy server.
    pub(crate) fn patient(self) -> Self {
        Self { patience: 10 * PATIENCE, ..self }
    }

    /// Sets an option before connecting.
    pub(crate) fn with(self, option: impl FnOnce(&Socket) -> io::Result<()>) -> Self {
        option(&self.socket).unwrap();
        self
    }

    /// Whether nobody answers, or somebody says no.
    pub(crate) fn fails(self) -> bool {
        Self { patience: IMPATIENCE, ..self }.ask("hello").is_err()
    }

    pub(crate) fn connect(self) -> io::Result<Talk> {
        self.socket.connect_timeout(&self.destination.into(), self.patience)?;
        let stream = TcpStream::from(self.socket);
        stream.set_read_timeout(Some(self.patience))?;
        stream.set_nodelay(true)?;
        Ok(Talk { stream: BufReader::new(stream) })
    }

    /// Sends a line with the SYN, if the server's cookie is known.
    pub(crate) fn fast_open(self, line: &str) -> io::Result<String> {
        setsockopt(&self.socket, sockopt::TcpFastOpenConnect, &true)?;
        // Returns at once; the SYN goes with the first bytes.
        self.connect()?.ask(line)
    }

    /// One question, one answer.
    pub(crate) fn ask(self, question: &str) -> io::Result<String> {
        self.connect()?.ask(question)
    }
}

impl Talk {
    pub(crate) fn ask(&mut self, question: &str) -> io::Result<String> {
        self.tell(question)?;
        self.hear()
    }

    pub(crate) fn tell(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    pub(crate) fn hear(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    /// Sends `bytes`, reads as many back.
    pub(crate) fn echo(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut sending = self.stream.get_ref().try_clone()?;
        let mut received = vec![0; bytes.len()];
        thread::scope(|scope| {
            scope.spawn(move || sending.write_all(bytes));
            self.stream.read_exact(&mut received)
        })?;
        Ok(received)
    }
}

/// One question, one answer, over TCP.
pub(crate) fn ask(space: &Space, destination: SocketAddr) -> io::Result<String> {
    Client::new(space, destination).ask("hello")
}

/// Whether nobody answers there over TCP, or somebody says no.
pub(crate) fn refused(space: &Space, destination: SocketAddr) -> bool {
    Client::new(space, destination).fails()
}

/// A connection on which the first answer was as expected.
pub(crate) fn talk(space: &Space, destination: SocketAddr, first: &str) -> Talk {
    let mut talk = Client::new(space, destination).connect().unwrap();
    assert_eq!(talk.ask("first").unwrap(), first);
    talk
}

/// One datagram there and one back, from whom the question went to.
pub(crate) fn ask_udp(space: &Space, destination: SocketAddr, question: &str) -> io::Result<String> {
    let any: IpAddr = if destination.is_ipv4() { [0, 0, 0, 0].into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = space.run(|| UdpSocket::bind(SocketAddr::new(any, 0)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    // Connected, so that an answer from another address or port is not heard.
    socket.connect(destination)?;
    socket.send(question.as_bytes())?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}
