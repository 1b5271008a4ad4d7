// SPDX-License-Identifier: Apache-2.0
//! Servers that turn requests away, or break off: what they have not looked at is another's to answer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use mesh::service::AppProtocol;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::testing::{Answer, Bench, Wire, answer, converse};

/// The server looked at nothing after this request: its number is in the frame.
fn goaway(last: u8) -> Vec<u8> {
    vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, 0]
}

/// RST_STREAM of the first request, with a reason.
fn reset(reason: u8) -> Vec<u8> {
    vec![0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, reason]
}

const REFUSED_STREAM: u8 = 7;
const CANCEL: u8 = 8;
/// SETTINGS with a window of 1 MiB for each request, and as much for all of them.
const ROOM: &[u8] = &[
    0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0x10, 0, 0, // SETTINGS
    0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, // WINDOW_UPDATE
];

/// Reads a request up to its end, says a frame and ends the connection when the client has.
async fn turn_away(mut stream: TcpStream, frame: &[u8]) -> std::io::Result<()> {
    const END_STREAM: u8 = 1;
    stream.write_all(ROOM).await?;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        stream.read_exact(&mut vec![0; length]).await?;
        if kind <= 1 && flags & END_STREAM != 0 {
            break;
        }
    }
    stream.write_all(frame).await?;
    // An end at once would be a reset, which may overtake the frame.
    stream.shutdown().await?;
    while stream.read(&mut [0; 4096]).await? > 0 {}
    Ok(())
}

/// Behind `web`: turns the first requests away by a frame, one for each connection, and answers on the connections after those.
/// Counts those that it has turned away.
async fn turning_away(bench: &mut Bench, name: &str, requests: usize, frame: Vec<u8>) -> Arc<AtomicUsize> {
    let listener = bench.listen(name, "web", AppProtocol::Http2).await;
    let turned = Arc::new(AtomicUsize::new(0));
    let (count, owner) = (Arc::clone(&turned), bench.tasks.clone());
    drop(bench.tasks.spawn("listener", async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let (count, frame) = (Arc::clone(&count), frame.clone());
            drop(owner.spawn("server", async move {
                if count.load(Ordering::Relaxed) < requests {
                    count.fetch_add(1, Ordering::Relaxed);
                    turn_away(stream, &frame).await.unwrap_or_default();
                } else {
                    converse(stream, Wire::Http2, lengths()).await;
                }
            }));
        }
    }));
    turned
}

/// Answers how long the body was.
fn lengths() -> Answer {
    answer(|request| Response::new(Full::from(request.body().len().to_string())))
}

fn call(length: usize) -> Request<Full<Bytes>> {
    let call = Request::post("http://web/lab.Notes/Unary").header("content-type", "application/grpc");
    call.body(Full::from(vec![7; length])).unwrap()
}

#[tokio::test]
async fn a_call_that_its_server_has_not_looked_at_is_sent_again() {
    for frame in [goaway(0), reset(REFUSED_STREAM)] {
        let mut bench = Bench::new(AppProtocol::Http2, &[]);
        let turned = turning_away(&mut bench, "one", 1, frame.clone()).await;
        let response = bench.ask_http2(call(5)).await;
        assert_eq!((response.status(), response.body().as_ref()), (StatusCode::OK, &b"5"[..]), "{frame:?}");
        assert_eq!(turned.load(Ordering::Relaxed), 1, "{frame:?}");
        // And one without a body, as before.
        let get = Request::get("http://web/").body(Full::default()).unwrap();
        assert_eq!(bench.ask_http2(get).await.body().as_ref(), b"0");
    }
}

#[tokio::test]
async fn a_call_that_a_server_refuses_again_goes_to_another() {
    for frame in [goaway(0), reset(REFUSED_STREAM)] {
        let mut bench = Bench::new(AppProtocol::Http2, &[]);
        let turned = turning_away(&mut bench, "busy", usize::MAX, frame.clone()).await;
        bench.server("free", AppProtocol::Http2, Wire::Http2, lengths()).await;
        // Chance decides who is asked first.
        for _ in 0..100 {
            let response = bench.ask_http2(call(5)).await;
            assert_eq!(
                (response.status(), response.body().as_ref()),
                (StatusCode::OK, &b"5"[..]),
                "{frame:?}"
            );
            if turned.load(Ordering::Relaxed) > 0 {
                break;
            }
        }
        assert_eq!(turned.load(Ordering::Relaxed), 2, "by two connections: {frame:?}");
    }
}

#[tokio::test]
async fn a_call_that_a_server_may_have_looked_at_is_not_sent_again() {
    // What comes after a request with this number was not looked at; it was itself. And a reset with any other reason.
    for frame in [goaway(1), reset(CANCEL)] {
        let mut bench = Bench::new(AppProtocol::Http2, &[]);
        let turned = turning_away(&mut bench, "one", 1, frame.clone()).await;
        let response = bench.ask_http2(call(5)).await;
        assert_eq!(response.headers()["grpc-status"], "14", "{frame:?}");
        assert_eq!(turned.load(Ordering::Relaxed), 1, "{frame:?}");
        assert_eq!(bench.ask_http2(call(5)).await.body().as_ref(), b"5", "the next one is answered");
    }
}

#[tokio::test]
async fn a_call_that_is_too_long_to_be_kept_is_not_sent_again() {
    let mut bench = Bench::new(AppProtocol::Http2, &[]);
    let turned = turning_away(&mut bench, "one", 1, reset(REFUSED_STREAM)).await;
    let response = bench.ask_http2(call(100_000)).await;
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(turned.load(Ordering::Relaxed), 1);
    assert_eq!(bench.ask_http2(call(100_000)).await.body().as_ref(), b"100000", "it may be as long");
}
