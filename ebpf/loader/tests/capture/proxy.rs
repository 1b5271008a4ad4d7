// SPDX-License-Identifier: Apache-2.0
//! A stand-in for the proxy: a process with exactly Istio's socket options and, if it is told where, claims. It says on
//! each connection which of its ports took it, and carries the rest in the open.

use std::{
    env,
    io::{self, BufRead as _, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
};

use ebpf_loader::abi::{DNS_PORT, HBONE_PORT, INBOUND_PORT, OUTBOUND_PORT, PROXY_MARK};
use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{app::PATIENCE, claim::Claims, world::Space};

/// Carries the namespace, the claim map and the name to the process.
const TASK: &str = "EBPF_TEST_PROXY";

/// A running proxy; killed when dropped.
pub(crate) struct Proxy(Child);

impl Proxy {
    /// Starts a proxy for a pod and waits until it listens. `name` is put before what it says.
    pub(crate) fn start(space: &Space, claims: Option<&Path>, name: &str) -> Self {
        let claims = claims.map(|path| path.display().to_string()).unwrap_or_default();
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["proxy_process", "--exact", "--ignored", "--nocapture"])
            .env(TASK, format!("{} {claims} {name}", space.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines.map_while(Result::ok).any(|line| line.contains("ready"));
        assert!(ready, "the proxy did not start");
        Self(child)
    }

    /// As `kill -9`.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _ended = self.0.wait();
    }
}

struct Task {
    claims: Option<Claims>,
    name: String,
    /// None that the clients' kernels choose: such a connection and the client's own would have the same ends.
    next_port: AtomicU16,
}

/// Where the first connection to an application comes from.
pub(crate) const FIRST_PORT: u16 = 10_000;

/// What the process does.
pub(crate) fn process() {
    let task = env::var_os(TASK).expect("started by a test").into_string().unwrap();
    let parts: Vec<&str> = task.split(' ').collect();
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).unwrap();
    setns(std::fs::File::open(parts[0]).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
    let claims = (!parts[1].is_empty()).then(|| Claims::open(Path::new(parts[1])).unwrap());
    let task: &'static Task = Box::leak(Box::new(Task {
        claims,
        name: parts[2].to_owned(),
        next_port: AtomicU16::new(FIRST_PORT),
    }));
    let outbound = task.listener(OUTBOUND_PORT);
    let inbound = task.listener(INBOUND_PORT);
    let hbone = task.listener(HBONE_PORT);
    thread::spawn(move || accept(&outbound, |stream| task.outbound(stream)));
    thread::spawn(move || accept(&inbound, |stream| task.inbound(stream)));
    thread::spawn(move || accept(&hbone, |stream| task.answer("hbone", stream)));
    let mut answering = Vec::new();
    for address in task.dns_addresses() {
        let streams = task.bound(address, Type::STREAM);
        streams.listen(128).unwrap();
        let streams = TcpListener::from(streams);
        thread::spawn(move || accept(&streams, |stream| task.answer("dns", stream)));
        let datagrams = UdpSocket::from(task.bound(address, Type::DGRAM));
        answering.push(thread::spawn(move || task.answer_datagrams(&datagrams)));
    }
    println!("\nready");
    answering.into_iter().for_each(|thread| thread.join().unwrap());
}

fn accept(listener: &TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        thread::spawn(move || serve(stream));
    }
}

impl Task {
    fn outbound(&self, stream: TcpStream) -> io::Result<()> {
        let destination = canonical(stream.local_addr()?);
        self.say("out", &stream)?;
        let upstream = self.socket(destination, Type::STREAM)?;
        upstream.connect_timeout(&destination.into(), PATIENCE)?;
        carry(&stream, &upstream.into())
    }

    fn inbound(&self, stream: TcpStream) -> io::Result<()> {
        let (client, destination) = (canonical(stream.peer_addr()?), canonical(stream.local_addr()?));
        if [OUTBOUND_PORT, INBOUND_PORT, HBONE_PORT].contains(&destination.port()) {
            return self.say("illegal\n", &stream);
        }
        self.say("in", &stream)?;
        let upstream = self.socket(destination, Type::STREAM)?;
        upstream.set_ip_transparent_v4(true)?;
        upstream.set_reuse_address(true)?;
        let port = self.next_port.fetch_add(1, Ordering::Relaxed);
        upstream.bind(&SocketAddr::new(client.ip(), port).into())?;
        upstream.connect_timeout(&destination.into(), PATIENCE)?;
        carry(&stream, &upstream.into())
    }

    /// Answers by itself, with the destination that was asked for.
    fn answer(&self, port: &str, stream: TcpStream) -> io::Result<()> {
        self.say(port, &stream)?;
        let destination = canonical(stream.local_addr()?);
        (&stream).write_all(format!("{}|", destination.ip()).as_bytes())?;
        let sending = stream.try_clone()?;
        pump(stream, sending)
    }

    fn answer_datagrams(&self, socket: &UdpSocket) {
        let mut question = [0; 512];
        while let Ok((length, asker)) = socket.recv_from(&mut question) {
            let text = String::from_utf8_lossy(&question[..length]).into_owned();
            // `from ADDRESS`: answer as ztunnel does, from a socket that has the address asked; else from this port.
            let answer = format!("{}dns|{text}", self.name);
            match text.strip_prefix("from ").and_then(|address| address.parse::<IpAddr>().ok()) {
                Some(address) => self.answer_from(SocketAddr::new(address, 53), canonical(asker), &answer),
                None => socket.send_to(answer.as_bytes(), asker).map(drop),
            }
            .unwrap_or_default();
        }
    }

    fn answer_from(&self, source: SocketAddr, asker: SocketAddr, answer: &str) -> io::Result<()> {
        let socket = self.socket(source, Type::DGRAM)?;
        socket.set_reuse_address(true)?;
        socket.set_ip_transparent_v4(true)?;
        socket.bind(&source.into())?;
        socket.send_to(answer.as_bytes(), &asker.into()).map(drop)
    }

    fn say(&self, port: &str, mut stream: &TcpStream) -> io::Result<()> {
        stream.write_all(format!("{}{port}|", self.name).as_bytes())
    }

    fn listener(&self, port: u16) -> TcpListener {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let socket = self.bound(any, Type::STREAM);
        socket.listen(128).unwrap();
        socket.into()
    }

    /// Everywhere; but Istio's proxy, which makes no claims, answers DNS on the loopback addresses only.
    fn dns_addresses(&self) -> Vec<SocketAddr> {
        let addresses: Vec<IpAddr> = match self.claims {
            Some(_) => vec![Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        };
        addresses.into_iter().map(|address| SocketAddr::new(address, DNS_PORT)).collect()
    }

    fn bound(&self, address: SocketAddr, kind: Type) -> Socket {
        let socket = self.socket(address, kind).unwrap();
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            socket.set_only_v6(false).unwrap();
        }
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket
    }

    fn socket(&self, address: SocketAddr, kind: Type) -> io::Result<Socket> {
        let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        socket.set_mark(PROXY_MARK)?;
        if let Some(claims) = &self.claims {
            claims.claim(&socket).map_err(io::Error::other)?;
        }
        Ok(socket)
    }
}

fn carry(one: &TcpStream, other: &TcpStream) -> io::Result<()> {
    one.set_nodelay(true)?;
    other.set_nodelay(true)?;
    let (from, to) = (other.try_clone()?, one.try_clone()?);
    let back = thread::spawn(move || pump(from, to));
    let there = pump(one.try_clone()?, other.try_clone()?);
    back.join().unwrap_or(Ok(()))?;
    there
}

fn pump(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) | Err(_) => return to.shutdown(std::net::Shutdown::Write),
            Ok(length) => to.write_all(&buffer[..length])?,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from(v4.to_bits())),
        v6 @ IpAddr::V6(_) => v6,
    };
    SocketAddr::new(ip, address.port())
}
