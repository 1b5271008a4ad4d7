// SPDX-License-Identifier: Apache-2.0
//! DNS questions of the applications (port 15053): names of the mesh are answered here, the others are passed on.

pub mod message;

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::Hostname;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use parking_lot::Mutex;
use plan::{
    Answer,
    dns::{Reply, Settings},
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
};

use self::message::Asked;
use crate::{
    ask::{PATIENCE, ask_plain},
    pod::Shard,
    resolver::{Transport, read_message, write_message},
    socket::{Capture, canonical},
};

/// Target of the DNS log.
const TARGET: &str = "dns";
/// Questions of one pod under way; more are dropped, as a busy server does.
const QUESTIONS: usize = 1024;
/// Connections of one pod.
const CONNECTIONS: usize = 256;
/// An idle connection is closed after.
const IDLE: Duration = Duration::from_secs(5);
/// Sockets that answer in the name of servers, kept per pod.
const ANSWERERS: usize = 16;

/// The sockets of one pod.
pub struct Listeners {
    /// Streams.
    pub tcp: TcpListener,
    /// Datagrams.
    pub udp: UdpSocket,
}

/// Starts to answer.
pub fn serve(shard: Arc<Shard>, listeners: Listeners) {
    let Listeners { tcp, udp } = listeners;
    let tasks = shard.tasks.clone();
    let streams = Arc::clone(&shard);
    drop(tasks.clone().spawn("dns tcp", {
        let tasks = tasks.clone();
        async move {
            let limits = runtime::accept::Limits { name: "dns tcp", connections: CONNECTIONS };
            let served = runtime::accept::serve(tcp, &tasks, limits, |stream: TcpStream, peer| {
                converse(Arc::clone(&streams), stream, peer)
            });
            if let Err(error) = served.await {
                tracing::error!(error = %crate::record::chain(&error), "a listener failed");
            }
        }
    }));
    drop(tasks.spawn("dns udp", datagrams(shard, udp)));
}

async fn converse(shard: Arc<Shard>, mut stream: TcpStream, peer: SocketAddr) {
    while let Ok(Ok(question)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await {
        let Some(answer) = answer(&shard, &question, Transport::Tcp, peer).await else { return };
        if let Err(error) = write_message(&mut stream, &answer).await {
            tracing::debug!(%error, "a DNS client left");
            return;
        }
    }
}

/// Answers each datagram from the address that it was sent to.
async fn datagrams(shard: Arc<Shard>, socket: UdpSocket) {
    let socket = Arc::new(socket);
    let room = Arc::new(Semaphore::new(QUESTIONS));
    let answerers = Arc::new(Mutex::new(HashMap::new()));
    let shutdown = shard.tasks.shutdown();
    loop {
        let received = tokio::select! {
            biased;
            () = shutdown.requested() => return,
            received = socket.async_io(Interest::READABLE, || receive(&socket)) => received,
        };
        let datagram = match received {
            Ok(datagram) => datagram,
            Err(error) => {
                tracing::debug!(%error, "a DNS datagram was lost");
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
        let (shard, socket, answerers) = (Arc::clone(&shard), Arc::clone(&socket), Arc::clone(&answerers));
        drop(shard.tasks.clone().spawn("dns question", async move {
            let _permit = permit;
            let Some(answer) = answer(&shard, &datagram.bytes, Transport::Udp, datagram.source).await else {
                return;
            };
            if let Err(error) = reply(&shard, &socket, &answerers, &datagram, &answer).await {
                tracing::debug!(%error, "a DNS answer was lost");
            }
        }));
    }
}

struct Datagram {
    bytes: Vec<u8>,
    /// As the socket knows it: IPv4-mapped on a dual-stack one.
    raw_source: SocketAddr,
    source: SocketAddr,
    destination: Option<SocketAddr>,
}

fn receive(socket: &UdpSocket) -> io::Result<Datagram> {
    let mut bytes = vec![0; 4096];
    let mut control = nix::cmsg_space!(nix::libc::sockaddr_in6);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<SockaddrStorage>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let destination = received.cmsgs()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(address) => {
            let ip = std::net::Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(address.sin_port)))
        }
        ControlMessageOwned::Ipv6OrigDstAddr(address) => {
            let ip = std::net::Ipv6Addr::from(address.sin6_addr.s6_addr);
            Some(canonical(SocketAddr::new(ip.into(), u16::from_be(address.sin6_port))))
        }
        _ => None,
    });
    let raw_source =
        received.address.and_then(|address| socket_address(&address)).ok_or(io::ErrorKind::InvalidData)?;
    let length = received.bytes;
    bytes.truncate(length);
    Ok(Datagram { bytes, raw_source, source: canonical(raw_source), destination })
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(v4), _) => Some(SocketAddr::from(std::net::SocketAddrV4::from(*v4))),
        (None, Some(v6)) => Some(SocketAddr::from(std::net::SocketAddrV6::from(*v6))),
        (None, None) => None,
    }
}

type Answerers = Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>;

/// The application asked a server and must hear that server, so the answer leaves from its address. Where netfilter
/// rewrote the destination it rewrites the answer's source too.
async fn reply(
    shard: &Shard,
    socket: &UdpSocket,
    answerers: &Answerers,
    datagram: &Datagram,
    answer: &[u8],
) -> io::Result<()> {
    let (Capture::InPlace, Some(server)) = (shard.pod.node.capture, datagram.destination) else {
        socket.send_to(answer, datagram.raw_source).await?;
        return Ok(());
    };
    let known = answerers.lock().get(&server).cloned();
    let from = match known {
        Some(from) => from,
        None => {
            let made = Arc::new(shard.pod.sockets.answer_from(server)?);
            let mut kept = answerers.lock();
            if kept.len() >= ANSWERERS {
                kept.clear();
            }
            kept.insert(server, Arc::clone(&made));
            made
        }
    };
    from.send_to(answer, datagram.source).await?;
    Ok(())
}

/// The whole way of one question; nothing for what is no question.
async fn answer(shard: &Shard, bytes: &[u8], transport: Transport, client: SocketAddr) -> Option<Vec<u8>> {
    let began = Instant::now();
    let asked = Asked::parse(bytes)?;
    let query = asked.query();
    metrics::counter!(
        "istio_dns_requests_total",
        "request_query_type" => asked.label(), "request_protocol" => transport.as_str()
    )
    .increment(1);
    let (answer, outcome) = match decide(shard, &asked).await {
        Some(Reply::Records { alias, addresses }) => {
            (asked.records(alias.as_ref(), &addresses, transport), "mesh")
        }
        Some(Reply::Forward) => match shard.pod.node.resolver.forward(bytes, transport).await {
            Ok(answer) => (Some(answer), "forwarded"),
            Err(_error) => (asked.failure(transport), "no answer"),
        },
        None => (asked.failure(transport), "unknown client"),
    };
    tracing::debug!(
        target: TARGET, %client, name = %query.name, kind = %query.query_type, outcome,
        duration = ?began.elapsed(), "question answered"
    );
    answer
}

/// `None`: the client is not known in time.
async fn decide(shard: &Shard, asked: &Asked) -> Option<Reply> {
    let node = &shard.pod.node;
    let Some(question) = asked.question(rand::random()) else { return Some(Reply::Forward) };
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let settings = &node.dns;
    ask_plain(&node.replica, deadline, |index| -> Answer<Reply> {
        plan::dns::answer(index, shard.pod.local(), settings, &question)
    })
    .await
    .ok()
}

/// What the DNS proxy of every pod is told.
pub fn settings(config: &crate::config::Config, search: &[Hostname]) -> Option<Settings> {
    Some(Settings {
        cluster_domain: Hostname::parse(&config.cluster_domain).ok()?,
        search: search.to_vec(),
        preferred_namespace: config.preferred_namespace.as_deref().map(Into::into),
        ipv6: config.proxy.ipv6,
    })
}
