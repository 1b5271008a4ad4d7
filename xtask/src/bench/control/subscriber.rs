// SPDX-License-Identifier: Apache-2.0
//! A node proxy as a control plane sees one: a delta ADS stream that wants every Address and Authorization, acknowledges
//! all of it, and notes what came when, and how many bytes. It understands nothing, so that its own work is small.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::{
    core::Node,
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
        aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
    },
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

/// What is subscribed to.
pub(super) const KINDS: [&str; 2] = [proto::AUTHORIZATION, proto::ADDRESS];
/// How many subscribers there are.
pub(super) const SUBSCRIBERS: usize = 10;
/// Changes on their way to whoever waits for them; a reader that is slower ends the run.
const QUEUE: usize = 1 << 18;
/// Flow control does not stand in the way of either server.
const WINDOW: u32 = 4 << 20;
const LONGEST_MESSAGE: usize = 200 << 20;
/// A first push is over when nothing new has come for so long.
const QUIET: Duration = Duration::from_millis(1500);
const DEADLINE: Duration = Duration::from_secs(60);

/// Where a control plane listens and what it wants to see.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Without it, no TLS.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) token: Option<String>,
}

/// A resource, or its removal, has come to one subscriber.
pub(super) struct Arrival {
    pub(super) subscriber: usize,
    pub(super) at: Instant,
    pub(super) name: String,
    /// None: removed.
    pub(super) body: Option<Vec<u8>>,
}

/// Resources by kind and name.
pub(super) type Snapshot = [HashMap<String, Vec<u8>>; 2];

#[derive(Default)]
struct Seen {
    names: [std::collections::HashSet<String>; 2],
    answered: [bool; 2],
    /// When a resource came that was not there before.
    grew: Option<Instant>,
    messages: u64,
}

struct Subscriber {
    seen: Mutex<Seen>,
    bytes: Arc<AtomicU64>,
    /// Only one of them keeps what it gets.
    kept: Option<Mutex<Snapshot>>,
}

/// Ten subscribers that are connected. Dropping it ends their streams.
pub(super) struct Subscribers {
    all: Vec<Arc<Subscriber>>,
    arrivals: mpsc::Receiver<Arrival>,
    tasks: JoinSet<Result<()>>,
}

/// What a first push came to.
pub(super) struct Pushed {
    pub(super) took: Duration,
    /// To each, in the mean.
    pub(super) bytes: f64,
    pub(super) resources: [usize; 2],
}

impl Subscribers {
    /// Connects all at once and waits until each has everything.
    pub(super) async fn connect(target: &Target) -> Result<(Self, Pushed)> {
        let (sender, arrivals) = mpsc::channel(QUEUE);
        let mut subscribers = Self { all: Vec::new(), arrivals, tasks: JoinSet::new() };
        let started = Instant::now();
        for number in 0..SUBSCRIBERS {
            let kept = (number == 0).then(Mutex::default);
            let subscriber = Arc::new(Subscriber { seen: Mutex::default(), bytes: Arc::default(), kept });
            subscribers.all.push(Arc::clone(&subscriber));
            subscribers.tasks.spawn(follow(target.clone(), number, subscriber, sender.clone()));
        }
        let full = subscribers.full(started).await?;
        let resources = subscribers.counts().pop().unwrap_or_default();
        let bytes = subscribers.bytes();
        Ok((subscribers, Pushed { took: full - started, bytes, resources }))
    }

    /// When the last of them got the last that it did not have.
    async fn full(&mut self, started: Instant) -> Result<Instant> {
        loop {
            self.check()?;
            let last = self.all.iter().map(|subscriber| {
                let seen = subscriber.seen.lock();
                seen.grew.filter(|_| seen.answered == [true; 2])
            });
            let last: Option<Vec<Instant>> = last.collect();
            let last = last.and_then(|all| all.into_iter().max());
            if let Some(last) = last.filter(|last| last.elapsed() > QUIET) {
                let counts = self.counts();
                ensure!(
                    counts.iter().all(|count| Some(count) == counts.first()),
                    "some have more than others: {counts:?}"
                );
                return Ok(last);
            }
            ensure!(started.elapsed() < DEADLINE, "no full push within {DEADLINE:?}: {:?}", self.counts());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many resources of each kind each has.
    fn counts(&self) -> Vec<[usize; 2]> {
        let count = |subscriber: &Arc<Subscriber>| {
            let seen = subscriber.seen.lock();
            [seen.names[0].len(), seen.names[1].len()]
        };
        self.all.iter().map(count).collect()
    }

    /// Bytes that each has read from its connection, in the mean.
    pub(super) fn bytes(&self) -> f64 {
        let all = self.all.iter().map(|subscriber| subscriber.bytes.load(Ordering::Relaxed));
        all.sum::<u64>() as f64 / SUBSCRIBERS as f64
    }

    /// Messages that each has got, in the mean.
    pub(super) fn messages(&self) -> f64 {
        let all = self.all.iter().map(|subscriber| subscriber.seen.lock().messages);
        all.sum::<u64>() as f64 / SUBSCRIBERS as f64
    }

    /// What one of them has now.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.all
            .iter()
            .find_map(|subscriber| Some(subscriber.kept.as_ref()?.lock().clone()))
            .unwrap_or_default()
    }

    /// Forgets what came and nobody waited for.
    pub(super) fn forget(&mut self) {
        while self.arrivals.try_recv().is_ok() {}
    }

    /// The next that comes.
    pub(super) async fn next(&mut self, deadline: Duration) -> Result<Arrival> {
        let next = tokio::time::timeout(deadline, self.arrivals.recv()).await;
        match next {
            Ok(Some(arrival)) => Ok(arrival),
            Ok(None) | Err(_) => {
                self.check()?;
                bail!("nothing has come within {deadline:?}")
            }
        }
    }

    /// Whether all are still connected.
    fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            Some(ended) => ended.context("a subscriber")?.context("a subscriber"),
            None => Ok(()),
        }
    }
}

async fn follow(
    target: Target,
    number: usize,
    subscriber: Arc<Subscriber>,
    arrivals: mpsc::Sender<Arrival>,
) -> Result<()> {
    let channel = connect(&target, &subscriber.bytes).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LONGEST_MESSAGE);
    let (requests, outgoing) = mpsc::channel(64);
    for kind in KINDS {
        requests
            .send(DeltaDiscoveryRequest {
                type_url: kind.to_owned(),
                node: Some(node(number)),
                ..Default::default()
            })
            .await?;
    }
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = &target.token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    let mut responses = client.delta_aggregated_resources(request).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let at = Instant::now();
        let DeltaDiscoveryResponse { resources, type_url, nonce, removed_resources, .. } = response;
        let kind =
            KINDS.iter().position(|kind| *kind == type_url).with_context(|| format!("type {type_url}"))?;
        let answer = DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        requests.send(answer).await?;
        let come = subscriber.take(kind, at, resources, &removed_resources);
        let gone = removed_resources.into_iter().map(|name| (name, None));
        for (name, body) in come.into_iter().chain(gone) {
            ensure!(
                arrivals.try_send(Arrival { subscriber: number, at, name, body }).is_ok(),
                "nobody reads what came"
            );
        }
    }
    bail!("the stream has ended")
}

impl Subscriber {
    /// Notes a response; what of it was not the first answer is returned, as somebody may wait for it.
    fn take(
        &self,
        kind: usize,
        at: Instant,
        resources: Vec<Resource>,
        removed: &[String],
    ) -> Vec<(String, Option<Vec<u8>>)> {
        let mut seen = self.seen.lock();
        seen.messages += 1;
        let first = !std::mem::replace(&mut seen.answered[kind], true);
        let (mut come, mut grew) = (Vec::new(), first);
        for Resource { name, resource, .. } in resources {
            let body = resource.map(|resource| resource.value).unwrap_or_default();
            if let Some(kept) = &self.kept {
                kept.lock()[kind].insert(name.clone(), body.clone());
            }
            if !first {
                come.push((name.clone(), Some(body)));
            }
            grew |= seen.names[kind].insert(name);
        }
        for name in removed {
            seen.names[kind].remove(name);
            if let Some(kept) = &self.kept {
                kept.lock()[kind].remove(name);
            }
        }
        if grew {
            seen.grew = Some(at);
        }
        come
    }
}

fn node(number: usize) -> Node {
    let id = format!(
        "ztunnel~192.168.77.{}~ztunnel-{number}.istio-system~istio-system.svc.cluster.local",
        number + 1
    );
    Node { id, ..Default::default() }
}

async fn connect(target: &Target, bytes: &Arc<AtomicU64>) -> Result<Channel> {
    let (target, bytes) = (target.clone(), Arc::clone(bytes));
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let (target, bytes) = (target.clone(), Arc::clone(&bytes));
        async move {
            let stream = TcpStream::connect(target.address).await?;
            stream.set_nodelay(true)?;
            let counted = Counted { stream, bytes };
            let stream: Pin<Box<dyn Stream>> = match target.tls {
                None => Box::pin(counted),
                Some(config) => {
                    let name = ServerName::IpAddress(target.address.ip().into());
                    Box::pin(TlsConnector::from(config).connect(name, counted).await?)
                }
            };
            io::Result::Ok(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://discovery.internal")
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW);
    endpoint.connect_with_connector(connector).await.context("connecting to the control plane")
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}

/// A connection of which the bytes that are read are counted.
struct Counted {
    stream: TcpStream,
    bytes: Arc<AtomicU64>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.bytes.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
