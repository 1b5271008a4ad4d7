// SPDX-License-Identifier: Apache-2.0
//! gRPC through a waypoint, with tonic at both ends: calls of every kind, trailers, deadlines, cancellation.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use ::http::{Request, Response, Uri, uri::PathAndQuery};
use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{Stream, StreamExt as _, future::BoxFuture, stream};
use hyper_util::rt::TokioIo;
use lab::{Pod, eventually};
use parking_lot::Mutex;
use tokio::{task::JoinSet, time::timeout};
use tonic::{
    Code, Status, Streaming,
    body::Body,
    metadata::MetadataValue,
    server::{Grpc, NamedService, StreamingService, UnaryService},
    transport::{Channel, Endpoint, Server},
};
use tonic_prost::ProstCodec;

use super::Behind;
use crate::scene::{SOON, Scenario, Scene, scenarios};

const PORT: u16 = 7072;
const DEADLINE: &str = "grpc-timeout";

pub(super) fn all() -> Vec<Scenario> {
    scenarios![
        a_call_is_answered_with_its_trailers,
        a_call_that_fails_keeps_its_status_and_its_words,
        messages_stream_both_ways_at_once,
        a_call_that_is_given_up_ends_at_the_server,
        a_deadline_reaches_the_server_and_ends_the_call_at_both_ends,
        calls_are_counted_by_their_status,
    ]
}

#[derive(Clone, PartialEq, prost::Message)]
struct Note {
    #[prost(string, tag = "1")]
    text: String,
}

fn note(text: &str) -> Note {
    Note { text: text.to_owned() }
}

/// The server: `lab.Notes`.
#[derive(Clone, Default)]
struct Notes {
    /// Calls that wait for ever and have not been given up.
    waiting: Arc<AtomicUsize>,
    /// What calls said of how long they may take (`grpc-timeout`).
    deadlines: Arc<Mutex<Vec<String>>>,
}

impl NamedService for Notes {
    const NAME: &'static str = "lab.Notes";
}

struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Unary(Notes);

impl UnaryService<Note> for Unary {
    type Response = Note;
    type Future = BoxFuture<'static, Result<tonic::Response<Note>, Status>>;

    fn call(&mut self, request: tonic::Request<Note>) -> Self::Future {
        let waiting = Arc::clone(&self.0.waiting);
        Box::pin(async move {
            let text = request.into_inner().text;
            match text.as_str() {
                "fail" => {
                    let mut status = Status::failed_precondition("not like this");
                    status.metadata_mut().insert("x-why", MetadataValue::from_static("because"));
                    Err(status)
                }
                "wait" => {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    let _waiting = Waiting(waiting);
                    std::future::pending().await
                }
                _ => Ok(tonic::Response::new(Note { text })),
            }
        })
    }
}

struct Echoing;

impl StreamingService<Note> for Echoing {
    type Response = Note;
    type ResponseStream = Pin<Box<dyn Stream<Item = Result<Note, Status>> + Send>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<Note>>) -> Self::Future {
        let notes = request.into_inner();
        Box::pin(async move { Ok(tonic::Response::new(notes.boxed() as Self::ResponseStream)) })
    }
}

impl tower::Service<Request<Body>> for Notes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let notes = self.clone();
        let deadline = request.headers().get(DEADLINE).and_then(|value| value.to_str().ok());
        notes.deadlines.lock().extend(deadline.map(str::to_owned));
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Note, Note>::default());
            Ok(match request.uri().path() {
                "/lab.Notes/Stream" => grpc.streaming(Echoing, request).await,
                _ => grpc.unary(Unary(notes), request).await,
            })
        })
    }
}

/// A server of notes behind a waypoint, and a channel to it.
struct Calling {
    behind: Behind,
    notes: Notes,
    channel: Channel,
    _server: JoinSet<Result<()>>,
}

impl Calling {
    async fn begin(scene: &Scene) -> Result<Self> {
        let behind = Behind::begin(scene, PORT, "grpc").await?;
        let notes = Notes::default();
        let listener = behind.server.listen(PORT).await?;
        let incoming = stream::unfold(listener, |listener| async {
            let accepted = listener.accept().await.map(|(stream, _peer)| stream);
            Some((accepted, listener))
        });
        let mut server = JoinSet::new();
        let served = notes.clone();
        server.spawn(async move {
            Ok(Server::builder().add_service(served).serve_with_incoming(Box::pin(incoming)).await?)
        });
        let channel = channel(&behind.client, behind.target()).await?;
        Ok(Self { behind, notes, channel, _server: server })
    }

    async fn unary(&self, text: &str) -> Result<tonic::Response<Note>, Status> {
        self.ask(tonic::Request::new(note(text))).await
    }

    async fn ask(&self, request: tonic::Request<Note>) -> Result<tonic::Response<Note>, Status> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = PathAndQuery::from_static("/lab.Notes/Unary");
        grpc.unary(request, path, ProstCodec::<Note, Note>::default()).await
    }
}

async fn channel(client: &Pod, target: std::net::SocketAddr) -> Result<Channel> {
    let client = client.clone();
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?;
    let connector = tower::service_fn(move |_uri: Uri| {
        let client = client.clone();
        async move {
            let stream = client.connect(target).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

async fn a_call_is_answered_with_its_trailers(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    for text in ["hello", ""] {
        let answer = timeout(SOON, calling.unary(text)).await.context("no answer")??;
        ensure!(answer.get_ref().text == text, "{answer:?}");
    }
    Ok(())
}

async fn a_call_that_fails_keeps_its_status_and_its_words(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    let status = calling.unary("fail").await.err().context("it does not fail")?;
    ensure!(status.code() == Code::FailedPrecondition && status.message() == "not like this", "{status:?}");
    ensure!(status.metadata().get("x-why").is_some_and(|why| why == "because"), "{status:?}");
    Ok(())
}

async fn messages_stream_both_ways_at_once(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    let mut grpc = tonic::client::Grpc::new(calling.channel.clone());
    grpc.ready().await?;
    let (notes, sent) = tokio::sync::mpsc::channel::<Note>(1);
    let outgoing = stream::unfold(sent, |mut sent| async { sent.recv().await.map(|note| (note, sent)) });
    let path = PathAndQuery::from_static("/lab.Notes/Stream");
    let request = tonic::Request::new(outgoing);
    let mut back = grpc.streaming(request, path, ProstCodec::<Note, Note>::default()).await?.into_inner();
    // Each is answered before the next one is sent.
    for number in 0..100 {
        let text = format!("note {number}");
        notes.send(note(&text)).await?;
        let answer = timeout(SOON, back.message()).await.context("no answer")??;
        ensure!(answer.is_some_and(|answer| answer.text == text), "{text}");
    }
    drop(notes);
    ensure!(timeout(SOON, back.message()).await.context("no end")??.is_none(), "more than was sent");
    ensure!(back.trailers().await?.is_some(), "no trailers");
    Ok(())
}

async fn a_call_that_is_given_up_ends_at_the_server(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    let waiting = || calling.notes.waiting.load(Ordering::Relaxed);
    let begun = eventually(SOON, "the call at the server", async || {
        ensure!(waiting() == 1, "{} calls wait", waiting());
        Ok(())
    });
    // The call is given up when it is there.
    tokio::select! {
        answer = calling.unary("wait") => bail!("{answer:?}"),
        begun = begun => begun?,
    }
    eventually(SOON, "the server to be told", async || {
        ensure!(waiting() == 0, "{} calls still wait", waiting());
        Ok(())
    })
    .await?;
    let line = calling.behind.written(|access| access.field("flags") == "DC").await?;
    ensure!(line.field("path") == "/lab.Notes/Unary", "{}", line.line);
    Ok(())
}

async fn a_deadline_reaches_the_server_and_ends_the_call_at_both_ends(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    // What has to be set up is not of the time that the next call has.
    calling.unary("hello").await?;
    let mut request = tonic::Request::new(note("wait"));
    request.set_timeout(Duration::from_secs(2));
    let said = request.metadata().get(DEADLINE).context("no deadline is said")?.to_str()?.to_owned();
    let status =
        timeout(SOON * 2, calling.ask(request)).await.context("no end")?.err().context("it is answered")?;
    ensure!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
    eventually(SOON, "the call to end at the server", async || {
        let (deadlines, waiting) =
            (calling.notes.deadlines.lock().clone(), calling.notes.waiting.load(Ordering::Relaxed));
        ensure!(deadlines == [said.as_str()] && waiting == 0, "{deadlines:?}, {waiting} calls still wait");
        Ok(())
    })
    .await
}

async fn calls_are_counted_by_their_status(scene: Scene) -> Result<()> {
    let calling = Calling::begin(&scene).await?;
    calling.unary("hello").await?;
    ensure!(calling.unary("fail").await.is_err(), "it does not fail");
    let instance = calling.behind.instance()?;
    eventually(SOON, "both calls being counted", async || {
        let metrics = instance.metrics().await?;
        for status in ["0", "9"] {
            let labels = [("request_protocol", "grpc"), ("grpc_response_status", status)];
            ensure!(metrics.sum("istio_requests_total", &labels) == 1.0, "status {status}");
            ensure!(metrics.sum("istio_request_messages_total", &labels) == 1.0, "status {status}");
        }
        Ok(())
    })
    .await
}
