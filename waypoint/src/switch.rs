// SPDX-License-Identifier: Apache-2.0
//! A client that wishes to go on in another protocol (`upgrade`), or without one (CONNECT): when the server grants it,
//! bytes are carried from there on.

use std::sync::Arc;

use hbone::{Plain, Socket, copy};
use http::{Method, Request, Response, StatusCode, header::UPGRADE, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use crate::{body::Body, headers::Upgrade, open::Carried, shard::Shard, waypoint::Waypoint};

/// See the module.
#[derive(Debug)]
pub struct Switch {
    client: OnUpgrade,
}

/// Whether a request may be one.
pub fn is_wished(head: &request::Parts) -> bool {
    head.method == Method::CONNECT || head.headers.contains_key(UPGRADE)
}

impl Switch {
    /// Of a request by HTTP/1.1.
    pub fn of(request: &mut Request<Body>) -> Self {
        Self { client: hyper::upgrade::on(request) }
    }

    /// Says what the answer keeps of the switch, if the server grants it; then bytes are carried.
    pub fn follow(
        self,
        shard: &Shard,
        carried: Carried,
        method: &Method,
        response: &mut Response<Body>,
    ) -> Option<Upgrade> {
        let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let granted = switched || (*method == Method::CONNECT && response.status().is_success());
        if !granted {
            return None;
        }
        let server = hyper::upgrade::on(&mut *response);
        let client = self.client;
        let waypoint = Arc::clone(&shard.waypoint);
        drop(shard.tasks.spawn("upgrade", async move {
            match tokio::try_join!(client, server) {
                Ok((near, far)) => carry(&waypoint, carried, near, far).await,
                Err(error) => tracing::debug!(%error, "a switch of protocols did not come about"),
            }
        }));
        let upgrade = response.headers().get(UPGRADE).filter(|_| switched);
        upgrade.cloned().map(Upgrade)
    }
}

async fn carry(waypoint: &Waypoint, carried: Carried, near: Upgraded, far: Upgraded) {
    let socket = |stream| Socket::new(Plain(TokioIo::new(stream)));
    let (_entered, abort) = waypoint.carry(carried);
    let copied = copy(socket(near), socket(far), Arc::default(), abort).await;
    metrics::counter!("ambit_upgraded_bytes_total").increment(copied.sent + copied.received);
}
