// SPDX-License-Identifier: Apache-2.0
//! One flow: its ends, its counts, its failures.

use crate::support::{
    captured, head, never, read_all, serve_pipe, settled, soon, spawn, spawner, tcp_pair, tunnel_pair,
    write_pattern,
};
use hbone::{
    Cause, Connect, Copying, Counters, End, HeaderMap, Pool, PoolSettings, Settings, Side, Socket, Tunnel,
    TunnelError, abort_pair, copy,
};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn a_client_that_has_finished_still_receives() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, counters, task) = captured(tunnel, never()).await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    let mut question = Vec::new();
    soon("question", server.read_to_end(&mut question)).await.unwrap();
    assert_eq!(question, b"question");
    // The other direction is still open, and used only now.
    server.write_all(b"late answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    soon("answer", client.read_to_end(&mut answer)).await.unwrap();
    assert_eq!(answer, b"late answer");
    let copied = soon("copy", task).await.unwrap();
    assert!(matches!(copied.end, End::Finished), "{copied:?}");
    assert!(copied.delivered());
    assert_eq!((copied.sent, copied.received), (8, 11));
    assert_eq!((counters.sent(), counters.received()), (8, 11));
}

#[tokio::test]
async fn a_server_that_has_finished_still_receives() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, _, task) = captured(tunnel, never()).await;
    server.write_all(b"greeting").await.unwrap();
    server.shutdown().await.unwrap();
    let mut greeting = Vec::new();
    soon("greeting", client.read_to_end(&mut greeting)).await.unwrap();
    assert_eq!(greeting, b"greeting");
    client.write_all(b"thanks").await.unwrap();
    client.shutdown().await.unwrap();
    let mut thanks = Vec::new();
    soon("thanks", server.read_to_end(&mut thanks)).await.unwrap();
    assert_eq!(thanks, b"thanks");
    assert!(matches!(soon("copy", task).await.unwrap().end, End::Finished));
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, _, _task) = captured(tunnel, never()).await;
    server.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    soon("greeting", client.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
}

#[tokio::test]
async fn bulk_arrives_unchanged_in_both_directions_at_once() {
    let (tunnel, server) = tunnel_pair().await;
    let (client, _, task) = captured(tunnel, never()).await;
    let (mut application, near) = tcp_pair().await;
    let inbound = spawn(copy(server, Socket::new(near), Arc::new(Counters::default()), never()));
    let total = 24 * 1024 * 1024 + 7;
    let (mut client_read, mut client_write) = client.into_split();
    let client_side = spawn(async move {
        tokio::join!(read_all(&mut client_read), write_pattern(&mut client_write, 1, total, 100_003))
    });
    let (mut read, mut write) = application.split();
    let (there, back) = tokio::join!(read_all(&mut read), write_pattern(&mut write, 2, total, 777_777));
    let (received, sent) = soon("client", client_side).await.unwrap();
    assert_eq!(there, (total, sent));
    assert_eq!(received, (total, back));
    for task in [task, inbound] {
        let copied = soon("copy", task).await.unwrap();
        assert!(matches!(copied.end, End::Finished), "{copied:?}");
        assert_eq!((copied.sent, copied.received), (total as u64, total as u64));
    }
}

#[tokio::test]
async fn two_sockets_are_copied_without_a_tunnel() {
    let ((client, near), (far, application)) = (tcp_pair().await, tcp_pair().await);
    let task = spawn(copy(Socket::new(near), Socket::new(far), Arc::new(Counters::default()), never()));
    let total = 16 * 1024 * 1024 + 1;
    let talk = |mut stream: TcpStream, seed| async move {
        let (mut read, mut write) = stream.split();
        tokio::join!(read_all(&mut read), write_pattern(&mut write, seed, total, 50_000))
    };
    let ((received, sent), (there, back)) = tokio::join!(talk(client, 3), talk(application, 4));
    assert_eq!(there, (total, sent));
    assert_eq!(received, (total, back));
    assert!(matches!(soon("copy", task).await.unwrap().end, End::Finished));
}

#[tokio::test]
async fn an_aborted_copy_says_why_and_looks_like_a_failure_to_both_ends() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (aborter, abort) = abort_pair();
    let (mut client, _, task) = captured(tunnel, abort).await;
    client.write_all(b"x").await.unwrap();
    soon("first byte", server.read_u8()).await.unwrap();
    assert!(aborter.abort(Cause("policy change")));
    assert!(!aborter.abort(Cause("drain")), "the first cause counts");
    let copied = soon("copy", task).await.unwrap();
    assert!(matches!(copied.end, End::Aborted(Cause("policy change"))), "{copied:?}");
    assert_eq!(copied.sent, 1);
    let seen = soon("client's end", client.read_u8()).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
    let seen = soon("server's end", server.read_u8()).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn an_application_that_resets_is_seen_as_reset_at_the_other_end() {
    let (tunnel, server) = tunnel_pair().await;
    let (client, _, task) = captured(tunnel, never()).await;
    let (mut application, near) = tcp_pair().await;
    let inbound = spawn(copy(server, Socket::new(near), Arc::new(Counters::default()), never()));
    client.set_zero_linger().unwrap();
    drop(client);
    let copied = soon("copy", task).await.unwrap();
    assert!(matches!(copied.end, End::Failed { side: Side::Near, .. }), "{copied:?}");
    assert!(!copied.delivered());
    let copied = soon("inbound copy", inbound).await.unwrap();
    let End::Failed { side: Side::Near, source } = &copied.end else { panic!("{copied:?}") };
    assert!(matches!(TunnelError::of(source), Some(TunnelError::Reset { .. })), "{source:?}");
    let seen = soon("application's end", application.read_u8()).await.unwrap_err();
    assert_eq!(seen.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_dropped_tunnel_is_an_end_of_data_to_its_peer() {
    let (tunnel, server) = tunnel_pair().await;
    let (mut client, _, task) = captured(tunnel, never()).await;
    // Dropping resets with CANCEL, which ends as Istio's do.
    drop(server);
    assert_eq!(soon("end", client.read(&mut [0; 1])).await.unwrap(), 0);
    client.shutdown().await.unwrap();
    assert!(matches!(soon("copy", task).await.unwrap().end, End::Finished));
}

#[tokio::test]
async fn a_peer_that_leaves_after_its_end_of_data_ends_the_copy() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, _, task) = captured(tunnel, never()).await;
    server.shutdown().await.unwrap();
    assert_eq!(soon("end", client.read(&mut [0; 1])).await.unwrap(), 0);
    // The application says nothing; only the stream's reset can end this.
    server.reset();
    let copied = soon("copy", task).await.unwrap();
    assert!(matches!(copied.end, End::Failed { side: Side::Far, .. }), "{copied:?}");
}

#[tokio::test]
async fn credit_is_given_only_for_what_the_application_took() {
    let (tunnel, mut server) = tunnel_pair().await;
    let (mut client, counters, _task) = captured(tunnel, never()).await;
    let window = u64::from(Settings::client().stream_window);
    let writer = spawn(async move {
        let piece = vec![7; 64 * 1024];
        while server.write_all(&piece).await.is_ok() {}
    });
    // The application does not read: its socket buffers fill, then the window, then the server must stop.
    settled("the flow to stop", || counters.received()).await;
    assert!(!writer.is_finished());
    let mut buffer = vec![0; 1024 * 1024];
    let mut total = 0;
    while total < 4 * window {
        total += soon("more", client.read(&mut buffer)).await.unwrap() as u64;
        assert!(buffer.iter().all(|byte| *byte == 7 || *byte == 0));
    }
    writer.abort();
}

#[tokio::test]
async fn a_tunnel_keeps_its_numbers() {
    let (mut tunnel, mut server) = tunnel_pair().await;
    tunnel.write_all(b"four").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut two = [0; 2];
    soon("two", server.read_exact(&mut two)).await.unwrap();
    let ledger = server.ledger();
    assert_eq!((ledger.received, ledger.credited, ledger.peer_finished), (4, 2, false));
    let mut rest = Vec::new();
    soon("rest", server.read_to_end(&mut rest)).await.unwrap();
    let ledger = server.ledger();
    assert_eq!((ledger.received, ledger.credited, ledger.peer_finished), (4, 4, true));
    assert_eq!((tunnel.ledger().sent, tunnel.ledger().finished), (4, true));
}

#[tokio::test]
async fn a_tunnel_inside_a_tunnel_carries_bytes() {
    let (outer, outer_server) = tunnel_pair().await;
    let server = hbone::Server::new(Settings::server(), spawner());
    spawn(async move {
        let echo = |connect: Connect| async move {
            let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
            let mut byte = [0; 5];
            tunnel.read_exact(&mut byte).await.unwrap();
            tunnel.write_all(&byte).await.unwrap();
            tunnel.shutdown().await.unwrap();
        };
        server.serve(outer_server, crate::support::forever(), echo).await
    });
    let inner = crate::support::connection(outer).await;
    let (mut tunnel, _) = soon("inner tunnel", inner.connect(&head())).await.unwrap();
    tunnel.write_all(b"twice").await.unwrap();
    let mut back = Vec::new();
    soon("echo", tunnel.read_to_end(&mut back)).await.unwrap();
    assert_eq!(back, b"twice");
}

#[tokio::test]
async fn closing_the_connection_ends_its_copies_with_the_cause() {
    let pipe = serve_pipe(Settings::server(), |connect: Connect| async move {
        let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
        assert!(tunnel.read_to_end(&mut Vec::new()).await.is_err());
    });
    let connection = crate::support::connection(pipe).await;
    let (tunnel, _) = soon("tunnel", connection.connect(&head())).await.unwrap();
    let (_client, _, task) = captured(tunnel, never()).await;
    assert!(connection.close(Cause("identity moved")));
    let copied = soon("copy", task).await.unwrap();
    assert!(matches!(copied.end, End::Aborted(Cause("identity moved"))), "{copied:?}");
    assert!(!connection.is_open());
}

#[tokio::test]
async fn a_flow_is_small() {
    // These, a task's header and two sockets are what an idle connection costs.
    let sizes = [
        (size_of::<Tunnel>(), 192),
        (size_of::<Copying<Socket<TcpStream>, Tunnel>>(), 640),
        (size_of::<Copying<Socket<TcpStream>, Socket<TcpStream>>>(), 640),
    ];
    for (size, limit) in sizes {
        assert!(size <= limit, "{size} > {limit}");
    }
    let pool: Pool<u8, Infallible> = Pool::new(PoolSettings::default(), spawner());
    let dial = || std::future::pending::<Result<TcpStream, Infallible>>();
    let size = size_of_val(&pool.connect(&0, &head(), dial));
    assert!(size <= 1024, "{size}");
}
