// SPDX-License-Identifier: Apache-2.0
//! How many proxies may get their first answers at the same time. After a restart all come at once, each with the names
//! of all that it has or in need of all there is; a thousand times that must not be in memory together.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use super::catalogue::Catalogue;

/// The unit in which memory is given out.
const UNIT: usize = 64 << 10;

/// How long a proxy may take before the next one is let in beside it.
const TURN: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Gate {
    memory: Arc<Semaphore>,
    units: usize,
}

/// A turn; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Admission {
    /// When it ends in any case.
    pub(super) until: Instant,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Gate {
    /// With so many bytes to give out.
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self { memory: Arc::new(Semaphore::new(units)), units }
    }

    /// Waits for a catalogue that can be told and for a turn to tell it; whoever gives up loses its place. A mesh that is larger than the
    /// whole memory is told to one proxy at a time.
    pub(super) async fn admit(&self, catalogue: &Catalogue) -> Admission {
        catalogue.complete().await;
        // Twice: as resources, and as the bytes that go out.
        let needs = 2 * catalogue.read(|publisher| publisher.bytes()) / UNIT + 1;
        let units = u32::try_from(needs.min(self.units)).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let memory = Arc::clone(&self.memory).acquire_many_owned(units).await.ok();
        Admission { until: Instant::now() + TURN, _memory: memory }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::{arbitrary::plain_workload, kind::Kind};

    fn catalogue(workloads: u8) -> Catalogue {
        let catalogue = Catalogue::new();
        let workload = |number| plain_workload(&format!("w{number}"), &format!("10.0.0.{number}")).into();
        catalogue.replace(Kind::Address, (0..workloads).map(workload));
        for kind in [Kind::Route, Kind::Traffic, Kind::Guard, Kind::Authentication, Kind::Telemetry] {
            catalogue.replace(kind, []);
        }
        catalogue
    }

    #[test]
    fn nobody_is_let_in_before_there_is_something_to_tell() {
        let (gate, catalogue) = (Gate::new(1 << 20), catalogue(1));
        let mut waiting = Box::pin(gate.admit(&catalogue));
        assert!(waiting.as_mut().now_or_never().is_none());
        catalogue.replace(Kind::Authorization, []);
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn who_comes_too_many_waits_for_a_turn_to_end() {
        let (gate, catalogue) = (Gate::new(2 * UNIT), catalogue(10));
        catalogue.replace(Kind::Authorization, []);
        let mut turns: Vec<_> = (0..2).filter_map(|_| gate.admit(&catalogue).now_or_never()).collect();
        assert_eq!(turns.len(), 2);
        let mut waiting = Box::pin(gate.admit(&catalogue));
        assert!(waiting.as_mut().now_or_never().is_none());
        turns.pop();
        assert!(waiting.now_or_never().is_some());
    }

    #[test]
    fn a_mesh_larger_than_the_memory_is_told_to_one_at_a_time() {
        let (gate, catalogue) = (Gate::new(1), catalogue(200));
        catalogue.replace(Kind::Authorization, []);
        let turn = gate.admit(&catalogue).now_or_never();
        assert!(turn.is_some());
        assert!(gate.admit(&catalogue).now_or_never().is_none());
    }
}
