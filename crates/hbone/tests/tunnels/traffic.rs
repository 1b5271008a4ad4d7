// SPDX-License-Identifier: Apache-2.0
//! Many flows at once over shared connections: nobody's bytes are lost, mixed up, or held up by someone else's.

use crate::support::{
    EMPTY_CHECKSUM, Pattern, application, captured, checksum, gateway, head, never, read_all, settled, soon,
    spawn, spawner, try_read_all, tunnel_pair, until,
};
use hbone::{
    Connect, Counters, End, HeaderMap, Pool, PoolSettings, Server, Settings, Socket, copy, handshake,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

async fn echo(mut stream: TcpStream) {
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.split();
    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
        write.shutdown().await.unwrap_or_default();
    }
}

async fn dial_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_flows_at_once_arrive_unchanged() {
    let gateway = gateway(application(echo).await, Settings::server()).await;
    let pool: Pool<u8, io::Error> = Pool::new(PoolSettings::default(), spawner());
    let flows: Vec<_> = (0..1000u64)
        .map(|seed| {
            let pool = pool.clone();
            spawn(async move {
                let (tunnel, _) = pool.connect(&0, &head(), move || dial_tcp(gateway)).await.unwrap();
                let (client, counters, task) = captured(tunnel, never()).await;
                let (mut read, mut write) = client.into_split();
                // From a byte to 100 KB, in pieces of all sizes.
                let total = (seed * seed * 101 % 100_000 + 1) as usize;
                let writer = spawn(async move {
                    let mut pattern = Pattern::new(seed);
                    let mut left = total;
                    while left > 0 {
                        let bytes = pattern.next(left.min((seed % 7000 + 1) as usize));
                        left -= bytes.len();
                        write.write_all(&bytes).await.unwrap();
                    }
                    write.shutdown().await.unwrap();
                    pattern.checksum
                });
                let back = try_read_all(&mut read).await;
                let end = task.await.unwrap().end;
                assert!(matches!(end, End::Finished), "{end:?}: {back:?} of {total}");
                assert_eq!(back.unwrap(), (total, writer.await.unwrap()));
                assert_eq!((counters.sent(), counters.received()), (total as u64, total as u64));
            })
        })
        .collect();
    for flow in flows {
        soon("flow", flow).await.unwrap();
    }
    let stats = pool.stats();
    assert!(stats.connections <= 12, "{stats:?}");
    until("streams to be given back", || pool.stats().streams == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_up_nobody_on_its_connection() {
    // Applications that begin with 's' send bulk to a client that does not read; the others echo.
    let serve = |mut stream: TcpStream| async move {
        if stream.read_u8().await.unwrap_or_default() == b's' {
            let piece = vec![1; 1024 * 1024];
            while stream.write_all(&piece).await.is_ok() {}
        } else {
            echo(stream).await;
        }
    };
    let gateway = gateway(application(serve).await, Settings::server()).await;
    let (connection, driver) =
        handshake(dial_tcp(gateway).await.unwrap(), &Settings::client()).await.unwrap();
    spawn(driver);
    let mut stalled = Vec::new();
    // Ten stalled streams hold 40 MiB, more than the connection's window to begin with.
    for _ in 0..10 {
        let (tunnel, _) = soon("tunnel", connection.connect(&head())).await.unwrap();
        let (mut client, counters, task) = captured(tunnel, never()).await;
        client.write_all(b"s").await.unwrap();
        stalled.push((client, counters, task));
    }
    let received = || stalled.iter().map(|(_, counters, _)| counters.received()).sum();
    settled("all to stall", received).await;
    for seed in 0..20 {
        let (tunnel, _) = soon("tunnel", connection.connect(&head())).await.unwrap();
        let (mut client, ..) = captured(tunnel, never()).await;
        client.write_all(b"e").await.unwrap();
        let bytes = Pattern::new(seed).next(300_000);
        let (mut read, mut write) = client.split();
        let mut back = vec![0; bytes.len()];
        let (wrote, read) =
            soon("echo", async { tokio::join!(write.write_all(&bytes), read.read_exact(&mut back)) }).await;
        wrote.unwrap();
        read.unwrap();
        assert_eq!(back, bytes);
    }
    assert!(stalled.iter().all(|(.., task)| !task.is_finished()));
}

/// Two connected sockets whose buffers are as small as the kernel allows, for what the second one sends.
async fn small_tcp_pair() -> (TcpStream, TcpStream) {
    let listening = TcpSocket::new_v4().unwrap();
    listening.set_send_buffer_size(1).unwrap();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = listening.listen(1).unwrap();
    let connecting = TcpSocket::new_v4().unwrap();
    connecting.set_recv_buffer_size(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (connected, accepted) = tokio::join!(connecting.connect(address), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn many_tiny_writes_to_a_slow_reader_do_not_end_the_connection() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, near) = small_tcp_pair().await;
    let task = spawn(copy(Socket::new(near), tunnel, Arc::new(Counters::default()), never()));
    // More than the two sockets hold: everything after it has to wait.
    server.write_all(&vec![0; 1024 * 1024]).await.unwrap();
    let (mut read, mut write) = tokio::io::split(server);
    // 200,000 frames of a byte: 51 MB of overhead, three times the budget.
    let writer = spawn(async move {
        for count in 0..200_000u32 {
            write.write_all(&[count as u8]).await.unwrap();
            write.flush().await.unwrap();
            if count % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        write.shutdown().await.unwrap();
    });
    soon("all written while nobody reads", writer).await.unwrap();
    let mut tail: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let count = soon("bytes", client.read(&mut buffer)).await.unwrap();
        if count == 0 {
            break;
        }
        tail.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(tail.len(), 1024 * 1024 + 200_000);
    let tiny = tail.iter().skip(tail.len() - 200_000);
    assert!(tiny.enumerate().all(|(count, byte)| *byte == count as u8));
    client.shutdown().await.unwrap();
    assert_eq!(soon("end", read.read(&mut buffer)).await.unwrap(), 0);
    assert!(matches!(soon("copy", task).await.unwrap().end, End::Finished));
}

/// Records what is written, as the wire would see it.
struct Tap<S> {
    stream: S,
    written: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<usize>>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let count = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, buf))?;
        self.written.lock().extend_from_slice(&buf[..count]);
        *self.writes.lock() += 1;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// DATA frames by stream: payload lengths, and whether the last one ended it.
fn data_frames(mut wire: &[u8]) -> HashMap<u32, (Vec<usize>, bool)> {
    let mut streams: HashMap<u32, (Vec<usize>, bool)> = HashMap::new();
    while let [l0, l1, l2, kind, flags, s0, s1, s2, s3, rest @ ..] = wire {
        let len = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        if *kind == 0 {
            let (lengths, ended) = streams.entry(u32::from_be_bytes([*s0, *s1, *s2, *s3])).or_default();
            lengths.push(len);
            *ended = flags & 1 == 1;
        }
        wire = rest.get(len..).unwrap_or_default();
    }
    streams
}

#[tokio::test]
async fn no_empty_frame_is_sent_but_the_one_that_ends_a_stream() {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let (written, writes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let tap = Tap { stream: ours, written: Arc::clone(&written), writes: Arc::clone(&writes) };
    spawn(async move {
        let echo = |connect: Connect| async move {
            let (near, mut application) = crate::support::tcp_pair().await;
            let tunnel = connect.accept(HeaderMap::new()).unwrap();
            spawn(copy(tunnel, Socket::new(near), Arc::new(Counters::default()), never()));
            let (mut read, mut write) = application.split();
            tokio::io::copy(&mut read, &mut write).await.unwrap();
            write.shutdown().await.unwrap();
        };
        Server::new(Settings::server(), spawner()).serve(theirs, crate::support::forever(), echo).await
    });
    let connection = crate::support::connection(tap).await;
    for round in 0..20u64 {
        let (mut tunnel, _) = soon("tunnel", connection.connect(&head())).await.unwrap();
        if round % 2 == 0 {
            // As a stream of its own, with empty writes in between.
            for _ in 0..20 {
                tunnel.write_all(b"").await.unwrap();
                tunnel.write_all(b"word").await.unwrap();
                tunnel.flush().await.unwrap();
            }
            tunnel.shutdown().await.unwrap();
            soon("echo", tunnel.read_to_end(&mut Vec::new())).await.unwrap();
        } else {
            let (mut client, _, task) = captured(tunnel, never()).await;
            client.write_all(&Pattern::new(round).next(10_000)).await.unwrap();
            client.shutdown().await.unwrap();
            soon("echo", client.read_to_end(&mut Vec::new())).await.unwrap();
            soon("copy", task).await.unwrap();
        }
    }
    let wire = written.lock();
    let streams = data_frames(&wire[24..]);
    assert_eq!(streams.len(), 20);
    for (lengths, ended) in streams.values() {
        assert!(*ended);
        let (_, before) = lengths.split_last().unwrap();
        assert!(before.iter().all(|len| *len > 0), "{lengths:?}");
    }
}

#[tokio::test]
async fn messages_that_are_ready_together_leave_in_one_write() {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let (written, writes) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(0)));
    let tap = Tap { stream: ours, written, writes: Arc::clone(&writes) };
    spawn(async move {
        let sink = |connect: Connect| async move {
            let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
            assert_eq!(read_all(&mut tunnel).await.0, 1500);
            tunnel.shutdown().await.unwrap();
        };
        Server::new(Settings::server(), spawner()).serve(theirs, crate::support::forever(), sink).await
    });
    let connection = crate::support::connection(tap).await;
    let mut tunnels = Vec::new();
    for _ in 0..10 {
        tunnels.push(soon("tunnel", connection.connect(&head())).await.unwrap().0);
    }
    let before = *writes.lock();
    for tunnel in &mut tunnels {
        tunnel.write_all(&[1; 1500]).await.unwrap();
        tunnel.shutdown().await.unwrap();
    }
    for tunnel in &mut tunnels {
        soon("end", tunnel.read_to_end(&mut Vec::new())).await.unwrap();
    }
    let after = *writes.lock();
    assert!(after - before <= 2, "{} writes", after - before);
}

#[test]
fn checksums_tell_streams_apart() {
    let (one, two) = (Pattern::new(1).next(100), Pattern::new(2).next(100));
    assert_ne!(checksum(EMPTY_CHECKSUM, &one), checksum(EMPTY_CHECKSUM, &two));
}
