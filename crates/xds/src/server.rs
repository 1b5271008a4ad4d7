// SPDX-License-Identifier: Apache-2.0
//! The server on gRPC: every stream is a `delta::Session` over one shared [`Catalogue`].
//!
//! A stream needs no task of its own: it is the response stream, driven by its connection. It decides neither what is in
//! the catalogue nor who may read it: `control` fills the one, an [`Authenticator`] says the other.

mod admission;
mod catalogue;
mod proxies;
mod scopes;
mod stream;

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::Stream as FutureStream;
use mesh::SpiffeId;
use proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use tokio::sync::{broadcast, watch};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use self::{admission::Gate, proxies::Proxies, stream::StreamState};
pub use self::{
    catalogue::Catalogue,
    proxies::{Proxy, Rejection},
    scopes::Scopes,
};
pub use crate::delta::{
    publisher::{Published, Update},
    scope::Scope,
};

/// Largest request taken: the names and versions that a proxy of a large mesh has when it comes back.
const LARGEST_REQUEST: usize = 64 << 20;

/// Rejections kept for a reader that is slow.
const REJECTIONS: usize = 256;

/// Says who calls.
pub trait Authenticator: Send + Sync + 'static {
    /// The identity of a caller by the headers of its stream, or why it is turned away. It sets its own deadline.
    fn authenticate(
        &self,
        headers: &MetadataMap,
        peer: Option<SocketAddr>,
    ) -> impl Future<Output = Result<SpiffeId, Status>> + Send;
}

/// How streams are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// A lone change is pushed at once; others within this time after a push are gathered.
    pub burst: Duration,
    /// How long a stream may last, so that proxies spread over the servers again; `None`: for ever. Each stream gets
    /// between half of it and all of it.
    pub longest_stream: Option<Duration>,
    /// How long a proxy may leave a response unanswered.
    pub answer_deadline: Duration,
    /// Memory for first answers that are under way, in bytes. When all proxies come at once, the others wait.
    pub first_answers: usize,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            burst: Duration::from_millis(100),
            longest_stream: None,
            answer_deadline: Duration::from_secs(120),
            first_answers: 512 << 20,
        }
    }
}

/// See the module. Cheap to clone; every clone is the same server.
#[derive(Debug)]
pub struct Server<A> {
    shared: Arc<Shared<A>>,
}

#[derive(Debug)]
struct Shared<A> {
    catalogue: Catalogue,
    authenticator: A,
    scopes: Scopes,
    settings: ServerSettings,
    gate: Gate,
    proxies: Proxies,
    rejections: broadcast::Sender<Rejection>,
    closing: watch::Sender<bool>,
}

impl<A: Authenticator> Server<A> {
    /// A server of a catalogue, which is for everybody.
    pub fn new(catalogue: Catalogue, authenticator: A, settings: ServerSettings) -> Self {
        Self::with_scopes(catalogue, authenticator, Scopes::default(), settings)
    }

    /// A server of a catalogue of which some proxies get a part.
    pub fn with_scopes(
        catalogue: Catalogue,
        authenticator: A,
        scopes: Scopes,
        settings: ServerSettings,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                catalogue,
                authenticator,
                scopes,
                settings,
                gate: Gate::new(settings.first_answers),
                proxies: Proxies::default(),
                rejections: broadcast::Sender::new(REJECTIONS),
                closing: watch::Sender::new(false),
            }),
        }
    }

    /// The service, to be added to a `tonic` router.
    pub fn service(&self) -> AggregatedDiscoveryServiceServer<Self> {
        AggregatedDiscoveryServiceServer::new(self.clone()).max_decoding_message_size(LARGEST_REQUEST)
    }

    /// The proxies that are connected now, oldest first.
    pub fn proxies(&self) -> Vec<Proxy> {
        self.shared.proxies.all()
    }

    /// What proxies refuse from now on. A reader that falls behind loses the oldest; [`Self::proxies`] still has them.
    pub fn rejections(&self) -> broadcast::Receiver<Rejection> {
        self.shared.rejections.subscribe()
    }

    /// Ends all streams cleanly, and new ones as they come: proxies go to another server or come back.
    pub fn close(&self) {
        self.shared.closing.send_replace(true);
    }
}

impl<A> Clone for Server<A> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

#[tonic::async_trait]
impl<A: Authenticator> AggregatedDiscoveryService for Server<A> {
    type DeltaAggregatedResourcesStream =
        Pin<Box<dyn FutureStream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let peer = request.remote_addr();
        let caller = self.shared.authenticator.authenticate(request.metadata(), peer).await?;
        let state = StreamState::new(Arc::clone(&self.shared), request.into_inner(), caller, peer);
        let responses = futures_util::stream::unfold(state, |mut state| async move {
            let response = state.next().await?;
            Some((response, state))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}
