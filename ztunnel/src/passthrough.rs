// SPDX-License-Identifier: Apache-2.0
//! Captured plaintext connections to the applications (port 15006): policies are asked without an identity, and what
//! they let in reaches the application from the client's address.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use futures_util::{FutureExt as _, future::OptionFuture};
use hbone::Socket;
use plan::{
    Failure, Protocol,
    inbound::{self, Plain, Upstream},
};
use tokio::net::TcpStream;

use crate::{
    ask::{PATIENCE, ask_plain},
    deliver::deliver,
    metrics::{End, Reporter},
    pod::Shard,
    record::{self, Facts},
    relay::relay,
    socket::original_destination,
};

/// Serves one connection to its end.
pub fn handle(
    shard: Arc<Shard>,
    stream: TcpStream,
    source: SocketAddr,
) -> impl Future<Output = ()> + Send + 'static {
    // Boxed is what goes away once the connection is open.
    let opened = Box::pin(open(shard, stream, source)).map(OptionFuture::from);
    opened.flatten().map(|_over| ())
}

/// Until bytes flow: the future that carries them.
async fn open(
    shard: Arc<Shard>,
    stream: TcpStream,
    source: SocketAddr,
) -> Option<impl Future<Output = ()> + Send> {
    let started = Instant::now();
    let destination = original_destination(&stream, shard.pod.node.capture).ok()?;
    let in_use = shard.pod.sockets.ports().client(source);
    let plain = Plain { protocol: Protocol::TCP, source, destination };
    match admit(&shard, &plain).await {
        Ok((upstream, far, facts)) => {
            let (near, far) = (Socket::new(stream), Socket::new(far));
            let relayed = relay(&shard, (facts, started), Some(upstream.subject), near, far);
            Some(relayed.map(move |()| drop(in_use)))
        }
        Err((facts, failure)) => {
            if let Err(error) = stream.set_zero_linger() {
                tracing::debug!(%error, "could not make the close a reset");
            }
            record::failed(&shard.pod.node.metrics, &facts, &failure, started, Instant::now());
            None
        }
    }
}

async fn admit(shard: &Shard, plain: &Plain) -> Result<(Upstream, TcpStream, Facts), (Box<Facts>, Failure)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let decided = ask_plain(&shard.pod.node.replica, deadline, |index| {
        inbound::decide_plain(index, shard.pod.local(), plain)
    });
    match decided.await {
        Ok(Ok(upstream)) => {
            let facts = facts(plain, Some(&upstream));
            if let Some(verdict) = &upstream.judgement.dry_run {
                record::dry_run(&facts, verdict);
            }
            match deliver(shard, &upstream).await {
                Ok(stream) => Ok((upstream, stream, facts)),
                Err(failure) => Err((Box::new(facts), failure)),
            }
        }
        Ok(Err(failure)) | Err(failure) => Err((Box::new(facts(plain, None)), failure)),
    }
}

fn facts(plain: &Plain, upstream: Option<&Upstream>) -> Facts {
    Facts {
        reporter: Reporter::Destination,
        source: End {
            workload: upstream.and_then(|upstream| upstream.source.clone()),
            principal: None,
            ..End::default()
        },
        source_address: plain.source,
        destination: End {
            workload: upstream.map(|upstream| Arc::clone(&upstream.destination)),
            principal: None,
            ..End::default()
        },
        destination_address: plain.destination,
        authority: None,
        service: upstream.and_then(|upstream| upstream.service.clone()),
        mutual_tls: false,
    }
}
