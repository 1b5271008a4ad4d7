// SPDX-License-Identifier: Apache-2.0
//! What the tests share: a server that carries tunnels to an application, a client side, and checksummed streams.

use hbone::{
    Abort, Cause, Connect, Connection, Copied, Counters, Head, HeaderMap, Server, Settings, Socket, Spawner,
    StatusCode, Stop, Tunnel, abort_pair, copy, handshake,
};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn spawn<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    Handle::current().spawn(task)
}

pub(crate) fn spawner() -> Spawner {
    Spawner::new(|_name, task| {
        spawn(task);
    })
}

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.unwrap_or_else(|_| panic!("waited too long: {what}"))
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    soon(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits until a number above zero has not changed for a while.
pub(crate) async fn settled(what: &str, mut number: impl FnMut() -> u64) {
    let (mut last, mut same) = (0, 0);
    until(what, || {
        let now = number();
        same = if now == last && now > 0 { same + 1 } else { 0 };
        last = now;
        same >= 100
    })
    .await;
}

pub(crate) fn head() -> Head {
    Head::new("10.0.0.1:80", HeaderMap::new()).unwrap()
}

pub(crate) fn never() -> Abort {
    abort_pair().1
}

pub(crate) fn forever() -> Stop<impl Future<Output = ()> + Send, impl Future<Output = Cause> + Send> {
    Stop { drain: std::future::pending(), force: std::future::pending() }
}

/// Two connected TCP sockets.
pub(crate) async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (connected, accepted) = (connected.unwrap(), accepted.unwrap().0);
    connected.set_nodelay(true).unwrap();
    accepted.set_nodelay(true).unwrap();
    (connected, accepted)
}

/// An application: runs `serve` for every connection.
pub(crate) async fn application<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // Where more come at once than may wait, the kernel answers by cookies, and resets a few of those that come back.
    let listener = socket.listen(4096).unwrap();
    let address = listener.local_addr().unwrap();
    spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn(serve(stream));
        }
    });
    address
}

/// Carries a tunnel to an application, as an inbound proxy does.
pub(crate) async fn carry(connect: Connect, application: SocketAddr) {
    match TcpStream::connect(application).await {
        Ok(stream) => {
            stream.set_nodelay(true).unwrap();
            if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
                copy(tunnel, Socket::new(stream), Arc::new(Counters::default()), never()).await;
            }
        }
        Err(_) => connect.refuse(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// A listener whose connections carry tunnels to `application`.
pub(crate) async fn gateway(application: SocketAddr, settings: Settings) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::new(settings, spawner());
    spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let server = server.clone();
            spawn(async move {
                server.serve(stream, forever(), move |connect| carry(connect, application)).await
            });
        }
    });
    address
}

/// Serves the other end of a fresh pipe; returns ours.
pub(crate) fn serve_pipe<F, T>(settings: Settings, handle: F) -> DuplexStream
where
    F: FnMut(Connect) -> T + Send + 'static,
    T: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let server = Server::new(settings, spawner());
    spawn(async move { server.serve(theirs, forever(), handle).await });
    ours
}

/// A connection whose driver runs.
pub(crate) async fn connection<S>(stream: S) -> Connection
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (connection, driver) = handshake(stream, &Settings::client()).await.unwrap();
    spawn(driver);
    connection
}

/// A client's end of a fresh tunnel, and the server's.
pub(crate) async fn tunnel_pair() -> (Tunnel, Tunnel) {
    let (sender, mut accepted) = tokio::sync::mpsc::channel(1);
    let pipe = serve_pipe(Settings::server(), move |connect: Connect| {
        let sender = sender.clone();
        async move {
            let tunnel = connect.accept(HeaderMap::new()).unwrap();
            sender.send(tunnel).await.unwrap();
        }
    });
    let (tunnel, _) = soon("tunnel", connection(pipe).await.connect(&head())).await.unwrap();
    (tunnel, accepted.recv().await.unwrap())
}

/// An application socket copied into a tunnel, as an outbound proxy does. Returns the application's end.
pub(crate) async fn captured(tunnel: Tunnel, abort: Abort) -> (TcpStream, Arc<Counters>, JoinHandle<Copied>) {
    let (application, near) = tcp_pair().await;
    let counters = Arc::new(Counters::default());
    let task = spawn(copy(Socket::new(near), tunnel, Arc::clone(&counters), abort));
    (application, counters, task)
}

/// A stream of bytes that differs by seed, and its running checksum (FNV-1a, 64 bits).
pub(crate) struct Pattern {
    state: u64,
    pub(crate) checksum: u64,
}

pub(crate) const EMPTY_CHECKSUM: u64 = 0xcbf2_9ce4_8422_2325;

pub(crate) fn checksum(before: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(before, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, checksum: EMPTY_CHECKSUM }
    }

    pub(crate) fn next(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            bytes.extend_from_slice(&self.state.to_le_bytes());
        }
        bytes.truncate(len);
        self.checksum = checksum(self.checksum, &bytes);
        bytes
    }
}

/// Writes `total` patterned bytes in pieces of `piece` and ends the direction; returns their checksum.
pub(crate) async fn write_pattern(
    stream: &mut (impl AsyncWrite + Unpin),
    seed: u64,
    total: usize,
    piece: usize,
) -> u64 {
    let mut pattern = Pattern::new(seed);
    let mut left = total;
    while left > 0 {
        let bytes = pattern.next(piece.min(left));
        left -= bytes.len();
        stream.write_all(&bytes).await.unwrap();
    }
    stream.shutdown().await.unwrap();
    pattern.checksum
}

/// Reads to the end; returns how much and its checksum.
pub(crate) async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> (usize, u64) {
    try_read_all(stream).await.unwrap()
}

/// The same of what may fail.
pub(crate) async fn try_read_all(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(usize, u64)> {
    let mut buffer = vec![0; 64 * 1024];
    let (mut total, mut sum) = (0, EMPTY_CHECKSUM);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok((total, sum));
        }
        total += count;
        sum = checksum(sum, &buffer[..count]);
    }
}
