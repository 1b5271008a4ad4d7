// SPDX-License-Identifier: Apache-2.0
//! The servers: HTTP/1.1 that says whom it saw or asks somebody else, TCP that echoes, TCP that speaks first.

mod ask;
mod health;

use std::{
    collections::BTreeMap, convert::Infallible, net::Ipv6Addr, net::SocketAddr, sync::Arc, time::Duration,
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use clap::Args;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use lab::echo::{self, Echo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    signal::unix::{SignalKind, signal},
    sync::{Notify, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Connections that are served at the same time, over all ports.
const CONNECTIONS: usize = 16_384;
/// Connections that may wait on each port: where more come at once the kernel answers by cookies, and resets a few of those
/// that come back.
const WAITING: u32 = 4096;
/// How long after SIGTERM a connection that was not asked anything yet is waited for.
const FIRST: Duration = Duration::from_secs(1);

/// Serves until SIGTERM, then finishes what is open.
#[derive(Args, Clone)]
pub(crate) struct Serve {
    /// Name that every answer carries.
    #[arg(long)]
    name: String,
    /// Port of HTTP/1.1.
    #[arg(long, default_value_t = echo::HTTP)]
    http: u16,
    /// Port that sends back what it receives.
    #[arg(long, default_value_t = echo::TCP)]
    tcp: u16,
    /// Port that speaks first.
    #[arg(long, default_value_t = echo::BANNER)]
    banner: u16,
    /// Port of gRPC's health service.
    #[arg(long, default_value_t = echo::GRPC)]
    grpc: u16,
    /// Wait so long before every HTTP answer.
    #[arg(long, default_value_t = 0)]
    delay_ms: u64,
    /// Accept connections only to close them.
    #[arg(long)]
    close: bool,
    /// How long open connections may take to end after SIGTERM.
    #[arg(long, default_value_t = 5_000)]
    drain_ms: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Http,
    Tcp,
    Banner,
    Grpc,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<()> {
        let (stop, stopped) = watch::channel(false);
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let drain = Duration::from_millis(self.drain_ms);
        let serve = Arc::new(self);
        let mut ports = JoinSet::new();
        for (kind, port) in [
            (Kind::Tcp, serve.tcp),
            (Kind::Banner, serve.banner),
            (Kind::Grpc, serve.grpc),
            (Kind::Http, serve.http),
        ] {
            let listener = listen(port).with_context(|| format!("listening on port {port}"))?;
            ports.spawn(accept(listener, kind, Arc::clone(&serve), Arc::clone(&room), stopped.clone()));
        }
        signal(SignalKind::terminate())?.recv().await;
        // Receivers are the ports above; there is no other.
        stop.send_replace(true);
        // What is still open after that is cut off by the end of the process.
        drop(timeout(drain, ports.join_all()).await);
        Ok(())
    }
}

/// A listener on all addresses.
fn listen(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v6()?;
    // Connections of an earlier program that are not forgotten yet do not keep this one away.
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    Ok(socket.listen(WAITING)?)
}

async fn accept(
    listener: TcpListener,
    kind: Kind,
    serve: Arc<Serve>,
    room: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                // Out of descriptors, most likely: give connections a moment to end.
                Err(_) => { sleep(Duration::from_millis(10)).await; continue }
            },
            Some(_ended) = connections.join_next() => continue,
            _ = stopped.changed() => break,
        };
        take((stream, peer), kind, &serve, (&room, &stopped), &mut connections);
    }
    // What the kernel has accepted already is answered too: its end would be a reset.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, peer)) = listener.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                take((stream, peer), kind, &serve, (&room, &stopped), &mut connections);
            }
        }
    }
    connections.join_all().await;
}

fn take(
    (stream, peer): (TcpStream, SocketAddr),
    kind: Kind,
    serve: &Arc<Serve>,
    (room, stopped): (&Arc<Semaphore>, &watch::Receiver<bool>),
    connections: &mut JoinSet<()>,
) {
    let Ok(permit) = Arc::clone(room).try_acquire_owned() else { return };
    if serve.close {
        return;
    }
    let (serve, stopped) = (Arc::clone(serve), stopped.clone());
    connections.spawn(async move {
        // The client sees a connection that broke; there is nobody else to tell.
        drop(connection(stream, peer, kind, &serve, stopped).await);
        drop(permit);
    });
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    kind: Kind,
    serve: &Arc<Serve>,
    stopped: watch::Receiver<bool>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    match kind {
        Kind::Http => http(stream, peer, serve, stopped).await,
        Kind::Tcp => back(stream).await,
        Kind::Grpc => health::serve(stream).await,
        Kind::Banner => {
            let mut stream = stream;
            stream.write_all(format!("{}\n", serve.name).as_bytes()).await?;
            back(stream).await
        }
    }
}

/// Sends back what comes, up to the peer's half-close and with one's own after it.
async fn back(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(stream.shutdown().await?);
        }
        stream.write_all(buffer.get(..length).unwrap_or_default()).await?;
    }
}

async fn http(
    stream: TcpStream,
    peer: SocketAddr,
    serve: &Arc<Serve>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    let local = canonical(stream.local_addr()?);
    let peer = canonical(peer);
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        answer(Arc::clone(serve), request, peer, local)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new());
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        _ = stopped.wait_for(|stopped| *stopped) => {}
    }
    // Who has just connected gets an answer, as its request is on the way.
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = asked.notified() => {}
        () = sleep(FIRST) => {}
    }
    connection.as_mut().graceful_shutdown();
    Ok(connection.await?)
}

async fn answer(
    serve: Arc<Serve>,
    request: Request<Incoming>,
    peer: SocketAddr,
    local: SocketAddr,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let received = body.collect().await.map_or(0, |body| body.to_bytes().len());
    if serve.delay_ms > 0 {
        sleep(Duration::from_millis(serve.delay_ms)).await;
    }
    let host =
        head.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
    let path = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    if let Some(whom) = ask::whom(&path) {
        return Ok(ask::ask(&head, whom).await);
    }
    let method = head.method.to_string();
    let shown = |(name, value): (&http::HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers =
        if path.starts_with("/headers") { head.headers.iter().map(shown).collect() } else { BTreeMap::new() };
    let echo = Echo { name: serve.name.clone(), peer, local, method, path, host, received, headers };
    let mut response = Response::new(Full::from(serde_json::to_vec(&echo).unwrap_or_default()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
