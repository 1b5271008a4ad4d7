// SPDX-License-Identifier: Apache-2.0
//! The client on gRPC: one stream at a time, again and again, into a [`Writer`].
//!
//! What arrives is judged by `delta::Subscriber`; this sends, receives and waits. It reads no files and no
//! environment and knows no TLS: connections and tokens come from the caller's closures, asked anew for every stream.

mod backoff;
mod config;
mod demand;
mod stats;
mod stream;

use std::{future::Future, sync::Arc};

use proto::core::Node;

use self::{
    backoff::Backoff,
    demand::Requests,
    stream::{Ended, Stream},
};
pub use self::{
    config::{BoxError, ChannelSource, ClientConfig, InvalidHeader, TokenSource},
    demand::{Demand, Unanswered},
    stats::{Stats, Termination},
    stream::StreamError,
};
use crate::{delta::Subscriber, kind::Kind, replica::Writer};

/// See the module.
#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    subscriber: Subscriber,
    writer: Writer,
    stats: Arc<Stats>,
    requests: Requests,
    demand: Demand,
}

impl Client {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// When a header cannot be used.
    pub fn new(config: ClientConfig, writer: Writer) -> Result<Self, InvalidHeader> {
        config.fixed_headers()?;
        let node =
            Node { id: config.node_id.clone(), cluster: String::new(), metadata: Some(config.metadata()) };
        let of = if config.on_demand { Subscriber::on_demand } else { Subscriber::new };
        let subscriber = of(node, config.kinds);
        let (demand, requests) = demand::channel(config.on_demand);
        let mut client = Self { subscriber, config, writer, stats: Arc::default(), requests, demand };
        for kind in Kind::ALL.into_iter().filter(|kind| client.subscriber.is_synced(*kind)) {
            client.writer.mark_synced(kind);
        }
        Ok(client)
    }

    /// Counters, for `istio_xds_*`.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.stats)
    }

    /// A handle to ask for single workloads and services; of use when the configuration says on demand.
    pub fn demand(&self) -> Demand {
        self.demand.clone()
    }

    /// Keeps a stream open until `stop`. While there is none, the last state stays in force.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let mut backoff = Backoff::new();
        loop {
            let stream = Stream {
                config: &self.config,
                subscriber: &mut self.subscriber,
                writer: &mut self.writer,
                stats: &self.stats,
                requests: &mut self.requests,
                answers: 0,
            };
            let ended = tokio::select! {
                () = &mut stop => return,
                ended = stream.run() => ended,
            };
            self.stats.terminated(ended.reason());
            let wait = backoff.after(&ended);
            report(&ended, wait);
            tokio::select! {
                () = &mut stop => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

fn report(ended: &Ended, wait: std::time::Duration) {
    let error = ended.error.as_ref().map(|error| error as &dyn std::error::Error);
    let (reason, retry) = (ended.reason().as_str(), wait);
    match ended.reason() {
        Termination::Complete | Termination::Reconnect => {
            tracing::debug!(reason, error, ?retry, "discovery stream ended");
        }
        Termination::ConnectionError | Termination::Error => {
            tracing::warn!(reason, error, ?retry, "discovery stream failed");
        }
    }
}
