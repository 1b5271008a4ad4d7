// SPDX-License-Identifier: Apache-2.0
//! A node proxy as a control plane sees one: a delta ADS stream that wants every Address and Authorization, acknowledges
//! all of it, and notes what came when, and how many bytes. It reads nothing while a time is taken but what it must.

use std::{
    collections::{HashMap, HashSet, VecDeque},
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
use bytes::{Buf as _, Bytes};
use hyper_util::rt::TokioIo;
use prost::Message;
use proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};

/// What is subscribed to.
pub(super) const KINDS: [&str; 2] = [proto::AUTHORIZATION, proto::ADDRESS];
const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// How many subscribers there are.
pub(super) const SUBSCRIBERS: usize = 10;
/// Responses on their way to whoever reads them; a reader that is slower ends the run.
const QUEUE: usize = 1 << 16;
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

/// A response as it came.
struct Raw {
    subscriber: usize,
    at: Instant,
    message: Bytes,
}

/// What an acknowledgement needs of a response.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(string, tag = "4")]
    type_url: String,
    #[prost(string, tag = "5")]
    nonce: String,
}

/// What one subscriber has.
#[derive(Default)]
struct Seen {
    names: [HashSet<String>; 2],
    answered: [bool; 2],
    /// When a resource came that was not there before.
    grew: Option<Instant>,
    messages: u64,
    bytes: Arc<AtomicU64>,
}

/// Ten subscribers that are connected. Dropping it ends their streams.
pub(super) struct Subscribers {
    all: Vec<Seen>,
    /// What the first of them has.
    kept: Snapshot,
    raw: mpsc::Receiver<Raw>,
    /// Read and not asked for yet.
    read: VecDeque<Arrival>,
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
    /// Connects all at once and waits until each has everything. What comes is read only when no more comes: that must not
    /// take processor time from the server.
    pub(super) async fn connect(target: &Target) -> Result<(Self, Pushed)> {
        let (sender, raw) = mpsc::channel(QUEUE);
        let (all, kept, read) = (Vec::new(), Snapshot::default(), VecDeque::new());
        let mut subscribers = Self { all, kept, raw, read, tasks: JoinSet::new() };
        let started = Instant::now();
        for number in 0..SUBSCRIBERS {
            let seen = Seen::default();
            let bytes = Arc::clone(&seen.bytes);
            subscribers.all.push(seen);
            subscribers.tasks.spawn(follow(target.clone(), number, bytes, sender.clone()));
        }
        let mut come = Vec::new();
        while let Ok(raw) = timeout(QUIET, subscribers.raw.recv()).await {
            come.push(raw.context("all streams have ended")?);
            ensure!(started.elapsed() < DEADLINE, "no full push within {DEADLINE:?}");
        }
        subscribers.check()?;
        let bytes = subscribers.bytes();
        for raw in come {
            subscribers.take(raw)?;
        }
        let took = subscribers.full()? - started;
        let resources = subscribers.all.first().map(Seen::count).unwrap_or_default();
        Ok((subscribers, Pushed { took, bytes, resources }))
    }

    /// When the last of them got the last that it did not have.
    fn full(&self) -> Result<Instant> {
        let counts: Vec<[usize; 2]> = self.all.iter().map(Seen::count).collect();
        ensure!(self.all.iter().all(|seen| seen.answered == [true; 2]), "not all were answered: {counts:?}");
        ensure!(counts.iter().all(|count| Some(count) == counts.first()), "some have more: {counts:?}");
        self.all.iter().filter_map(|seen| seen.grew).max().context("nothing came")
    }

    /// Bytes that each has read from its connection, in the mean.
    pub(super) fn bytes(&self) -> f64 {
        let all = self.all.iter().map(|seen| seen.bytes.load(Ordering::Relaxed));
        all.sum::<u64>() as f64 / SUBSCRIBERS as f64
    }

    /// Messages that each has got, in the mean.
    pub(super) fn messages(&self) -> f64 {
        self.all.iter().map(|seen| seen.messages).sum::<u64>() as f64 / SUBSCRIBERS as f64
    }

    /// What one of them has now.
    pub(super) fn snapshot(&self) -> &Snapshot {
        &self.kept
    }

    /// Reads what came and nobody waited for.
    pub(super) fn forget(&mut self) -> Result<()> {
        while let Ok(raw) = self.raw.try_recv() {
            self.take(raw)?;
        }
        self.read.clear();
        Ok(())
    }

    /// The next that comes.
    pub(super) async fn next(&mut self, deadline: Duration) -> Result<Arrival> {
        loop {
            if let Some(arrival) = self.read.pop_front() {
                return Ok(arrival);
            }
            match timeout(deadline, self.raw.recv()).await {
                Ok(Some(raw)) => self.take(raw)?,
                Ok(None) | Err(_) => {
                    self.check()?;
                    bail!("nothing has come within {deadline:?}")
                }
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

    /// Reads a response. The first of a kind is what there was, nobody waits for that.
    fn take(&mut self, Raw { subscriber, at, message }: Raw) -> Result<()> {
        let message = DeltaDiscoveryResponse::decode(message).context("a response")?;
        let DeltaDiscoveryResponse { resources, type_url, removed_resources, .. } = message;
        let kind = KINDS.iter().position(|kind| *kind == type_url).with_context(|| type_url.clone())?;
        let seen = self.all.get_mut(subscriber).context("no such subscriber")?;
        seen.messages += 1;
        let first = !std::mem::replace(&mut seen.answered[kind], true);
        let mut grew = first;
        for Resource { name, resource, .. } in resources {
            let body = resource.map(|resource| resource.value).unwrap_or_default();
            grew |= seen.names[kind].insert(name.clone());
            if subscriber == 0 {
                self.kept[kind].insert(name.clone(), body.clone());
            }
            if !first {
                self.read.push_back(Arrival { subscriber, at, name, body: Some(body) });
            }
        }
        for name in removed_resources {
            seen.names[kind].remove(&name);
            if subscriber == 0 {
                self.kept[kind].remove(&name);
            }
            self.read.push_back(Arrival { subscriber, at, name, body: None });
        }
        if grew {
            seen.grew = Some(at);
        }
        Ok(())
    }
}

impl Seen {
    /// How many resources of each kind there are.
    fn count(&self) -> [usize; 2] {
        [0, 1].map(|kind: usize| self.names.get(kind).map_or(0, HashSet::len))
    }
}

async fn follow(target: Target, number: usize, bytes: Arc<AtomicU64>, come: mpsc::Sender<Raw>) -> Result<()> {
    let channel = connect(&target, &bytes).await?;
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(LONGEST_MESSAGE);
    client.ready().await.context("the connection")?;
    let (requests, outgoing) = mpsc::channel(64);
    for kind in KINDS {
        let (type_url, node) = (kind.to_owned(), Some(node(number)));
        requests.send(DeltaDiscoveryRequest { type_url, node, ..Default::default() }).await?;
    }
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = &target.token {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    let path = PathAndQuery::from_static(METHOD);
    let mut responses = client.streaming(request, path, Unread).await?.into_inner();
    while let Some(message) = responses.message().await? {
        let at = Instant::now();
        let Envelope { type_url, nonce } = Envelope::decode(message.clone()).context("a response")?;
        let answer = DeltaDiscoveryRequest { type_url, response_nonce: nonce, ..Default::default() };
        requests.send(answer).await?;
        ensure!(come.try_send(Raw { subscriber: number, at, message }).is_ok(), "nobody reads what came");
    }
    bail!("the stream has ended")
}

/// Requests are written, responses are left as they are.
#[derive(Clone, Copy)]
struct Unread;

impl Codec for Unread {
    type Encode = DeltaDiscoveryRequest;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Unread {
    type Item = DeltaDiscoveryRequest;
    type Error = Status;

    fn encode(&mut self, request: DeltaDiscoveryRequest, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        request.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Unread {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
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
