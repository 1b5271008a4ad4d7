// SPDX-License-Identifier: Apache-2.0
//! Tests: the accept loop on loopback, and on a listener that fails on demand.

use std::{collections::VecDeque, net::Ipv4Addr};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, timeout},
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const LIMITS: Limits = Limits { name: "test", connections: 16 };

fn loopback() -> TcpListener {
    bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).await.is_ok() {
        stream.write_all(&byte).await.unwrap();
    }
}

async fn answers(stream: &mut TcpStream) {
    stream.write_all(b"x").await.unwrap();
    timeout(PATIENCE, stream.read_exact(&mut [0])).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_a_request_to_finish_no_connection_is_accepted_and_open_ones_go_on() {
    let tasks = Tasks::new();
    // An address of its own: of `127.0.0.1` another test might get the port when this listener is closed.
    let listener = bind((Ipv4Addr::new(127, 0, 4, 1), 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let group = tasks.group("listener");
    let serving =
        tasks.spawn("accept", async move { serve(listener, &group, LIMITS, |stream, _| echo(stream)).await });
    let mut open = TcpStream::connect(address).await.unwrap();
    answers(&mut open).await;

    let draining = tasks.clone();
    let drained = tokio::task::LocalSet::new();
    drained
        .run_until(async move {
            let drain = tokio::task::spawn_local(async move { draining.drain(PATIENCE).await });
            assert!(timeout(PATIENCE, serving).await.unwrap().unwrap().is_ok());
            assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
            answers(&mut open).await;
            drop(open);
            assert!(timeout(PATIENCE, drain).await.unwrap().unwrap().forced.is_empty());
        })
        .await;
}

#[tokio::test]
async fn at_the_limit_a_new_connection_waits_until_another_has_ended() {
    let tasks = Tasks::new();
    let listener = loopback();
    let address = listener.local_addr().unwrap();
    let group = tasks.clone();
    let limits = Limits { connections: 2, ..LIMITS };
    drop(
        tasks.spawn("accept", async move { serve(listener, &group, limits, |stream, _| echo(stream)).await }),
    );
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    answers(&mut first).await;
    answers(&mut second).await;
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(b"x").await.unwrap();
    answers(&mut first).await;
    assert_eq!(tasks.running(), 3, "the loop and two connections");
    drop(second);
    timeout(PATIENCE, third.read_exact(&mut [0])).await.unwrap().unwrap();
    tasks.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn a_connection_that_panics_takes_no_other_with_it() {
    let tasks = Tasks::new();
    let listener = loopback();
    let address = listener.local_addr().unwrap();
    let group = tasks.clone();
    let limits = Limits { connections: 1, ..LIMITS };
    drop(tasks.spawn("accept", async move {
        serve(listener, &group, limits, |mut stream: TcpStream, peer| async move {
            assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
            assert_ne!(stream.read_u8().await.unwrap(), b'!', "told to panic");
            stream.write_all(b"y").await.unwrap();
        })
        .await
    }));
    let mut broken = TcpStream::connect(address).await.unwrap();
    broken.write_all(b"!").await.unwrap();
    assert_eq!(timeout(PATIENCE, broken.read(&mut [0])).await.unwrap().unwrap_or(0), 0);
    answers(&mut TcpStream::connect(address).await.unwrap()).await;
    tasks.drain(Duration::ZERO).await;
}

#[tokio::test]
async fn a_listener_made_elsewhere_and_a_wildcard_one_name_ipv4_peers_as_ipv4() {
    let made_elsewhere = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut listeners = vec![adopt(made_elsewhere).unwrap()];
    // Without IPv6 on the machine there is nothing to map.
    listeners.extend(bind("[::]:0".parse().unwrap()).ok());
    for listener in listeners {
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        let (_, peer) = timeout(PATIENCE, Listener::accept(&listener)).await.unwrap().unwrap();
        assert_eq!(peer.ip(), Ipv4Addr::LOCALHOST);
    }
}

/// Gives what is in the list, then waits for ever.
struct Scripted(Mutex<VecDeque<io::Result<(DuplexStream, ())>>>);

impl Listener for Scripted {
    type Stream = DuplexStream;
    type Peer = ();

    async fn accept(&self) -> io::Result<(DuplexStream, ())> {
        let next = self.0.lock().pop_front();
        match next {
            Some(next) => next,
            None => std::future::pending().await,
        }
    }
}

/// When each connection was accepted, in milliseconds, and how the loop ended.
async fn accepted(errors: &[i32]) -> (Vec<u128>, Option<Result<(), AcceptError>>) {
    let mut script = VecDeque::new();
    for error in errors {
        script.push_back(match error {
            0 => Ok((tokio::io::duplex(1).0, ())),
            error => Err(io::Error::from_raw_os_error(*error)),
        });
    }
    let (started, times) = (Instant::now(), Arc::new(Mutex::new(Vec::new())));
    let noted = Arc::clone(&times);
    let tasks = Tasks::new();
    let serving = serve(Scripted(Mutex::new(script)), &tasks, LIMITS, |_, ()| {
        noted.lock().push(started.elapsed().as_millis());
        async {}
    });
    let ended = timeout(Duration::from_secs(60), serving).await.ok();
    let times = times.lock().clone();
    (times, ended)
}

#[tokio::test(start_paused = true)]
async fn without_descriptors_the_loop_waits_longer_and_longer_and_then_goes_on() {
    let (times, ended) = accepted(&[libc::EMFILE, libc::ENFILE, 0, libc::EMFILE, 0]).await;
    assert_eq!(times, [15, 20], "5 + 10 ms, then 5 ms again");
    assert!(ended.is_none());
    let (times, _) = accepted(&[[libc::EMFILE; 12].as_slice(), &[0]].concat()).await;
    assert_eq!(times, [5 + 10 + 20 + 40 + 80 + 160 + 320 + 640 + 4 * 1000], "a second at most");
}

#[tokio::test(start_paused = true)]
async fn a_connection_lost_before_it_was_accepted_costs_nothing() {
    for error in [libc::ECONNABORTED, libc::EPROTO, libc::ENETDOWN, libc::EPERM, libc::EINTR] {
        let (times, ended) = accepted(&[error, 0]).await;
        assert_eq!(times, [0], "{error}");
        assert!(ended.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_listener_ends_the_loop_with_an_error() {
    let (times, ended) = accepted(&[0, libc::EBADF, 0]).await;
    assert_eq!(times.len(), 1);
    assert_eq!(ended.unwrap().unwrap_err().source.raw_os_error(), Some(libc::EBADF));
}

#[tokio::test]
async fn a_socket_file_left_behind_is_replaced_and_one_in_use_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    drop(bind_unix(&path).unwrap());
    assert!(path.exists());
    let _live = bind_unix(&path).unwrap();
    assert_eq!(bind_unix(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}
