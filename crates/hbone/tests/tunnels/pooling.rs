// SPDX-License-Identifier: Apache-2.0
//! Which connection a tunnel gets, and what becomes of it when the connection ends.

use crate::support::{captured, carry, forever, head, never, serve_pipe, soon, spawn, spawner, until};
use hbone::{
    Bytes, Cause, Connect, End, HeaderMap, OpenError, Pool, PoolSettings, Retry, Server, Settings,
    StatusCode, Stop, Tunnel,
};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpSocket;
use tokio::sync::Notify;

type TestPool = Pool<&'static str, Infallible>;

fn pool(settings: PoolSettings) -> TestPool {
    Pool::new(settings, spawner())
}

fn settings(max_streams: u32) -> PoolSettings {
    let connection = Settings { max_streams, ..Settings::client() };
    PoolSettings { connection, ..PoolSettings::default() }
}

/// Counts dials, each to a fresh server of its own that echoes.
#[derive(Clone, Default)]
struct Echoes {
    dials: Arc<AtomicUsize>,
}

impl Echoes {
    fn dial(&self) -> impl Future<Output = Result<DuplexStream, Infallible>> + Send + use<> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::task::yield_now().await;
            Ok(serve_pipe(Settings::server(), echo))
        }
    }

    fn count(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }
}

async fn echo(connect: Connect) {
    if let Ok(tunnel) = connect.accept(HeaderMap::new()) {
        let (mut read, mut write) = tokio::io::split(tunnel);
        if tokio::io::copy(&mut read, &mut write).await.is_ok() {
            write.shutdown().await.unwrap_or_default();
        }
    }
}

async fn answers(tunnel: &mut Tunnel) {
    tunnel.write_all(b"ping").await.unwrap();
    let mut back = [0; 4];
    soon("echo", tunnel.read_exact(&mut back)).await.unwrap();
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn many_first_callers_share_one_dial() {
    let (pool, echoes) = (pool(settings(100)), Echoes::default());
    let callers: Vec<_> = (0..90)
        .map(|_| {
            let (pool, echoes) = (pool.clone(), echoes.clone());
            spawn(
                async move { pool.connect(&"a", &head(), || echoes.dial()).await.map(|(tunnel, _)| tunnel) },
            )
        })
        .collect();
    let mut tunnels = Vec::new();
    for caller in callers {
        tunnels.push(soon("tunnel", caller).await.unwrap().unwrap());
    }
    assert_eq!(echoes.count(), 1);
    let stats = pool.stats();
    assert_eq!((stats.keys, stats.connections, stats.streams, stats.dialing), (1, 1, 90, 0));
    for tunnel in &mut tunnels {
        answers(tunnel).await;
    }
    drop(tunnels);
    assert_eq!(pool.stats().streams, 0);
}

#[tokio::test]
async fn keys_do_not_share_connections() {
    let (pool, echoes) = (pool(settings(100)), Echoes::default());
    for key in ["a", "b", "a", "b"] {
        let (mut tunnel, _) = pool.connect(&key, &head(), || echoes.dial()).await.unwrap();
        answers(&mut tunnel).await;
    }
    assert_eq!(echoes.count(), 2);
}

#[tokio::test]
async fn a_full_connection_makes_room_by_another_and_is_used_again() {
    // A limit of 4 leaves 3, as Istio's pool counts.
    let (pool, echoes) = (pool(settings(4)), Echoes::default());
    let mut tunnels = VecDeque::new();
    for expected in [1, 1, 1, 2, 2, 2, 3] {
        tunnels.push_back(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap().0);
        assert_eq!(echoes.count(), expected);
    }
    tunnels.pop_front();
    tunnels.push_back(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap().0);
    assert_eq!(echoes.count(), 3);
    for tunnel in &mut tunnels {
        answers(tunnel).await;
    }
}

#[tokio::test]
async fn the_peers_own_limit_of_streams_is_respected() {
    let (pool, dials) = (pool(settings(100)), Arc::new(AtomicUsize::new(0)));
    let dial = || {
        dials.fetch_add(1, Ordering::SeqCst);
        async { Ok(serve_pipe(Settings { max_streams: 3, ..Settings::server() }, echo)) }
    };
    let mut tunnels = Vec::new();
    for _ in 0..6 {
        let (mut tunnel, _) = soon("tunnel", pool.connect(&"a", &head(), dial)).await.unwrap();
        answers(&mut tunnel).await;
        tunnels.push(tunnel);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_crowd_larger_than_a_connection_dials_as_many_as_it_needs() {
    let (pool, echoes) = (pool(settings(11)), Echoes::default());
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (pool, echoes) = (pool.clone(), echoes.clone());
            spawn(
                async move { pool.connect(&"a", &head(), || echoes.dial()).await.map(|(tunnel, _)| tunnel) },
            )
        })
        .collect();
    let mut tunnels = Vec::new();
    for caller in callers {
        tunnels.push(soon("tunnel", caller).await.unwrap().unwrap());
    }
    assert_eq!(echoes.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_busy_connection_is_left_to_its_bulk() {
    // Anything that moves at all is busy.
    let (pool, echoes) =
        (pool(PoolSettings { busy_rate: 0, spread: 2, ..PoolSettings::default() }), Echoes::default());
    let (mut bulk, _) = pool.connect(&"a", &head(), || echoes.dial()).await.unwrap();
    let mut others = Vec::new();
    soon("another connection", async {
        while echoes.count() < 2 {
            answers(&mut bulk).await;
            others.push(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap().0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    soon("no third connection", async {
        for _ in 0..20 {
            answers(&mut bulk).await;
            others.push(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap().0);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!(echoes.count(), 2);
}

#[tokio::test]
async fn everyone_who_waited_hears_of_a_failed_dial_and_the_next_one_dials_anew() {
    let pool: Pool<&str, io::Error> = Pool::new(settings(100), spawner());
    let (dials, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let callers: Vec<_> = (0..10)
        .map(|_| {
            let (pool, dials, go) = (pool.clone(), Arc::clone(&dials), Arc::clone(&go));
            spawn(async move {
                let dial = || {
                    dials.fetch_add(1, Ordering::SeqCst);
                    let go = Arc::clone(&go);
                    async move {
                        go.notified().await;
                        Err::<DuplexStream, _>(io::ErrorKind::ConnectionRefused.into())
                    }
                };
                pool.connect(&"a", &head(), dial).await.map(|_| ())
            })
        })
        .collect();
    until("the dial", || pool.stats().dialing == 1).await;
    go.notify_one();
    for caller in callers {
        let error = soon("error", caller).await.unwrap().unwrap_err();
        let OpenError::Dial { source } = error else { panic!("{error:?}") };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(dials.load(Ordering::SeqCst), 1);
    assert_eq!(pool.stats(), hbone::Stats::default());
    let dial = || async { Ok(serve_pipe(Settings::server(), echo)) };
    assert!(pool.connect(&"a", &head(), dial).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dial_has_a_deadline() {
    let pool = pool(settings(100));
    let dial = std::future::pending::<Result<DuplexStream, Infallible>>;
    let error = pool.connect(&"a", &head(), dial).await.unwrap_err();
    assert!(
        matches!(error, OpenError::DialTimedOut { after } if after == Duration::from_secs(10)),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_dial_outlives_the_caller_that_began_it() {
    let (pool, echoes, go) = (pool(settings(100)), Echoes::default(), Arc::new(Notify::new()));
    let first = spawn({
        let (pool, echoes, go) = (pool.clone(), echoes.clone(), Arc::clone(&go));
        async move {
            let dial = || {
                let (dialed, go) = (echoes.dial(), Arc::clone(&go));
                async move {
                    go.notified().await;
                    dialed.await
                }
            };
            pool.connect(&"a", &head(), dial).await.map(|_| ())
        }
    });
    until("the dial", || pool.stats().dialing == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = spawn({
        let (pool, echoes) = (pool.clone(), echoes.clone());
        async move { pool.connect(&"a", &head(), || echoes.dial()).await.map(|_| ()) }
    });
    go.notify_one();
    assert!(soon("second", second).await.unwrap().is_ok());
    assert_eq!(echoes.count(), 1);
}

#[tokio::test]
async fn closing_a_key_ends_its_copies_at_once_and_no_others() {
    let (pool, echoes) = (pool(settings(100)), Echoes::default());
    let mut flows = Vec::new();
    for key in ["moved", "moved", "stays"] {
        let (tunnel, _) = pool.connect(&key, &head(), || echoes.dial()).await.unwrap();
        flows.push(captured(tunnel, never()).await);
    }
    assert_eq!(pool.close(Cause("identity moved"), |key| *key == "moved"), 1);
    let (mut stays, _, _task) = flows.pop().unwrap();
    for (mut application, _, task) in flows {
        let copied = soon("copy", task).await.unwrap();
        assert!(matches!(copied.end, End::Aborted(Cause("identity moved"))), "{copied:?}");
        let seen = soon("end", application.read_u8()).await.unwrap_err();
        assert_eq!(seen.kind(), io::ErrorKind::ConnectionReset);
    }
    stays.write_all(b"still here").await.unwrap();
    let mut back = [0; 10];
    soon("echo", stays.read_exact(&mut back)).await.unwrap();
    let (mut anew, _) = pool.connect(&"moved", &head(), || echoes.dial()).await.unwrap();
    answers(&mut anew).await;
    assert_eq!(echoes.count(), 3);
}

#[tokio::test]
async fn closing_a_key_ends_its_dials() {
    let pool = pool(settings(100));
    let caller = spawn({
        let pool = pool.clone();
        async move {
            pool.connect(&"a", &head(), std::future::pending::<Result<DuplexStream, _>>).await.map(|_| ())
        }
    });
    until("the dial", || pool.stats().dialing == 1).await;
    pool.close(Cause("identity moved"), |_| true);
    let error = soon("caller", caller).await.unwrap().unwrap_err();
    assert!(matches!(error, OpenError::Closed { cause: Cause("identity moved") }), "{error:?}");
    assert_eq!(pool.stats(), hbone::Stats::default());
}

#[tokio::test]
async fn a_draining_peer_keeps_its_tunnels_and_gets_no_new_ones() {
    let (pool, dials) = (pool(settings(100)), Arc::new(AtomicUsize::new(0)));
    let drain = Arc::new(Notify::new());
    let served = Arc::new(Mutex::new(Vec::new()));
    let dial = || {
        dials.fetch_add(1, Ordering::SeqCst);
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let drain = Arc::clone(&drain);
        served.lock().push(spawn(async move {
            let stop = Stop { drain: drain.notified(), force: std::future::pending() };
            Server::new(Settings::server(), spawner()).serve(theirs, stop, echo).await
        }));
        async move { Ok(ours) }
    };
    let (mut old, _) = pool.connect(&"a", &head(), dial).await.unwrap();
    answers(&mut old).await;
    drain.notify_one();
    // The caller sees no error while the peer's GOAWAY is on its way or has arrived.
    let mut new = Vec::new();
    soon("a new connection", async {
        while dials.load(Ordering::SeqCst) == 1 {
            new.push(pool.connect(&"a", &head(), dial).await.unwrap().0);
            tokio::task::yield_now().await;
        }
    })
    .await;
    answers(&mut old).await;
    assert_eq!(pool.stats().connections, 2, "the draining one is still known");
    for tunnel in &mut new {
        answers(tunnel).await;
    }
    drop((old, new));
    let first = served.lock().remove(0);
    soon("drained", first).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_draining_connection_still_closes_with_its_key() {
    let (pool, echoes) =
        (pool(PoolSettings { idle_timeout: Duration::ZERO, ..settings(100) }), Echoes::default());
    let (tunnel, _) = pool.connect(&"a", &head(), || echoes.dial()).await.unwrap();
    let (_application, _, task) = captured(tunnel, never()).await;
    // Let go as idle: the next tunnel takes another connection, while the first one's goes on.
    soon("let go", async {
        while echoes.count() == 1 {
            let (mut tunnel, _) = pool.connect(&"a", &head(), || echoes.dial()).await.unwrap();
            answers(&mut tunnel).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert!(!task.is_finished());
    pool.close(Cause("identity moved"), |_| true);
    assert!(matches!(soon("copy", task).await.unwrap().end, End::Aborted(Cause("identity moved"))));
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_is_let_go_after_five_minutes_and_closes_with_its_last_tunnel() {
    let (pool, echoes) = (pool(PoolSettings::default()), Echoes::default());
    let (mut tunnel, _) = pool.connect(&"a", &head(), || echoes.dial()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(299)).await;
    drop(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap());
    assert_eq!(echoes.count(), 1, "used in time");
    tokio::time::sleep(Duration::from_secs(400)).await;
    // Longer than any keepalive: the connection lives on with its tunnel.
    answers(&mut tunnel).await;
    assert_eq!(pool.stats().connections, 1);
    drop(tunnel);
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(pool.stats(), hbone::Stats::default());
    drop(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap());
    assert_eq!(echoes.count(), 2);
}

#[tokio::test]
async fn a_pooled_connection_that_died_costs_another_dial_not_an_error() {
    let (pool, dials) = (pool(settings(100)), Arc::new(AtomicUsize::new(0)));
    // The first server reads a second CONNECT and dies of it.
    let dial = || {
        let first = dials.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if !first {
                return Ok(serve_pipe(Settings::server(), echo));
            }
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            spawn(async move {
                let mut server: h2::server::Connection<_, Bytes> =
                    h2::server::handshake(theirs).await.unwrap();
                let (_, mut respond) = server.accept().await.unwrap().unwrap();
                let _tunnel = respond.send_response(http::Response::new(()), false).unwrap();
                server.accept().await.unwrap().unwrap();
            });
            Ok(ours)
        }
    };
    let (_first, _) = pool.connect(&"a", &head(), dial).await.unwrap();
    let (mut second, _) = soon("second", pool.connect(&"a", &head(), dial)).await.unwrap();
    answers(&mut second).await;
    assert_eq!(dials.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_refusal_says_whether_another_endpoint_may_do() {
    for (status, retry) in [
        (StatusCode::SERVICE_UNAVAILABLE, Retry::Elsewhere),
        (StatusCode::UNAUTHORIZED, Retry::No),
        (StatusCode::BAD_REQUEST, Retry::No),
    ] {
        let pool = pool(settings(100));
        let dial = move || async move {
            Ok(serve_pipe(Settings::server(), move |connect| async move { connect.refuse(status) }))
        };
        let error = pool.connect(&"a", &head(), dial).await.unwrap_err();
        let OpenError::Connect(error) = error else { panic!("{error:?}") };
        assert_eq!(error.retry(), retry);
        assert!(error.to_string().ends_with(&format!("http status: {}", status.as_u16())), "{error}");
        assert_eq!(pool.stats().streams, 0);
    }
}

#[tokio::test]
async fn a_declined_stream_is_tried_again_and_then_reported_as_not_processed() {
    let (pool, dials) = (pool(settings(100)), Arc::new(AtomicUsize::new(0)));
    let dial = || {
        let declines = dials.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            Ok(serve_pipe(Settings::server(), move |connect| async move {
                if declines { connect.decline() } else { echo(connect).await }
            }))
        }
    };
    let (mut tunnel, _) = soon("tunnel", pool.connect(&"a", &head(), dial)).await.unwrap();
    answers(&mut tunnel).await;
    assert_eq!(dials.load(Ordering::SeqCst), 2);

    let always = AtomicUsize::new(0);
    let dial = || {
        always.fetch_add(1, Ordering::SeqCst);
        async { Ok(serve_pipe(Settings::server(), |connect| async { connect.decline() })) }
    };
    let error = soon("refusal", pool.connect(&"b", &head(), dial)).await.unwrap_err();
    let OpenError::Connect(error) = error else { panic!("{error:?}") };
    assert_eq!(error.retry(), Retry::Again, "{error:?}");
    assert_eq!(always.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_application_that_is_down_is_a_refusal_with_503() {
    // A port that is taken, so that no other test gets it, and on which nobody listens.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = taken.local_addr().unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    spawn(async move {
        let server = Server::new(Settings::server(), spawner());
        server.serve(theirs, forever(), move |connect| carry(connect, closed)).await
    });
    let error = soon("refusal", crate::support::connection(ours).await.connect(&head())).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Elsewhere);
}

#[tokio::test(start_paused = true)]
async fn of_the_connections_that_a_burst_has_opened_one_is_kept() {
    let (pool, echoes) = (pool(settings(4)), Echoes::default());
    let mut burst = Vec::new();
    for _ in 0..9 {
        burst.push(pool.connect(&"a", &head(), || echoes.dial()).await.unwrap().0);
    }
    assert_eq!((pool.stats().connections, echoes.count()), (3, 3), "of four streams three are used");
    let last = burst.pop().unwrap();
    drop(burst);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(pool.stats().connections, 2, "one that carries a tunnel, and one that carries nothing");
    drop(last);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(pool.stats().connections, 1);
    let (mut tunnel, _) = pool.connect(&"a", &head(), || echoes.dial()).await.unwrap();
    answers(&mut tunnel).await;
    assert_eq!(echoes.count(), 3, "it is used again");
}
