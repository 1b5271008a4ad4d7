// SPDX-License-Identifier: Apache-2.0
//! Carries the bytes of one connection and writes its record: the same for every way a connection can take.

use std::{sync::Arc, time::Instant};

use hbone::{Copied, Counters, End, Leg, Side, TunnelError, copy};
use mesh::authz::Subject;
use plan::{Failure, What};

use crate::{
    live::Flow,
    metrics::Reporter,
    pod::Shard,
    record::{Bytes, Facts, Open},
};

/// Counts the connection as open; the future copies until it ends, however it does. `near` is the client's side.
///
/// The future is what an idle connection is kept as, so it is made here, of nothing but what it needs: an `async fn` would
/// also keep its arguments.
pub fn relay<N: Leg, F: Leg>(
    shard: &Arc<Shard>,
    (facts, started): (Facts, Instant),
    subject: Option<Subject>,
    near: N,
    far: F,
) -> impl Future<Output = ()> + Send + use<N, F> {
    // It keeps its shard among those that are served, also once the listeners are closed: whoever asks about connections
    // again, or ends them, finds them by their shard.
    let shard = Arc::clone(shard);
    let counters = Arc::<Counters>::default();
    let (entered, abort) = shard.live.enter(Flow {
        reporter: facts.reporter,
        source: facts.source_address,
        destination: facts.destination_address,
        subject,
        counters: Arc::clone(&counters),
    });
    let open = Open::new(&shard.pod.node.metrics, facts, started);
    let mut copying = copy(near, far, counters, abort);
    async move {
        let copied = (&mut copying).await;
        drop(copying);
        let bytes = Bytes { sent: copied.sent, received: copied.received };
        let failure =
            entered.connection.failure().cloned().or_else(|| failure(open.facts().reporter, &copied));
        open.close(&shard.pod.node.metrics, bytes, failure.as_ref().map_or(Ok(()), Err), Instant::now());
    }
}

/// A side that breaks off is an end like another once it has had its say: applications reset connections every day.
fn failure(reporter: Reporter, copied: &Copied) -> Option<Failure> {
    match &copied.end {
        End::Finished => None,
        End::Aborted(cause) => Some(What::Io(cause.to_string()).into()),
        End::Failed { side, source } => {
            let cause = TunnelError::of(source).map_or_else(|| source.to_string(), ToString::to_string);
            let whose = match (reporter, side) {
                (Reporter::Source, Side::Near) => "client",
                (Reporter::Destination, Side::Far) => "application",
                (Reporter::Source, Side::Far) | (Reporter::Destination, Side::Near) => "peer",
            };
            Some(What::Io(format!("{whose}: {cause}")).into())
        }
    }
}
