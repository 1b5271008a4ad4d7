// SPDX-License-Identifier: Apache-2.0
//! New tunnels to the server's ztunnel: how many per second, and what they cost it, with full handshakes and with resumed
//! ones. A pod outside the mesh, beside the client, opens them itself under its own certificate, so that no ztunnel on the
//! client's side pools them.

mod http2;
mod trust;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::future::try_join_all;
use lab::{
    Pod,
    envoy::{self, Certified, HBONE},
};
use rustls::{ClientConfig, HandshakeKind, client::Resumption};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    cost,
    load::Tools,
    place::Configuration,
    report::Figure,
    web::{END_OF_ANSWER, HTTP},
};
use crate::step::say;
use http2::{Incoming, Said};

/// Threads that open tunnels, and how many tunnels each opens at a time.
const THREADS: usize = 2;
const AT_ONCE: usize = 8;
/// The longest that one tunnel may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Sessions that are kept, of each name some; every task has a name of its own.
const SESSIONS: usize = 256;
/// For the few frames of one tunnel.
const ROOM: usize = 1024;
/// nginx closes after its answer, so that the tunnel ends from both sides.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n";

/// The pod that opens tunnels, and where to.
pub(super) struct Opener {
    pod: Pod,
    tunnel: SocketAddr,
    target: SocketAddr,
}

impl Opener {
    /// Starts its pod.
    pub(super) async fn start(place: &Configuration) -> Result<Self> {
        let name = format!("{}-opener", place.name);
        let pod = place.cluster.node("a").pod(&name).service_account("opener").start().await?;
        // It closes first, so its ports would stay taken for a minute.
        pod.namespace().write_sysctls(&[("net/ipv4/tcp_tw_reuse", "1")])?;
        let [tunnel, target] = [HBONE, HTTP].map(|port| SocketAddr::new(place.server.v4(), port));
        Ok(Self { pod, tunnel, target })
    }

    /// Tunnels with full handshakes; then resumed ones, where the server lets sessions be resumed.
    pub(super) async fn measure(&self, place: &Configuration, tools: &Tools) -> Result<Vec<(Figure, f64)>> {
        let duration = Duration::from_secs(tools.seconds);
        // Each time: a certificate lives for an hour, all rounds together may take longer.
        let certified = envoy::certify(&place.cluster, &self.pod, &place.folder_of("opener")?).await?;
        let full = self.opening(&certified, Resumption::disabled())?;
        let opened = self.cost(&full, place, duration).await?;
        ensure!(opened.resumed == 0, "{} resumed what it was not asked to", place.name);
        let mut figures =
            vec![(Figure::FullTunnels, opened.rate), (Figure::FullTunnelsCpu, opened.processor)];
        let resumed = self.opening(&certified, Resumption::in_memory_sessions(SESSIONS))?;
        let probing = resumed.clone();
        if self.pod.run(async move || probing.resumes().await).await? {
            let opened = self.cost(&resumed, place, duration).await?;
            let (resumed, all) = (opened.resumed, opened.all);
            if resumed * 10 < all * 9 {
                say(format!("   {}: only {resumed} of {all} tunnels were resumed", place.name));
                return Ok(figures);
            }
            figures.push((Figure::ResumedTunnels, opened.rate));
            figures.push((Figure::ResumedTunnelsCpu, opened.processor));
        }
        Ok(figures)
    }

    fn opening(&self, certified: &Certified, sessions: Resumption) -> Result<Opening> {
        let config = trust::config(certified, sessions)?;
        Ok(Opening { config, tunnel: self.tunnel, connect: http2::connect(&self.target.to_string()).into() })
    }

    /// Opens tunnels for so long.
    async fn cost(&self, opening: &Opening, place: &Configuration, duration: Duration) -> Result<Opened> {
        let server = *place.proxies()?.last().context("no proxy at the server")?;
        let before = cost::processor(&[server])?;
        let begun = Instant::now();
        let threads = (0..THREADS).map(|thread| {
            let opening = opening.clone();
            self.pod.run(async move || opening.many(thread, begun + duration).await)
        });
        let counts =
            try_join_all(threads).await.with_context(|| format!("tunnels of {}", place.name))?.concat();
        let took = begun.elapsed().as_secs_f64();
        let used = cost::processor(&[server])? - before;
        let all: u32 = counts.iter().map(|count| count.all).sum();
        ensure!(all > 0, "{}: no tunnel within {duration:?}", place.name);
        Ok(Opened {
            all,
            resumed: counts.iter().map(|count| count.resumed).sum(),
            rate: f64::from(all) / took,
            processor: used.as_secs_f64() * 1e6 / f64::from(all),
        })
    }
}

/// How many there were.
#[derive(Clone, Copy, Default)]
struct Count {
    all: u32,
    resumed: u32,
}

/// What they came to: per second, and milliseconds of the server's ztunnel for a thousand.
struct Opened {
    all: u32,
    resumed: u32,
    rate: f64,
    processor: f64,
}

/// How a tunnel is opened.
#[derive(Clone)]
struct Opening {
    config: Arc<ClientConfig>,
    tunnel: SocketAddr,
    /// The first bytes in it.
    connect: Arc<[u8]>,
}

impl Opening {
    /// Some at a time until the time is over.
    async fn many(&self, thread: usize, until: Instant) -> Result<Vec<Count>> {
        try_join_all((0..AT_ONCE).map(|task| self.after_another((thread, task), until))).await
    }

    /// One after another, under a name of its own: sessions are kept by name, and no other task takes its away.
    async fn after_another(&self, (thread, task): (usize, usize), until: Instant) -> Result<Count> {
        let name = ServerName::try_from(format!("task-{thread}-{task}.bench"))?;
        let mut count = Count::default();
        while Instant::now() < until {
            count.resumed += u32::from(self.one(&name).await?);
            count.all += 1;
        }
        Ok(count)
    }

    /// Whether the second of two is resumed.
    async fn resumes(&self) -> Result<bool> {
        let name = ServerName::try_from("probe.bench")?;
        self.one(&name).await?;
        self.one(&name).await
    }

    /// One tunnel with one request, within its time; whether its session was resumed.
    async fn one(&self, name: &ServerName<'static>) -> Result<bool> {
        timeout(LIMIT, self.exchange(name)).await.with_context(|| format!("no answer within {LIMIT:?}"))?
    }

    async fn exchange(&self, name: &ServerName<'static>) -> Result<bool> {
        let stream = TcpStream::connect(self.tunnel).await.context("connecting")?;
        stream.set_nodelay(true)?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        let mut stream = connector.connect(name.clone(), stream).await.context("the handshake")?;
        let (_, session) = stream.get_ref();
        ensure!(session.alpn_protocol() == Some(trust::ALPN), "the server does not speak HTTP/2");
        let resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut incoming = Incoming(Vec::with_capacity(ROOM));
        send(&mut stream, &self.connect).await?;
        let said = said(&mut stream, &mut incoming).await?;
        ensure!(said == Said::Open, "the tunnel is not open: {said:?}");
        send(&mut stream, &http2::send(REQUEST)).await?;
        answer(&mut stream, &mut incoming).await?;
        send(&mut stream, &http2::close()).await?;
        stream.shutdown().await.context("closing")?;
        Ok(resumed)
    }
}

/// The whole answer, to the tunnel's end.
async fn answer(stream: &mut TlsStream<TcpStream>, incoming: &mut Incoming) -> Result<()> {
    let mut answer = Vec::new();
    loop {
        match said(stream, incoming).await? {
            Said::Bytes(bytes, last) => {
                answer.extend(bytes);
                if last {
                    let whole = answer.ends_with(END_OF_ANSWER.as_bytes());
                    ensure!(whole, "not the answer: {}", answer.escape_ascii());
                    return Ok(());
                }
            }
            other @ (Said::Open | Said::Refused(..)) => bail!("no answer but {other:?}"),
        }
    }
}

async fn said(stream: &mut TlsStream<TcpStream>, incoming: &mut Incoming) -> Result<Said> {
    loop {
        if let Some(said) = incoming.next() {
            return Ok(said);
        }
        let count = stream.read_buf(&mut incoming.0).await.context("reading")?;
        ensure!(count > 0, "the connection was closed");
    }
}

async fn send(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).await.context("writing")?;
    stream.flush().await.context("writing")
}
