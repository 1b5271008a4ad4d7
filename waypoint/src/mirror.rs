// SPDX-License-Identifier: Apache-2.0
//! Copies of requests, whose answers nobody waits for. A copy never holds the original up: if its server is slow the copy is
//! given up.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, request};
use http_body_util::BodyExt as _;
use hyper::body::Body as _;
use plan::waypoint::Target;
use tokio::sync::mpsc;

use crate::{
    body::Body,
    exchange::Exchange,
    keys::key,
    link::Link,
    pick::{self, Aim, pick},
    pools::Wire,
    shard::Shard,
    upstream,
};

/// Pieces of a body that may wait for a copy's server.
const WAITING: usize = 64;
/// A copy takes no longer.
const LONGEST: Duration = Duration::from_secs(60);

/// A piece of a body that is copied.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Bytes.
    Some(Bytes),
    /// The end, in order. Without it, the copy was given up.
    End,
}

/// Sends copies of a request, as its body passes.
pub fn copies(
    shard: &Arc<Shard>,
    exchange: &Exchange,
    targets: Vec<Target>,
    wire: Wire,
    (head, body): (&request::Parts, &mut Body),
) {
    for target in targets {
        let traffic = pick::traffic(shard, &target);
        let aim = Aim {
            target,
            asked: exchange.asked,
            source: exchange.link.peer,
            seed: exchange.seed,
            key: traffic.as_ref().and_then(|traffic| key(traffic, exchange.link.peer, head)),
            session: None,
            traffic,
            failed: HashSet::new(),
        };
        let copy = if body.is_end_stream() {
            Body::default()
        } else {
            let (pieces, received) = mpsc::channel(WAITING);
            body.copy_to(pieces);
            Body::copied(received)
        };
        let request = Request::from_parts(head.clone(), copy);
        let (shard, link) = (Arc::clone(shard), Arc::clone(&exchange.link));
        let tasks = shard.tasks.clone();
        drop(tasks.spawn("mirror", async move {
            let sent =
                tokio::time::timeout(LONGEST, Box::pin(send(&shard, &link, &aim, wire, request))).await;
            let outcome = if sent == Ok(true) { "answered" } else { "failed" };
            metrics::counter!("ambit_mirrored_requests_total", "outcome" => outcome).increment(1);
        }));
    }
}

async fn send(shard: &Arc<Shard>, link: &Link, aim: &Aim, wire: Wire, request: Request<Body>) -> bool {
    let hop = match pick(shard, aim).await {
        Ok(hop) => hop,
        Err(failure) => {
            tracing::debug!(error = %failure, "a copy went nowhere");
            return false;
        }
    };
    match upstream::send(shard, link, &hop, wire, request).await {
        Ok((response, lease)) => {
            let mut body = response.into_body();
            let mut clean = true;
            while let Some(frame) = body.frame().await {
                clean &= frame.is_ok();
            }
            lease.give_back(clean);
            clean
        }
        Err(refused) => {
            tracing::debug!(error = %refused.fault, "a copy was not answered");
            false
        }
    }
}
