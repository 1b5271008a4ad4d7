// SPDX-License-Identifier: Apache-2.0
//! Sends spans away from requests: each provider has a bounded queue and a task that sends what is in it. What a queue
//! cannot take is dropped and counted; no request ever waits.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::proxy::chain;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use mesh::telemetry::{Provider, SpanWire};
use parking_lot::RwLock;
use proto::otlp::trace_service_client::TraceServiceClient;
use runtime::Tasks;
use tokio::{net::TcpStream, sync::mpsc, time::Instant};
use tonic::transport::{Channel, Endpoint};

use super::{Sender, Span, otlp, zipkin};

/// Requests whose spans wait for one provider.
const WAITING: usize = 2048;
/// Spans of one message.
const BATCH: usize = 512;
/// A span waits no longer for others.
const PAUSE: Duration = Duration::from_secs(1);
/// A message that is not taken by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a message is sent.
const ATTEMPTS: u32 = 3;
/// After a failure, doubled each time up to the longest.
const BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
/// For what is left when the process ends.
const LAST: Duration = Duration::from_millis(400);
/// Providers at a time.
const PROVIDERS: usize = 64;

/// See the module.
#[derive(Debug)]
pub struct Exporters {
    sender: Arc<Sender>,
    tasks: OnceLock<Tasks>,
    queues: RwLock<HashMap<Arc<Provider>, mpsc::Sender<Vec<Span>>>>,
}

impl Exporters {
    /// None yet.
    pub fn new(sender: Sender) -> Self {
        Self { sender: Arc::new(sender), tasks: OnceLock::new(), queues: RwLock::default() }
    }

    /// From here on spans are sent, by tasks of this group.
    pub fn start(&self, tasks: &Tasks) {
        self.tasks.get_or_init(|| tasks.clone());
    }

    /// Takes the spans of a request, if there is room.
    pub fn offer(&self, provider: &Arc<Provider>, spans: Vec<Span>) {
        let queue = self.queues.read().get(provider).cloned();
        let Some(queue) = queue.or_else(|| self.open(provider)) else {
            dropped("no exporter", spans.len());
            return;
        };
        match queue.try_send(spans) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(spans)) => dropped("queue full", spans.len()),
            Err(mpsc::error::TrySendError::Closed(spans)) => dropped("ended", spans.len()),
        }
    }

    fn open(&self, provider: &Arc<Provider>) -> Option<mpsc::Sender<Vec<Span>>> {
        let tasks = self.tasks.get()?;
        let mut queues = self.queues.write();
        if let Some(queue) = queues.get(provider) {
            return Some(queue.clone());
        }
        if queues.len() >= PROVIDERS {
            return None;
        }
        let (queue, waiting) = mpsc::channel(WAITING);
        queues.insert(Arc::clone(provider), queue.clone());
        let task =
            Exporter { sender: Arc::clone(&self.sender), provider: Arc::clone(provider), channel: None };
        drop(tasks.spawn("spans", task.run(waiting, tasks.shutdown())));
        Some(queue)
    }

    /// Providers that are no longer named anywhere get what waits for them, and no more.
    pub fn retain(&self, is_named: impl Fn(&Provider) -> bool) {
        self.queues.write().retain(|provider, _queue| is_named(provider));
    }
}

fn dropped(reason: &'static str, spans: usize) {
    metrics::counter!("ambit_spans_dropped_total", "reason" => reason).increment(spans as u64);
}

/// What sends to one provider.
struct Exporter {
    sender: Arc<Sender>,
    provider: Arc<Provider>,
    channel: Option<Channel>,
}

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("no answer within {PATIENCE:?}")]
    Late,
    #[error("the connection failed")]
    Http(#[from] hyper::Error),
    #[error("no such address")]
    Address(#[from] http::Error),
    #[error("answered {0}")]
    Refused(StatusCode),
    #[error("no connection")]
    Transport(#[from] tonic::transport::Error),
    #[error("refused: {}", .0.message())]
    Grpc(Box<tonic::Status>),
}

impl SendError {
    /// Whether it makes sense to say the same once more.
    fn may_pass(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Late | Self::Http(_) | Self::Transport(_) => true,
            Self::Address(_) => false,
            Self::Refused(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Grpc(status) => matches!(
                status.code(),
                tonic::Code::Unavailable | tonic::Code::ResourceExhausted | tonic::Code::DeadlineExceeded
            ),
        }
    }
}

impl Exporter {
    async fn run(mut self, mut waiting: mpsc::Receiver<Vec<Span>>, shutdown: runtime::tasks::Shutdown) {
        let mut failures = 0_u32;
        let mut batch = Vec::new();
        loop {
            let open = tokio::select! {
                open = gather(&mut batch, &mut waiting) => open,
                () = shutdown.requested() => break,
            };
            if !batch.is_empty() {
                tokio::select! {
                    sent = self.send(&batch, &mut failures) => count(sent, batch.len()),
                    () = shutdown.requested() => break,
                }
                batch.clear();
            }
            if !open {
                return;
            }
        }
        self.last(batch, waiting).await;
    }

    /// What is left is sent once.
    async fn last(mut self, mut batch: Vec<Span>, mut waiting: mpsc::Receiver<Vec<Span>>) {
        waiting.close();
        while let Ok(spans) = waiting.try_recv() {
            batch.extend(spans);
        }
        if !batch.is_empty() {
            let sent = tokio::time::timeout(LAST, self.once(&batch)).await;
            count(sent.is_ok_and(|sent| sent.is_ok()), batch.len());
        }
    }

    async fn send(&mut self, batch: &[Span], failures: &mut u32) -> bool {
        for attempt in 1..=ATTEMPTS {
            match self.once(batch).await {
                Ok(()) => {
                    *failures = 0;
                    return true;
                }
                Err(error) => {
                    let known = *failures > 0;
                    *failures = failures.saturating_add(1);
                    let to = format!("{}:{}", self.provider.host, self.provider.port);
                    // One line when it begins; it is counted all the same.
                    if known {
                        tracing::debug!(%to, error = %chain(&error), "spans could not be sent");
                    } else {
                        tracing::warn!(%to, error = %chain(&error), "spans could not be sent");
                    }
                    if !error.may_pass() || attempt == ATTEMPTS {
                        return false;
                    }
                }
            }
            let wait = BACKOFF * 2_u32.saturating_pow((*failures - 1).min(16));
            tokio::time::sleep(wait.min(LONGEST_BACKOFF).mul_f64(rand::random_range(0.5..1.0))).await;
        }
        false
    }

    async fn once(&mut self, batch: &[Span]) -> Result<(), SendError> {
        let sending = async {
            match self.provider.wire {
                SpanWire::Otlp => self.otlp(batch).await,
                SpanWire::Zipkin => self.zipkin(batch).await,
            }
        };
        tokio::time::timeout(PATIENCE, sending).await.unwrap_or(Err(SendError::Late))
    }

    async fn otlp(&mut self, batch: &[Span]) -> Result<(), SendError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => {
                let to = Endpoint::from_shared(format!("http://{}", authority(&self.provider)))?;
                let channel = to.connect_timeout(PATIENCE).connect().await?;
                self.channel.insert(channel).clone()
            }
        };
        let request = otlp::request(&self.sender, batch);
        match TraceServiceClient::new(channel).export(request).await {
            Ok(answer) => {
                let rejected =
                    answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
                if rejected > 0 {
                    dropped("rejected", usize::try_from(rejected).unwrap_or_default());
                }
                Ok(())
            }
            Err(status) => {
                // Its name may lead elsewhere by now.
                self.channel = None;
                Err(SendError::Grpc(Box::new(status)))
            }
        }
    }

    async fn zipkin(&self, batch: &[Span]) -> Result<(), SendError> {
        let provider = &self.provider;
        let stream = TcpStream::connect((provider.host.as_str(), provider.port)).await;
        let stream = stream.map_err(SendError::Connect)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await?;
        let request = Request::post(provider.path.as_str())
            .header(header::HOST, authority(provider))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::CONNECTION, "close")
            .body(Full::from(zipkin::body(&self.sender, batch)))?;
        let exchange = async {
            let answer = sender.send_request(request).await?;
            let status = answer.status();
            answer.into_body().collect().await?;
            if status.is_success() { Ok(()) } else { Err(SendError::Refused(status)) }
        };
        tokio::pin!(exchange);
        tokio::select! {
            answered = &mut exchange => answered,
            ended = connection => {
                ended?;
                exchange.await
            }
        }
    }
}

fn authority(provider: &Provider) -> String {
    if provider.host.contains(':') {
        format!("[{}]:{}", provider.host, provider.port)
    } else {
        format!("{}:{}", provider.host, provider.port)
    }
}

fn count(sent: bool, spans: usize) {
    if sent {
        metrics::counter!("ambit_spans_sent_total").increment(spans as u64);
    } else {
        dropped("not sent", spans);
    }
}

/// Fills a batch: with the first spans, and what comes within a moment. Whether more may come. Cancel-safe.
async fn gather(batch: &mut Vec<Span>, waiting: &mut mpsc::Receiver<Vec<Span>>) -> bool {
    let Some(first) = waiting.recv().await else { return false };
    batch.extend(first);
    let until = Instant::now() + PAUSE;
    while batch.len() < BATCH {
        match tokio::time::timeout_at(until, waiting.recv()).await {
            Ok(Some(spans)) => batch.extend(spans),
            Ok(None) => return false,
            Err(_elapsed) => break,
        }
    }
    true
}
