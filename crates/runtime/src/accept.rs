// SPDX-License-Identifier: Apache-2.0
//! The one accept loop: a task per connection, a bound on how many there are, patience when the process has run out of
//! descriptors, and no new connection once the group is asked to finish. It does not know what a connection carries.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{Shutdown, Tasks};

/// Pauses while there are no descriptors or buffers left: from the first to the last, doubling.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// Connections that the kernel holds for us while we are at the limit.
const BACKLOG: i32 = 1024;

/// What a loop is called and how much it takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Name of the tasks, and of the loop in the log.
    pub name: &'static str,
    /// Connections at one time; above it new ones wait in the kernel's backlog.
    pub connections: usize,
}

/// The listener is of no use any more.
#[derive(Debug, thiserror::Error)]
#[error("cannot accept connections of {name}")]
pub struct AcceptError {
    /// Name of the loop.
    pub name: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Where connections come from.
pub trait Listener: Send + Sync {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Who is at its other end.
    type Peer: Send + 'static;

    /// The next connection. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

/// Accepts until the group is asked to finish; every connection becomes a task of the group. The listener is closed when
/// this returns, connections go on. IPv4-mapped peers are given as IPv4.
///
/// # Errors
/// When the listener itself is broken; failures of one connection are only logged.
pub async fn serve<L, H, F>(listener: L, tasks: &Tasks, limits: Limits, handle: H) -> Result<(), AcceptError>
where
    L: Listener,
    H: Fn(L::Stream, L::Peer) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let name = limits.name;
    let slots = Arc::new(Semaphore::new(limits.connections.clamp(1, Semaphore::MAX_PERMITS)));
    let shutdown = tasks.shutdown();
    let mut backoff = BACKOFF.0;
    loop {
        let Some(slot) = free_slot(&slots, &shutdown, limits).await else { return Ok(()) };
        let accepted = tokio::select! {
            biased;
            () = shutdown.requested() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                backoff = BACKOFF.0;
                drop(tasks.spawn(name, handle(stream, peer).map(move |()| drop(slot))));
            }
            Err(error) => match Trouble::of(&error) {
                Trouble::Connection => {
                    tracing::debug!(listener = name, %error, "connection lost before it was accepted")
                }
                Trouble::Exhausted => {
                    tracing::warn!(listener = name, %error, pause = ?backoff, "cannot accept, waiting");
                    tokio::select! {
                        () = shutdown.requested() => return Ok(()),
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(BACKOFF.1);
                }
                Trouble::Listener => return Err(AcceptError { name, source: error }),
            },
        }
    }
}

async fn free_slot(
    slots: &Arc<Semaphore>,
    shutdown: &Shutdown,
    limits: Limits,
) -> Option<OwnedSemaphorePermit> {
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Some(slot);
    }
    tracing::warn!(
        listener = limits.name,
        limit = limits.connections,
        "connection limit reached, new ones wait"
    );
    tokio::select! {
        () = shutdown.requested() => None,
        slot = Arc::clone(slots).acquire_owned() => slot.ok(),
    }
}

/// What an error of accept(2) is about.
enum Trouble {
    /// One connection, which is gone (accept(2) also hands out pending network errors of it).
    Connection,
    /// Descriptors or memory; passes when something is closed.
    Exhausted,
    /// The listener.
    Listener,
}

impl Trouble {
    fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => Self::Exhausted,
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EFAULT) => Self::Listener,
            Some(_) | None => Self::Connection,
        }
    }
}

/// A listener from a socket that was made elsewhere (in a pod's network namespace, with options of its own).
///
/// # Errors
/// When it cannot be made non-blocking or registered with the runtime.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// A listener on an address of this process; an IPv6 wildcard takes IPv4 too.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    adopt(socket.into())
}

/// A listener on a unix socket; a socket file that nobody listens on any more is replaced.
///
/// # Errors
/// When another process listens there, or the path cannot be written.
pub fn bind_unix(path: &std::path::Path) -> io::Result<UnixListener> {
    match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match std::os::unix::net::UnixStream::connect(path) {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
                    std::fs::remove_file(path)?;
                    UnixListener::bind(path)
                }
                Ok(_) | Err(_) => Err(error),
            }
        }
        bound => bound,
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, peer) = Self::accept(self).await?;
        Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    type Peer = tokio::net::unix::SocketAddr;

    async fn accept(&self) -> io::Result<(UnixStream, tokio::net::unix::SocketAddr)> {
        Self::accept(self).await
    }
}

#[cfg(test)]
mod tests;
