// SPDX-License-Identifier: Apache-2.0
//! One stream, from the connection to its end.

use std::sync::Arc;

use arcstr::ArcStr;
use proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{
    config::{BoxError, ClientConfig},
    demand::Requests,
    stats::{Stats, Termination},
};
use crate::{
    delta::{
        Subscriber,
        subscriber::{Answer, Step},
    },
    kind::Kind,
    replica::Writer,
};

/// Largest response taken: a mesh of several hundred thousand workloads in one push.
const LARGEST_RESPONSE: usize = 200 << 20;

/// Requests on their way out: one answer per response, and names asked for.
const OUTGOING: usize = 64;

/// Why a stream ended, unless the server just ended it.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No connection.
    #[error("could not connect")]
    Dial(#[source] BoxError),
    /// No token, or one that no header can carry.
    #[error("no credentials for the stream")]
    Credentials(#[source] BoxError),
    /// The server did not open the stream.
    #[error("the stream was refused")]
    Refused(#[source] Box<Status>),
    /// The stream broke.
    #[error("the stream broke")]
    Broken(#[source] Box<Status>),
}

/// How a stream ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// `None`: the server ended it.
    pub(super) error: Option<StreamError>,
    /// Responses that were taken.
    pub(super) answers: u64,
}

impl Ended {
    /// Its reason.
    pub(super) fn reason(&self) -> Termination {
        match &self.error {
            None => Termination::Complete,
            Some(StreamError::Dial(_) | StreamError::Credentials(_)) => Termination::ConnectionError,
            Some(StreamError::Refused(status) | StreamError::Broken(status)) => match status.code() {
                // A connection that ends with GOAWAY or is just gone looks like one of these.
                Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Unavailable => {
                    Termination::Reconnect
                }
                _ => Termination::Error,
            },
        }
    }
}

/// See the module.
pub(super) struct Stream<'a> {
    pub(super) config: &'a ClientConfig,
    pub(super) subscriber: &'a mut Subscriber,
    pub(super) writer: &'a mut Writer,
    pub(super) stats: &'a Arc<Stats>,
    pub(super) requests: &'a mut Requests,
    pub(super) answers: u64,
}

impl Stream<'_> {
    pub(super) async fn run(mut self) -> Ended {
        let error = Box::pin(self.talk()).await.err();
        Ended { error, answers: self.answers }
    }

    async fn talk(&mut self) -> Result<(), StreamError> {
        let headers = self.config.stream_headers().map_err(StreamError::Credentials)?;
        let channel = (self.config.channel)().await.map_err(StreamError::Dial)?;
        let (outgoing, requests) = mpsc::channel(OUTGOING);
        for request in self.subscriber.connect() {
            // There is room: nothing else was sent yet.
            outgoing.send(request).await.ok();
        }
        let request = Request::from_parts(headers, tonic::Extensions::new(), ReceiverStream::new(requests));
        let mut client =
            AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(LARGEST_RESPONSE);
        let refused = |status| StreamError::Refused(Box::new(status));
        let mut responses = client.delta_aggregated_resources(request).await.map_err(refused)?.into_inner();
        self.stats.opened();
        loop {
            // Both arms are cancel safe: a message is taken whole or not at all.
            tokio::select! {
                response = responses.message() => {
                    match response.map_err(|status| StreamError::Broken(Box::new(status)))? {
                        Some(response) => self.take(response, &outgoing).await,
                        None => return Ok(()),
                    }
                }
                name = self.requests.next() => self.ask(&name, &outgoing).await,
            }
        }
    }

    async fn take(
        &mut self,
        response: DeltaDiscoveryResponse,
        outgoing: &mpsc::Sender<DeltaDiscoveryRequest>,
    ) {
        if let Some(kind) = Kind::of_type_url(&response.type_url) {
            let bodies = response.resources.iter().filter_map(|resource| resource.resource.as_ref());
            self.stats.received(kind, bodies.map(|body| body.value.len()).sum());
        }
        let mut delivery = self.subscriber.take(response);
        let answer = loop {
            match delivery.step() {
                Step::Apply(changes) => self.writer.apply(changes),
                Step::Answer(answer) => break answer,
            }
            // The runtime of the client has other things to do than a push of the whole mesh.
            tokio::task::yield_now().await;
        };
        self.settle(&answer);
        self.answers += 1;
        send(answer.request, outgoing).await;
    }

    fn settle(&mut self, answer: &Answer) {
        if let Some(kind) = answer.kind {
            if answer.synced {
                self.writer.mark_synced(kind);
                tracing::info!(%kind, resources = self.subscriber.len(kind), "discovery synced");
            }
            self.stats.refuse(kind, answer.refused.len());
        }
        for (name, reason) in answer.refused.iter().take(REPORTED) {
            tracing::warn!(%name, %reason, "resource refused");
        }
        for name in &answer.settled {
            self.requests.settle(name);
        }
    }

    async fn ask(&mut self, name: &ArcStr, outgoing: &mpsc::Sender<DeltaDiscoveryRequest>) {
        if let Some(request) = self.subscriber.want(name) {
            send(request, outgoing).await;
        }
    }
}

/// Refusals of one response that are logged one by one.
const REPORTED: usize = 16;

async fn send(request: DeltaDiscoveryRequest, outgoing: &mpsc::Sender<DeltaDiscoveryRequest>) {
    // When the stream is gone, reading from it says why.
    outgoing.send(request).await.ok();
}
