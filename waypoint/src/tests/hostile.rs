// SPDX-License-Identifier: Apache-2.0
//! What clients may not do, and that it is counted: once each, and nothing else.

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use super::*;

/// What was counted in this thread so far, by kind.
fn attacks(counted: &PrometheusHandle) -> Vec<(String, u64)> {
    let text = counted.render();
    let mut all: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix("ambit_attacks_total{kind=\"")?.split_once("\"} "))
        .map(|(kind, count)| (kind.to_owned(), count.parse().unwrap()))
        .collect();
    all.sort();
    all
}

/// Waits until all of this is counted, and sees that nothing else is.
async fn counted(handle: &PrometheusHandle, expected: &[(&str, u64)]) {
    let expected: Vec<_> = expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    let same = async {
        while attacks(handle) != expected {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(SOON, same).await.is_err() {
        assert_eq!(attacks(handle), expected);
    }
}

#[tokio::test]
async fn heads_that_are_too_large_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = web(Wire::Http1, AppProtocol::Http11).await;
    let many: String = (0..2000).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = "y".repeat(200_000);
    for (number, (head, status)) in [
        (format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n"), "431"),
        (format!("GET / HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), "431"),
    ]
    .into_iter()
    .enumerate()
    {
        let back = bench.say(head.as_bytes()).await;
        assert_eq!(back.get(9..12), Some(status), "{}", &head[..30]);
        counted(&recorder.handle(), &[("head_too_large", number as u64 + 1)]).await;
    }
    let back = bench.say(b"GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n").await;
    assert_eq!(back.get(9..12), Some("400"));
    counted(&recorder.handle(), &[("head_too_large", 3), ("space_in_field_name", 1)]).await;
}

#[tokio::test]
async fn a_head_that_does_not_end_is_counted_and_a_connection_that_rests_is_not() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    // The second head below has to begin before the connection has rested for too long.
    let variables = [("AMBIT_HEADER_TIMEOUT", "200ms"), ("AMBIT_IDLE_TIMEOUT", "1s")];
    let mut bench = Bench::new(AppProtocol::Http11, &variables);
    bench.server("one", AppProtocol::Http11, Wire::Http1, named("one")).await;
    let request = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let back = bench.say(request.as_bytes()).await;
    assert!(back.starts_with("HTTP/1.1 200"), "{back}");
    let mut tunnel = bench.connect().await;
    tunnel.write_all(request.as_bytes()).await.unwrap();
    let mut back = vec![0; 12];
    tunnel.read_exact(&mut back).await.unwrap();
    tunnel.write_all(b"GET / HT").await.unwrap();
    tokio::time::timeout(SOON, tunnel.read_to_end(&mut back)).await.unwrap().unwrap_or_default();
    counted(&recorder.handle(), &[("slow_head", 1)]).await;
}

#[tokio::test]
async fn heads_of_http2_that_are_too_large_are_counted_whoever_refuses_them() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let bench = web(Wire::Http2, AppProtocol::Http2).await;
    let post = |fields: usize, length: usize| {
        let value = "v".repeat(length);
        let request = Request::post("http://web/");
        let request = (0..fields).fold(request, |made, _| made.header("x", &value));
        request.body(Full::from("12345")).unwrap()
    };
    assert_eq!(bench.ask_http2(post(1, 10_000)).await.status(), StatusCode::OK);
    for (number, (fields, length)) in [(1, 70_000), (7, 10_000)].into_iter().enumerate() {
        let response = bench.ask_http2(post(fields, length)).await;
        assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "{fields} of {length}");
        counted(&recorder.handle(), &[("head_too_large", number as u64 + 1)]).await;
    }
    for _ in 0..50 {
        bench.ask_http2(post(0, 0)).await;
    }
    counted(&recorder.handle(), &[("head_too_large", 2)]).await;
    let mut open = bench.connect().await;
    open.write_all(&repeating(40)).await.unwrap();
    counted(&recorder.handle(), &[("head_too_large", 3)]).await;
    bench.say(&repeating(100)).await;
    counted(&recorder.handle(), &[("head_too_large", 3), ("too_much_at_once", 1)]).await;
}

/// A client of HTTP/2 that sends one head, in which a byte stands for a field of 4 kB, and that again and again.
fn repeating(times: usize) -> Vec<u8> {
    let get = [0x82, 0x86, 0x84, 0x41, 1, b'x'];
    // `x` with a value of 4000 bytes, to be kept (RFC 7541 §6.2.1).
    let field = [0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    let block = [&get[..], &field, &[b'v'; 4000], &vec![0xbe; times]].concat();
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    let head = [0, length[0], length[1], 1, 5, 0, 0, 0, 1];
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &[0, 0, 0, 4, 0, 0, 0, 0, 0], &head, &block].concat()
}

#[tokio::test]
async fn trailers_of_http2_that_are_too_large_end_the_connection_and_are_counted() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let whole = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&whole);
    let mut bench = Bench::new(AppProtocol::Http2, &[]);
    let counting = answer(move |_request| {
        seen.fetch_add(1, Ordering::Relaxed);
        Response::new(Full::default())
    });
    bench.server("one", AppProtocol::Http2, Wire::Http2, counting).await;
    for (length, is_taken) in [(10_000, true), (20_000, false), (400_000, false)] {
        let connection = TokioIo::new(bench.connect().await);
        let (mut sender, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), connection).await.unwrap();
        drop(bench.tasks.spawn("client", async move { driver.await.unwrap_or_default() }));
        let value = http::HeaderValue::from_str(&"v".repeat(length)).unwrap();
        let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("x"), value)]);
        let body = Full::<Bytes>::from("12345").with_trailers(std::future::ready(Some(Ok(trailers))));
        let request = Request::post("http://web/").body(body).unwrap();
        let sent = tokio::time::timeout(SOON, sender.send_request(request)).await.unwrap();
        assert_eq!(sent.is_ok(), is_taken, "{length}: {sent:?}");
    }
    assert_eq!(whole.load(Ordering::Relaxed), 1, "the server sees none of them whole");
    counted(&recorder.handle(), &[("trailers", 2)]).await;
}
