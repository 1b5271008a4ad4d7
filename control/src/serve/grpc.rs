// SPDX-License-Identifier: Apache-2.0
//! gRPC on the one accept loop: TCP, TLS, HTTP/2. It does not know which services there are.

use std::{future::Future, net::SocketAddr, time::Duration};

use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use runtime::{
    Tasks,
    accept::{self, AcceptError, Limits},
};
use tokio::net::{TcpListener, TcpStream};
use tonic::{
    service::Routes,
    transport::server::{Connected, TcpConnectInfo},
};
use tower::ServiceExt;

use super::{Serving, tls};

/// One connection per node and some in hand-over.
const LIMITS: Limits = Limits { name: "discovery", connections: 16_384 };
/// PING after so much silence, and how long the answer may take.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// A node proxy has two streams of discovery and some calls for certificates.
const STREAMS: u32 = 256;
const HEADERS: u32 = 32 * 1024;

/// Serves until the group is asked to finish.
///
/// # Errors
/// When the listener is broken.
pub(crate) async fn serve(
    listener: TcpListener,
    tasks: &Tasks,
    serving: Serving,
    routes: Routes,
) -> Result<(), AcceptError> {
    accept::serve(listener, tasks, LIMITS, |stream, peer| {
        connection(stream, peer, serving.clone(), routes.clone(), tasks.clone())
    })
    .await
}

async fn connection(stream: TcpStream, peer: SocketAddr, serving: Serving, routes: Routes, tasks: Tasks) {
    // Small messages both ways: waiting to fill a segment only costs time.
    stream.set_nodelay(true).ok();
    let connected: TcpConnectInfo = stream.connect_info();
    let shutdown = tasks.shutdown();
    let Some(stream) = tls::accept(stream, peer, serving.config(), &shutdown).await else { return };
    let service = routes.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(connected.clone());
        request
    });
    let mut builder = http2::Builder::new(Streams(tasks.clone()));
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS);
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = shutdown.requested() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection failed");
    }
}

/// Runs each call as a task of the group.
#[derive(Clone)]
struct Streams(Tasks);

impl<F: Future<Output: Send + 'static> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, future: F) {
        drop(self.0.spawn("call", future));
    }
}
