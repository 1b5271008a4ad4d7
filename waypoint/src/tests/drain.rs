// SPDX-License-Identifier: Apache-2.0
//! A waypoint that is asked to end: its clients of HTTP/2 are told, what runs is finished, and nothing runs past the deadline.

use std::{
    future::poll_fn,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, client::SendRequest};
use http::{Request, Response};
use http_body_util::Full;
use mesh::service::AppProtocol;
use runtime::Tasks;
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::{
    shard::Shard,
    testing::{Answer, Bench, SOON, Wire},
};

/// A waypoint whose server answers as often as it is let, and what of the waypoint is drained: what it does for clients.
async fn waiting(variables: &[(&str, &str)]) -> (Bench, Tasks, Arc<Server>) {
    let mut bench = Bench::new(AppProtocol::Http2, variables);
    let clients = bench.tasks.group("clients");
    bench.shard = Shard::new(&bench.shard.waypoint, clients.clone(), bench.tasks.clone());
    let server = Arc::new(Server { asked: Semaphore::new(0), let_go: Semaphore::new(0) });
    let its = Arc::clone(&server);
    let answer: Answer = Arc::new(move |_request| {
        let its = Arc::clone(&its);
        Box::pin(async move {
            its.asked.add_permits(1);
            its.let_go.acquire().await.unwrap().forget();
            Response::new(Full::from("at last"))
        })
    });
    bench.server("one", AppProtocol::Http2, Wire::Http2, answer).await;
    (bench, clients, server)
}

/// A permit for each request that it was asked, and for each that it may answer.
struct Server {
    asked: Semaphore,
    let_go: Semaphore,
}

impl Server {
    async fn is_asked(&self) {
        timeout(SOON, self.asked.acquire()).await.expect("no request").unwrap().forget();
    }
}

/// A connection of HTTP/2, and word of its end.
async fn client(bench: &Bench) -> (SendRequest<Bytes>, oneshot::Receiver<()>) {
    let (requests, connection) = h2::client::handshake(bench.connect().await).await.unwrap();
    let (ended, end) = oneshot::channel();
    drop(bench.tasks.spawn("client", async move {
        // The tunnel below may end before the client's own word of the end is through.
        connection.await.unwrap_or_default();
        ended.send(()).unwrap_or_default();
    }));
    (requests, end)
}

fn ask(requests: &mut SendRequest<Bytes>) -> h2::client::ResponseFuture {
    requests.send_request(Request::get("http://web/").body(()).unwrap(), true).unwrap().0
}

/// Waits until a connection takes no more requests.
async fn told(requests: &mut SendRequest<Bytes>) -> h2::Error {
    let refused = async {
        loop {
            if let Err(error) = poll_fn(|cx| requests.poll_ready(cx)).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, refused).await.expect("nothing is told")
}

async fn text(mut body: RecvStream) -> Vec<u8> {
    let mut text = Vec::new();
    while let Some(piece) = body.data().await {
        text.extend(piece.unwrap());
    }
    text
}

#[tokio::test]
async fn a_client_of_http2_is_told_to_go_and_its_request_is_finished() {
    let (bench, clients, server) = waiting(&[]).await;
    let (mut requests, end) = client(&bench).await;
    let answer = ask(&mut requests);
    server.is_asked().await;
    let deadline = bench.shard.waypoint.config.proxy.drain;
    let draining = bench.tasks.spawn("drain", async move { clients.drain(deadline).await });
    let goaway = told(&mut requests).await;
    assert!(goaway.is_go_away() && goaway.is_remote(), "{goaway}");
    assert_eq!(goaway.reason(), Some(Reason::NO_ERROR));
    assert!(!draining.is_finished(), "a request runs");
    server.let_go.add_permits(1);
    let response = timeout(SOON, answer).await.expect("no answer").expect("it is finished");
    assert_eq!(timeout(SOON, text(response.into_body())).await.unwrap(), b"at last");
    // Nothing is left: the connection ends, long before the deadline.
    timeout(SOON, end).await.expect("it stays").unwrap();
    let drained = timeout(SOON, draining).await.expect("it is not over").unwrap();
    assert!(drained.forced.is_empty(), "{drained:?}");
}

#[tokio::test]
async fn a_request_that_takes_longer_than_the_deadline_is_cut_there() {
    let (bench, clients, server) = waiting(&[("CONNECTION_TERMINATION_DEADLINE", "500ms")]).await;
    let (mut requests, _end) = client(&bench).await;
    let answer = ask(&mut requests);
    server.is_asked().await;
    let deadline = bench.shard.waypoint.config.proxy.drain;
    assert_eq!(deadline, Duration::from_millis(500));
    let began = Instant::now();
    let draining = bench.tasks.spawn("drain", async move { clients.drain(deadline).await });
    let cut = timeout(SOON, answer).await.expect("it runs on").expect_err("nobody has answered");
    assert!(began.elapsed() >= deadline, "cut after {:?}: {cut}", began.elapsed());
    let drained = timeout(SOON, draining).await.expect("it is not over").unwrap();
    assert!(drained.forced.iter().any(|(name, _count)| *name == "request"), "{drained:?}");
}
