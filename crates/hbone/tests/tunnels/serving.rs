// SPDX-License-Identifier: Apache-2.0
//! The server's end, and what both ends put on the wire.

use crate::support::{DEADLINE, connection, forever, head, serve_pipe, soon, spawn, spawner};
use hbone::{
    Bytes, Cause, Connect, ConnectError, Ended, Head, HeaderMap, HeaderValue, Keepalive, Retry, ServeError,
    Server, Settings, StatusCode, Stop, TunnelError, handshake,
};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, oneshot};

#[tokio::test]
async fn authority_and_headers_travel_both_ways() {
    let pipe = serve_pipe(Settings::server(), |connect: Connect| async move {
        assert_eq!(connect.authority(), "[fd00::1]:8080");
        let mut headers = HeaderMap::new();
        headers.insert("baggage", connect.headers().get("forwarded").unwrap().clone());
        drop(connect.accept(headers).unwrap());
    });
    let mut headers = HeaderMap::new();
    headers.insert("forwarded", HeaderValue::from_static("for=\"10.0.0.2:1\""));
    let head = Head::new("[fd00::1]:8080", headers).unwrap();
    assert_eq!(head.authority(), "[fd00::1]:8080");
    let (_, headers) = soon("tunnel", connection(pipe).await.connect(&head)).await.unwrap();
    assert_eq!(headers.get("baggage").unwrap(), "for=\"10.0.0.2:1\"");
}

#[tokio::test]
async fn only_connect_is_answered_otherwise_than_400() {
    let pipe = serve_pipe(Settings::server(), |_: Connect| async { panic!("must not be asked") });
    let (mut requests, connection) = h2::client::handshake(pipe).await.unwrap();
    spawn(connection);
    for method in ["GET", "POST", "OPTIONS"] {
        let request = http::Request::builder().method(method).uri("http://10.0.0.1:80/").body(()).unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        let answer = soon("answer", answer).await.unwrap();
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert!(answer.body().is_end_stream());
    }
}

#[tokio::test]
async fn a_client_that_gives_up_is_noticed_before_the_answer() {
    let (sender, gone) = oneshot::channel();
    let mut sender = Some(sender);
    let (begun_sender, begun) = oneshot::channel();
    let mut begun_sender = Some(begun_sender);
    let pipe = serve_pipe(Settings::server(), move |mut connect: Connect| {
        let (sender, begun) = (sender.take(), begun_sender.take());
        async move {
            begun.unwrap().send(()).unwrap();
            connect.abandoned().await;
            assert!(connect.accept(HeaderMap::new()).is_err());
            sender.unwrap().send(()).unwrap();
        }
    });
    let connection = connection(pipe).await;
    let caller = spawn(async move { connection.connect(&head()).await.map(|_| ()) });
    soon("request", begun).await.unwrap();
    caller.abort();
    soon("abandoned", gone).await.unwrap();
}

#[tokio::test]
async fn draining_lets_open_tunnels_finish_and_takes_no_new_ones() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (drain, drained) = oneshot::channel();
    let (sender, mut accepted) = mpsc::channel(1);
    let served = spawn(async move {
        let stop = Stop { drain: async { drained.await.unwrap() }, force: std::future::pending() };
        let handle = |connect: Connect| {
            let sender = sender.clone();
            async move { sender.send(connect.accept(HeaderMap::new()).unwrap()).await.unwrap() }
        };
        Server::new(Settings::server(), spawner()).serve(theirs, stop, handle).await
    });
    let client = connection(ours).await;
    let (mut tunnel, _) = soon("tunnel", client.connect(&head())).await.unwrap();
    let mut server_end = accepted.recv().await.unwrap();
    drain.send(()).unwrap();
    crate::support::until("GOAWAY", || !client.is_open()).await;
    let error = client.connect(&head()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unprocessed { .. }), "{error:?}");
    assert_eq!(error.retry(), Retry::Again);
    tunnel.write_all(b"last words").await.unwrap();
    tunnel.shutdown().await.unwrap();
    let mut heard = Vec::new();
    soon("last words", server_end.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard, b"last words");
    assert!(!served.is_finished());
    drop((server_end, tunnel, client));
    soon("drained", served).await.unwrap().unwrap();
}

#[tokio::test]
async fn forcing_ends_open_tunnels_with_the_cause() {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let (force, forced) = oneshot::channel();
    let (sender, mut accepted) = mpsc::channel(1);
    let served = spawn(async move {
        let stop = Stop { drain: std::future::pending(), force: async { forced.await.unwrap() } };
        let handle = |connect: Connect| {
            let sender = sender.clone();
            async move { sender.send(connect.accept(HeaderMap::new()).unwrap()).await.unwrap() }
        };
        Server::new(Settings::server(), spawner()).serve(theirs, stop, handle).await
    });
    let (mut tunnel, _) = soon("tunnel", connection(ours).await.connect(&head())).await.unwrap();
    let mut server_end = accepted.recv().await.unwrap();
    force.send(Cause("drain deadline")).unwrap();
    let error = soon("served", served).await.unwrap().unwrap_err();
    assert!(matches!(error, ServeError::Closed { cause: Cause("drain deadline") }), "{error:?}");
    let error = soon("server's end", server_end.read_u8()).await.unwrap_err();
    assert!(matches!(TunnelError::of(&error), Some(TunnelError::Closed { cause: Cause("drain deadline") })));
    let error = soon("client's end", tunnel.read_u8()).await.unwrap_err();
    assert!(matches!(TunnelError::of(&error), Some(TunnelError::Lost { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_given_up_after_ten_and_twenty_seconds() {
    // Nobody reads the other end, but it is open.
    let (ours, _theirs) = tokio::io::duplex(64 * 1024);
    let start = tokio::time::Instant::now();
    let (client, driver) = handshake(ours, &Settings::client()).await.unwrap();
    let driver = spawn(driver);
    let error = client.connect(&head()).await.unwrap_err();
    assert!(matches!(error, ConnectError::TimedOut { .. }), "{error:?}");
    assert!(matches!(driver.await.unwrap(), Ended::Silent));
    assert_eq!(start.elapsed().as_secs(), 30);
    let error = client.connect(&head()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Silent), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_given_up_after_ten_and_twenty_seconds() {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let start = tokio::time::Instant::now();
    let server = Server::new(Settings::server(), spawner());
    let serving = server.serve(theirs, forever(), |_| async {});
    // A client that says hello and then nothing.
    ours.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    assert!(matches!(serving.await.unwrap_err(), ServeError::Silent));
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn peers_that_answer_pings_stay_connected() {
    let rhythm = Keepalive {
        first: Duration::from_secs(1),
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    let pipe =
        serve_pipe(Settings { keepalive: rhythm, ..Settings::server() }, |connect: Connect| async move {
            let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
            let byte = tunnel.read_u8().await.unwrap();
            tunnel.write_u8(byte).await.unwrap();
            tunnel.shutdown().await.unwrap();
        });
    let (client, driver) =
        handshake(pipe, &Settings { keepalive: rhythm, ..Settings::client() }).await.unwrap();
    spawn(driver);
    let (mut tunnel, _) = client.connect(&head()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    tunnel.write_u8(42).await.unwrap();
    assert_eq!(tunnel.read_u8().await.unwrap(), 42);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_begins_is_given_up() {
    let (_ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = Server::new(Settings::server(), spawner());
    let error = server.serve(theirs, forever(), |_| async {}).await.unwrap_err();
    assert!(matches!(error, ServeError::HandshakeTimedOut { .. }), "{error:?}");
}

#[tokio::test]
async fn a_client_that_speaks_no_http2_is_turned_away() {
    let (mut ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = Server::new(Settings::server(), spawner());
    ours.write_all(b"GET / HTTP/1.1\r\nhost: nowhere\r\n\r\n").await.unwrap();
    let error = soon("error", server.serve(theirs, forever(), |_| async {})).await.unwrap_err();
    assert!(matches!(error, ServeError::Handshake { .. }), "{error:?}");
}

/// The frames of one direction: type, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

async fn read_frame(stream: &mut DuplexStream) -> Frame {
    let mut header = [0; 9];
    stream.read_exact(&mut header).await.unwrap();
    let [len @ .., kind, flags, s0, s1, s2, s3] = header;
    let mut payload = vec![0; u32::from_be_bytes([0, len[0], len[1], len[2]]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (kind, flags, u32::from_be_bytes([s0, s1, s2, s3]), payload)
}

const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

fn setting(payload: &[u8], id: u16) -> Option<u32> {
    payload
        .chunks(6)
        .find(|entry| entry[..2] == id.to_be_bytes())
        .map(|entry| u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
}

fn check_settings(frame: &Frame, header_list: u32, streams: Option<u32>) {
    let (kind, flags, _, payload) = frame;
    assert_eq!((*kind, *flags), (SETTINGS, 0));
    assert_eq!(setting(payload, 4), Some(4 << 20), "stream window");
    assert_eq!(setting(payload, 5), Some(1 << 20), "frame size");
    assert_eq!(setting(payload, 6), Some(header_list), "header list");
    assert_eq!(setting(payload, 3), streams, "concurrent streams");
}

#[tokio::test]
async fn both_ends_announce_istios_settings() {
    let (ours, mut wire) = tokio::io::duplex(64 * 1024);
    let _client = connection(ours).await;
    let mut preface = [0; 24];
    soon("preface", wire.read_exact(&mut preface)).await.unwrap();
    let frame = soon("settings", read_frame(&mut wire)).await;
    check_settings(&frame, 16 * 1024, None);
    assert_eq!(setting(&frame.3, 2), Some(0), "no push");
    // 16 MiB less the 65,535 every connection begins with.
    let update = soon("window", read_frame(&mut wire)).await;
    assert_eq!(
        (update.0, update.2, update.3),
        (WINDOW_UPDATE, 0, ((16u32 << 20) - 65_535).to_be_bytes().to_vec())
    );

    let mut wire = serve_pipe(Settings::server(), |_| async {});
    wire.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let frame = soon("settings", read_frame(&mut wire)).await;
    check_settings(&frame, 64 * 1024, Some(200));
}

#[tokio::test]
async fn a_plain_http2_client_can_use_a_tunnel() {
    let pipe = serve_pipe(Settings::server(), |connect: Connect| async move {
        let mut tunnel = connect.accept(HeaderMap::new()).unwrap();
        let mut word = Vec::new();
        tunnel.read_to_end(&mut word).await.unwrap();
        tunnel.write_all(&word).await.unwrap();
        tunnel.shutdown().await.unwrap();
    });
    let (mut requests, connection) = h2::client::handshake(pipe).await.unwrap();
    spawn(connection);
    let request = http::Request::builder().method("CONNECT").uri("10.0.0.1:80").body(()).unwrap();
    let (answer, mut send) = requests.send_request(request, false).unwrap();
    send.send_data(Bytes::from_static(b"word"), true).unwrap();
    let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(soon("echo", answer.into_body().data()).await.unwrap().unwrap(), "word");
}
