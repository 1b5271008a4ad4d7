// SPDX-License-Identifier: Apache-2.0
//! Who looks at requests, and what is seen of them.

use http::Response as Answered;
use http_body_util::Full;
use mesh::service::AppProtocol;

use super::*;
use crate::testing::{Bench, SOON, Wire, answer as answering};

fn asked(query: &[(&str, &str)]) -> Request {
    let query = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Request { query: query.collect(), ..Request::default() }
}

async fn bench() -> Bench {
    let mut bench = Bench::new(AppProtocol::Http11, &[]);
    bench
        .server("one", AppProtocol::Http11, Wire::Http1, answering(|_request| Answered::new(Full::default())))
        .await;
    bench
}

async fn get(bench: &Bench, path: &str) {
    let request = http::Request::get(path).header("host", "web").header("authorization", "Bearer secret");
    bench.ask(request.body(Full::default()).unwrap()).await;
}

async fn next(streamed: &mut Streamed) -> Value {
    let piece = tokio::time::timeout(SOON, streamed.pieces.recv()).await.unwrap().unwrap();
    serde_json::from_slice(&piece).unwrap()
}

#[tokio::test]
async fn requests_that_fit_are_shown_as_they_end_and_secrets_are_not() {
    let bench = bench().await;
    let waypoint = &bench.shard.waypoint;
    let query = [("path", "/a"), ("source", "shop"), ("status", "2xx"), ("count", "2")];
    let mut streamed = answer(waypoint, &bench.tasks, &asked(&query)).unwrap();
    for path in ["/b", "/a/1", "/a/2", "/a/3"] {
        get(&bench, path).await;
    }
    for path in ["/a/1", "/a/2"] {
        let line = next(&mut streamed).await;
        assert_eq!((&line["path"], &line["status"]), (&path.into(), &200.into()));
        assert_eq!(line["destination"]["workload"], "one");
        assert_eq!(line["headers"]["host"], "web");
        assert_eq!(line["headers"]["authorization"], "[redacted]");
    }
    assert_eq!(next(&mut streamed).await["end"], "count");
    assert!(streamed.pieces.recv().await.is_none());
    tokio::time::timeout(SOON, async {
        while waypoint.taps.is_open() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_asks_for_bare_headers_gets_them_and_who_leaves_is_forgotten() {
    let bench = bench().await;
    let waypoint = &bench.shard.waypoint;
    let mut streamed = answer(waypoint, &bench.tasks, &asked(&[("headers", "all")])).unwrap();
    get(&bench, "/").await;
    assert_eq!(next(&mut streamed).await["headers"]["authorization"], "Bearer secret");
    drop(streamed);
    tokio::time::timeout(SOON, async {
        while waypoint.taps.is_open() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_slow_reader_misses_some_and_holds_up_nobody() {
    let bench = bench().await;
    let waypoint = &bench.shard.waypoint;
    let looking = asked(&[("count", "1000"), ("seconds", "3600")]);
    let _streamed = answer(waypoint, &bench.tasks, &looking).unwrap();
    for _ in 0..WAITING + 50 {
        get(&bench, "/").await;
    }
    let missed = waypoint.taps.all.read()[0].missed.load(Ordering::Relaxed);
    assert!(missed > 0, "nothing was missed");
}

#[tokio::test]
async fn nobody_looks_without_bounds() {
    let bench = bench().await;
    let waypoint = &bench.shard.waypoint;
    let open: Vec<_> = (0..TAPS).map(|_| answer(waypoint, &bench.tasks, &asked(&[])).unwrap()).collect();
    let refused = answer(waypoint, &bench.tasks, &asked(&[])).unwrap_err();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    drop(open);
    for wrong in [("count", "0"), ("seconds", "4000"), ("status", "6xx"), ("headers", "some"), ("what", "x")]
    {
        let refused = answer(waypoint, &bench.tasks, &asked(&[wrong])).unwrap_err();
        assert_eq!(refused.status(), StatusCode::BAD_REQUEST, "{wrong:?}");
    }
    assert_eq!((status("404"), status("5xx"), status("9")), (Some((404, 404)), Some((500, 599)), None));
}
