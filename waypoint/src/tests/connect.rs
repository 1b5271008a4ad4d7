// SPDX-License-Identifier: Apache-2.0
//! CONNECT: bytes both ways, to a server that speaks the client's version, and to no other.

use http::Method;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use super::*;

const WISH: &str = "CONNECT there:443 HTTP/1.1\r\nhost: there:443\r\n\r\n";

/// A head, up to its end and no further.
async fn head(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

async fn says(stream: &mut (impl AsyncRead + Unpin), expected: &str) {
    let mut heard = vec![0; expected.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), expected);
}

/// A large text, so that it takes more than one piece.
fn large() -> String {
    "0123456789".repeat(50_000)
}

/// What the server does of a connection that has become a pipe; the client does the opposite.
async fn serve_pipe(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    says(&mut stream, "a\nb").await;
    stream.write_all(large().as_bytes()).await.unwrap();
    says(&mut stream, "that is all").await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty(), "the client's end arrives");
    stream.write_all(b"bye").await.unwrap();
    stream.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_connect_by_http1_turns_the_connection_into_a_pipe() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http11).await;
    let server = async {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let asked = head(&mut stream).await;
        assert!(asked.starts_with("CONNECT there:443 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.to_ascii_lowercase().contains("\r\nhost: there:443\r\n"), "{asked}");
        // What comes with the answer is the pipe's already.
        stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\nwelcome").await.unwrap();
        serve_pipe(stream).await;
    };
    let client = async {
        let mut tunnel = bench.connect().await;
        tunnel.write_all(WISH.as_bytes()).await.unwrap();
        let answer = head(&mut tunnel).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        says(&mut tunnel, "welcome").await;
        tunnel.write_all(b"a\nb").await.unwrap();
        says(&mut tunnel, &large()).await;
        tunnel.write_all(b"that is all").await.unwrap();
        tunnel.shutdown().await.unwrap();
        let mut rest = Vec::new();
        tunnel.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"bye");
    };
    tokio::time::timeout(SOON, async { tokio::join!(server, client) }).await.unwrap();
}

#[tokio::test]
async fn a_connect_that_the_server_does_not_grant_is_an_answer_like_any_other() {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http11).await;
    let server = async {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 405 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        (head(&mut stream).await, stream)
    };
    let client = async {
        let mut tunnel = bench.connect().await;
        tunnel.write_all(WISH.as_bytes()).await.unwrap();
        let answer = head(&mut tunnel).await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
        says(&mut tunnel, "no").await;
        tunnel.write_all(b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tunnel
    };
    let both = async { tokio::join!(server, client) };
    let ((next, _stream), _tunnel) = tokio::time::timeout(SOON, both).await.unwrap();
    assert!(next.starts_with("GET /next "), "{next}");
}

#[tokio::test]
async fn the_answer_to_a_wish_that_is_refused_arrives_before_the_end() {
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    let wish = "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade, close\r\n\r\n";
    let mut tunnel = bench.connect().await;
    tunnel.write_all(wish.as_bytes()).await.unwrap();
    let mut back = Vec::new();
    let ended = tokio::time::timeout(SOON, tunnel.read_to_end(&mut back)).await.unwrap();
    let back = String::from_utf8_lossy(&back).into_owned();
    assert!(ended.is_ok() && back.starts_with("HTTP/1.1 200 ") && back.ends_with("/ 0"), "{ended:?}: {back}");
}

/// All of a stream of HTTP/2 up to `length` bytes.
async fn received(stream: &mut h2::RecvStream, length: usize) -> Bytes {
    let mut all = bytes::BytesMut::new();
    while all.len() < length {
        let piece = stream.data().await.unwrap().unwrap();
        stream.flow_control().release_capacity(piece.len()).unwrap();
        all.extend_from_slice(&piece);
    }
    all.freeze()
}

/// A server of HTTP/2 that grants one CONNECT and sends back what comes, to the end.
async fn granting(listener: TcpListener) {
    let (stream, _peer) = listener.accept().await.unwrap();
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    assert_eq!((request.method(), request.uri().to_string()), (&Method::CONNECT, "there:443".to_owned()));
    let mut body = request.into_body();
    let mut back = respond.send_response(Response::new(()), false).unwrap();
    let echo = async {
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            back.send_data(piece, false).unwrap();
        }
        back.send_data(Bytes::from("bye"), true).unwrap();
    };
    let drive = async { while connection.accept().await.is_some() {} };
    tokio::join!(echo, drive);
}

#[tokio::test]
async fn a_connect_by_http2_carries_bytes_both_ways() {
    let mut bench = Bench::new(AppProtocol::Http2, &[]);
    let listener = bench.listen("one", "web", AppProtocol::Http2).await;
    drop(bench.tasks.spawn("server", granting(listener)));
    let conversation = async {
        let (requests, connection) = h2::client::handshake(bench.connect().await).await.unwrap();
        drop(bench.tasks.spawn("client", async move { connection.await.unwrap_or_default() }));
        let mut requests = requests.ready().await.unwrap();
        let wish = Request::connect("there:443").body(()).unwrap();
        let (answer, mut send) = requests.send_request(wish, false).unwrap();
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(!requests.is_extended_connect_protocol_enabled(), "RFC 8441 is not offered");
        let mut back = answer.into_body();
        for said in ["ping".to_owned(), large()] {
            send.send_data(Bytes::from(said.clone()), false).unwrap();
            assert_eq!(received(&mut back, said.len()).await, said);
        }
        send.send_data(Bytes::new(), true).unwrap();
        assert_eq!(received(&mut back, 3).await, "bye");
        assert!(back.data().await.is_none());
    };
    tokio::time::timeout(SOON, conversation).await.unwrap();
}

#[tokio::test]
async fn a_connect_to_a_server_of_the_other_version_is_refused() {
    let bench = web(Wire::Http2, AppProtocol::Http2).await;
    let back = bench.say(WISH.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n").as_bytes()).await;
    assert!(back.starts_with("HTTP/1.1 501 "), "{back}");
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    let wish = Request::connect("there:443").body(Full::default()).unwrap();
    assert_eq!(bench.ask_http2(wish).await.status(), StatusCode::NOT_IMPLEMENTED);
}
